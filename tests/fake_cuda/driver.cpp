// libcuda.so.1: the driver calls that cudarc makes, with one pretended card whose memory is the
// heap and whose kernels are the CPU builds that registered themselves.
//
// FAKE_CUDA_TRACE=FILE adds a line to the file for each launch, products of matrices among them.
// FAKE_CUDA_POOLS=1 claims memory pools, which tell how much was in use at most. Without them, as
// on the oldest drivers, it is an error to allocate no bytes.
// FAKE_CUDA_IDLE=1 launches nothing.
#include <sys/mman.h>

#include <map>
#include <mutex>
#include <string>
#include <unordered_map>

#include "shim.h"

namespace shim {

Scheduler& scheduler() {
    static Scheduler* instance = new Scheduler;
    return *instance;
}

// Saves the callee-saved registers and the stack pointer in `*save`, and goes on at `to`.
extern "C" void shim_switch(void** save, void* to);
__asm__(
    ".text\n"
    ".globl shim_switch\n"
    "shim_switch:\n"
    " push %rbp\n push %rbx\n push %r12\n push %r13\n push %r14\n push %r15\n"
    " mov %rsp,(%rdi)\n"
    " mov %rsi,%rsp\n"
    " pop %r15\n pop %r14\n pop %r13\n pop %r12\n pop %rbx\n pop %rbp\n"
    " ret\n");

void park(State state) {
    Scheduler& s = scheduler();
    Fiber& fiber = s.fibers[s.current];
    fiber.state = state;
    shim_switch(&fiber.stack_pointer, s.stack_pointer);
}

// A fiber serves one CUDA thread after another and never returns.
static void fiber_main() {
    for (;;) {
        (*scheduler().body)();
        park(State::Done);
    }
}

static void give_stack(Fiber& fiber) {
    const size_t bytes = 128 << 10;
    fiber.stack = static_cast<char*>(
        mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    if (fiber.stack == MAP_FAILED) abort();
    // What shim_switch pops: six registers, then the address that it returns to.
    void** top = reinterpret_cast<void**>(fiber.stack + bytes - 64);
    *--top = nullptr;
    *--top = reinterpret_cast<void*>(fiber_main);
    for (int i = 0; i < 6; i++) *--top = nullptr;
    fiber.stack_pointer = top;
}

// Runs the fibers of one block until all are done.
static void run_block(int threads) {
    Scheduler& s = scheduler();
    for (int i = 0; i < threads; i++) s.fibers[i].state = State::Running;
    for (;;) {
        bool progress = false;
        for (int i = 0; i < threads; i++) {
            if (s.fibers[i].state != State::Running) continue;
            s.current = i;
            shim_switch(&s.stack_pointer, s.fibers[i].stack_pointer);
            progress = true;
        }
        // A warp goes on when every lane that is not done has arrived.
        for (int warp = 0; warp < threads; warp += 32) {
            const int end = std::min(warp + 32, threads);
            bool all = true, any = false;
            for (int i = warp; i < end; i++) {
                const State state = s.fibers[i].state;
                any |= state == State::AtWarp;
                all &= state == State::AtWarp || state == State::Done;
            }
            if (!all || !any) continue;
            for (int i = warp; i < end; i++)
                if (s.fibers[i].state == State::AtWarp) s.fibers[i].state = State::Running;
            progress = true;
        }
        bool done = true, all = true, any = false;
        for (int i = 0; i < threads; i++) {
            const State state = s.fibers[i].state;
            done &= state == State::Done;
            any |= state == State::AtBlock;
            all &= state == State::AtBlock || state == State::Done;
        }
        if (done) return;
        if (all && any) {
            for (int i = 0; i < threads; i++)
                if (s.fibers[i].state == State::AtBlock) s.fibers[i].state = State::Running;
            progress = true;
        }
        if (!progress) {
            fprintf(stderr, "fake cuda: the threads of a block wait at different barriers\n");
            abort();
        }
    }
}

void launch(dim3 grid, dim3 block, size_t shared_bytes, const std::function<void()>& body) {
    Scheduler& s = scheduler();
    s.grid = grid;
    s.block = block;
    s.body = &body;
    const int threads = block.x * block.y * block.z;
    std::vector<char> shared(shared_bytes + 64);
    s.dynamic_shared = reinterpret_cast<char*>(
        (reinterpret_cast<uintptr_t>(shared.data()) + 63) & ~uintptr_t{63});
    if (static_cast<int>(s.fibers.size()) < threads) s.fibers.resize(threads);
    for (unsigned i = 0; i < static_cast<unsigned>(threads); i++) {
        Fiber& fiber = s.fibers[i];
        if (!fiber.stack) give_stack(fiber);
        fiber.thread = {i % block.x, i / block.x % block.y, i / (block.x * block.y)};
    }
    for (unsigned z = 0; z < grid.z; z++)
        for (unsigned y = 0; y < grid.y; y++)
            for (unsigned x = 0; x < grid.x; x++) {
                s.block_index = {x, y, z};
                run_block(threads);
            }
}

struct Kernel {
    std::string name;
    void* function;
    Caller caller;
};

static std::map<std::string, Kernel>& kernels() {
    static auto* table = new std::map<std::string, Kernel>;
    return *table;
}

int add_kernel(const char* name, void* kernel, Caller caller) {
    // A card keeps modules apart; here they share their names.
    if (!kernels().emplace(name, Kernel{name, kernel, caller}).second) {
        fprintf(stderr, "fake cuda: two kernels are called %s\n", name);
        abort();
    }
    return 0;
}

static std::mutex launch_mutex;

}  // namespace shim

using Address = unsigned long long;
enum : int { Success = 0, InvalidValue = 1, OutOfMemory = 2, InvalidImage = 200, NotFound = 500 };
static constexpr size_t CardMemory = 8ull << 30;
static constexpr size_t Granule = 512;

static bool has_pools() {
    static const bool set = getenv("FAKE_CUDA_POOLS") != nullptr;
    return set;
}

// What the card's allocations take, in whole granules.
struct Memory {
    std::mutex mutex;
    std::unordered_map<Address, size_t> taken;
    size_t used = 0, most = 0;
};
static Memory& memory() {
    static auto* instance = new Memory;
    return *instance;
}

static int from_heap(Address* address, size_t bytes) {
#ifdef __SANITIZE_ADDRESS__
    // To the byte, so that the sanitizer sees the first one beyond.
    void* exact = nullptr;
    if (posix_memalign(&exact, 256, bytes) != 0) return OutOfMemory;
    *address = reinterpret_cast<Address>(exact);
#else
    *address = reinterpret_cast<Address>(aligned_alloc(256, (bytes + 511) & ~size_t{255}));
#endif
    return *address ? Success : OutOfMemory;
}
static void* pointer(Address address) { return reinterpret_cast<void*>(address); }

static int allocate(Address* address, size_t bytes) {
    if (bytes == 0 && !has_pools()) return InvalidValue;
    const size_t takes = (std::max<size_t>(bytes, 1) + Granule - 1) / Granule * Granule;
    Memory& m = memory();
    const std::lock_guard<std::mutex> lock(m.mutex);
    if (takes > CardMemory - m.used) return OutOfMemory;
    const int status = from_heap(address, std::max<size_t>(bytes, 1));
    if (status != Success) return status;
    if (shim::idle()) memset(pointer(*address), 0, bytes);
    m.taken[*address] = takes;
    m.used += takes;
    m.most = std::max(m.most, m.used);
    return Success;
}
static int release(Address address) {
    Memory& m = memory();
    const std::lock_guard<std::mutex> lock(m.mutex);
    const auto found = m.taken.find(address);
    if (found == m.taken.end()) return InvalidValue;
    m.used -= found->second;
    m.taken.erase(found);
    return free(pointer(address)), Success;
}
// Handles that only have to be told from null.
static void* handle() { return reinterpret_cast<void*>(0x10); }

extern "C" {

int cuInit(unsigned) { return Success; }
int cuDriverGetVersion(int* version) { return *version = 13000, Success; }
int cuDeviceGetCount(int* count) { return *count = 1, Success; }
int cuDeviceGet(int* device, int) { return *device = 0, Success; }
int cuDeviceGetName(char* name, int length, int) {
    snprintf(name, length, "fake CUDA device");
    return Success;
}
int cuDeviceGetAttribute(int* value, int attribute, int) {
    switch (attribute) {
        case 1: *value = 1024; break;    // threads per block
        case 8: *value = 49152; break;   // shared bytes per block
        case 10: *value = 32; break;     // warp size
        case 16: *value = 108; break;    // multiprocessors
        case 75: *value = 8; break;      // compute capability, major
        case 76: *value = 0; break;      // and minor
        case 115: *value = has_pools(); break;
        default: *value = 0;
    }
    return Success;
}
int cuDeviceTotalMem_v2(size_t* bytes, int) { return *bytes = CardMemory, Success; }
int cuMemGetInfo_v2(size_t* free, size_t* total) {
    Memory& m = memory();
    const std::lock_guard<std::mutex> lock(m.mutex);
    return *total = CardMemory, *free = CardMemory - m.used, Success;
}
int cuDeviceGetMemPool(void** pool, int) { return *pool = handle(), Success; }
int cuMemPoolGetAttribute(void*, int attribute, void* value) {
    Memory& m = memory();
    const std::lock_guard<std::mutex> lock(m.mutex);
    switch (attribute) {
        case 7: *static_cast<uint64_t*>(value) = m.used; break;  // in use
        case 8: *static_cast<uint64_t*>(value) = m.most; break;  // at most
        default: return InvalidValue;
    }
    return Success;
}
// Only the mark of high water can be set, and only back.
int cuMemPoolSetAttribute(void*, int attribute, void* value) {
    Memory& m = memory();
    const std::lock_guard<std::mutex> lock(m.mutex);
    if (attribute != 8 || *static_cast<uint64_t*>(value) != 0) return InvalidValue;
    return m.most = m.used, Success;
}

int cuDevicePrimaryCtxRetain(void** context, int) { return *context = handle(), Success; }
int cuDevicePrimaryCtxRelease_v2(int) { return Success; }
int cuCtxSetCurrent(void*) { return Success; }
int cuCtxGetCurrent(void** context) { return *context = handle(), Success; }
int cuCtxSynchronize() { return Success; }

int cuMemAlloc_v2(Address* address, size_t bytes) { return allocate(address, bytes); }
int cuMemAllocAsync(Address* address, size_t bytes, void*) { return allocate(address, bytes); }
int cuMemFree_v2(Address address) { return release(address); }
int cuMemFreeAsync(Address address, void*) { return release(address); }
int cuMemHostAlloc(void** host, size_t bytes, unsigned) {
    return from_heap(reinterpret_cast<Address*>(host), bytes);
}
int cuMemFreeHost(void* host) { return free(host), Success; }

int cuMemcpyHtoD_v2(Address to, const void* from, size_t bytes) {
    return memcpy(pointer(to), from, bytes), Success;
}
int cuMemcpyHtoDAsync_v2(Address to, const void* from, size_t bytes, void*) {
    return cuMemcpyHtoD_v2(to, from, bytes);
}
int cuMemcpyDtoH_v2(void* to, Address from, size_t bytes) {
    return memcpy(to, pointer(from), bytes), Success;
}
int cuMemcpyDtoHAsync_v2(void* to, Address from, size_t bytes, void*) {
    return cuMemcpyDtoH_v2(to, from, bytes);
}
int cuMemcpyDtoD_v2(Address to, Address from, size_t bytes) {
    return memmove(pointer(to), pointer(from), bytes), Success;
}
int cuMemcpyDtoDAsync_v2(Address to, Address from, size_t bytes, void*) {
    return cuMemcpyDtoD_v2(to, from, bytes);
}
int cuMemsetD8_v2(Address to, unsigned char value, size_t bytes) {
    return memset(pointer(to), value, bytes), Success;
}
int cuMemsetD8Async(Address to, unsigned char value, size_t bytes, void*) {
    return cuMemsetD8_v2(to, value, bytes);
}

// Everything is done when it is asked for: streams and events have nothing to order.
int cuStreamCreate(void** stream, unsigned) { return *stream = handle(), Success; }
int cuStreamCreateWithPriority(void** stream, unsigned, int) { return cuStreamCreate(stream, 0); }
int cuStreamDestroy_v2(void*) { return Success; }
int cuStreamSynchronize(void*) { return Success; }
int cuStreamWaitEvent(void*, void*, unsigned) { return Success; }
int cuStreamIsCapturing(void*, int* status) { return *status = 0, Success; }
int cuEventCreate(void** event, unsigned) { return *event = handle(), Success; }
int cuEventDestroy_v2(void*) { return Success; }
int cuEventRecord(void*, void*) { return Success; }
int cuEventSynchronize(void*) { return Success; }
int cuEventQuery(void*) { return Success; }
int cuEventElapsedTime_v2(float* milliseconds, void*, void*) { return *milliseconds = 0, Success; }

int cuGetErrorName(int, const char** name) { return *name = "FAKE_CUDA_ERROR", Success; }
int cuGetErrorString(int, const char** text) { return *text = "error of the fake driver", Success; }

int cuModuleLoadData(void** module, const void* image) {
    const char* text = static_cast<const char*>(image);
    if (strncmp(text, "//", 2) != 0 && !strstr(text, ".version")) return InvalidImage;
    *module = const_cast<char*>(text);
    return Success;
}
int cuModuleUnload(void*) { return Success; }
int cuModuleGetFunction(void** function, void*, const char* name) {
    const auto found = shim::kernels().find(name);
    if (found == shim::kernels().end()) {
        fprintf(stderr, "fake cuda: no CPU build of kernel %s\n", name);
        return NotFound;
    }
    *function = &found->second;
    return Success;
}
int cuFuncGetAttribute(int* value, int, void*) { return *value = 0, Success; }
int cuFuncSetAttribute(void*, int, int) { return Success; }

int cuLaunchKernel(void* function, unsigned grid_x, unsigned grid_y, unsigned grid_z,
                   unsigned block_x, unsigned block_y, unsigned block_z, unsigned shared_bytes,
                   void*, void** arguments, void**) {
    const std::lock_guard<std::mutex> lock(shim::launch_mutex);
    const auto* kernel = static_cast<shim::Kernel*>(function);
    if (FILE* trace = shim::trace())
        fprintf(trace, "fake cuda: %s <<<(%u,%u,%u),(%u,%u,%u),%u>>>\n", kernel->name.c_str(),
                grid_x, grid_y, grid_z, block_x, block_y, block_z, shared_bytes);
    // The bounds of every card since compute capability 3.
    const unsigned threads = block_x * block_y * block_z;
    if (!grid_x || !grid_y || !grid_z || grid_x > INT32_MAX || grid_y > 65535 || grid_z > 65535 ||
        !threads || threads > 1024 || block_z > 64 || shared_bytes > 49152)
        return InvalidValue;
    if (shim::idle()) return Success;
    shim::launch(dim3(grid_x, grid_y, grid_z), dim3(block_x, block_y, block_z), shared_bytes,
                 [&] { kernel->caller(kernel->function, arguments); });
    return Success;
}

}  // extern "C"
