// Lets a CUDA C++ kernel compile as plain C++ and run on the CPU.
//
// One fiber stands for one CUDA thread; the blocks of a grid run one after another. A barrier or
// a warp shuffle parks the fiber until its block or warp has arrived, so that kernels which
// exchange values through shared memory or registers give what they give on a card. Include this
// before the kernel's source.
//
// Not shown by it: speed, races between blocks, alignment faults, stream order, tensor cores.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <type_traits>
#include <utility>
#include <vector>

// The toolkit's own host headers: vector types and 16-bit floats.
#include <vector_types.h>

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#undef __constant__
#undef __device__
#undef __forceinline__
#undef __global__
#undef __host__
#undef __launch_bounds__
#undef __restrict__
#undef __shared__
#define __constant__ static
#define __device__
#define __forceinline__ inline
#define __global__
#define __host__
#define __launch_bounds__(...)
#define __restrict__
// Blocks run one at a time, so that a block's shared memory may be static.
#define __shared__ static
// `extern __shared__ T name[]`, which build.sh rewrites into this.
#define SHARED_DYN(T, name) T* name = reinterpret_cast<T*>(shim::scheduler().dynamic_shared)

namespace shim {

enum class State { Running, AtWarp, AtBlock, Done };

struct Fiber {
    void* stack_pointer = nullptr;
    char* stack = nullptr;
    State state = State::Done;
    uint3 thread{};
};

struct Scheduler {
    std::vector<Fiber> fibers;
    void* stack_pointer = nullptr;
    int current = 0;
    const std::function<void()>* body = nullptr;
    char* dynamic_shared = nullptr;
    dim3 grid, block;
    uint3 block_index{};
    // Where lanes leave the values that they exchange: one per thread of the largest block.
    uint64_t exchange[1024 + 32];
};

Scheduler& scheduler();
// Parks the current fiber in `state` until the scheduler lets it go on.
void park(State state);
void launch(dim3 grid, dim3 block, size_t shared_bytes, const std::function<void()>& body);

// Kernels register under the names that the PTX gives them, and are called with the driver's
// array of pointers to arguments.
using Caller = void (*)(void* kernel, void** arguments);
int add_kernel(const char* name, void* kernel, Caller caller);

template <class... A, size_t... I>
void call_unpacked(void (*kernel)(A...), void** arguments, std::index_sequence<I...>) {
    kernel(*static_cast<std::remove_const_t<A>*>(arguments[I])...);
}

template <class... A>
int register_kernel(const char* name, void (*kernel)(A...)) {
    return add_kernel(name, reinterpret_cast<void*>(kernel), [](void* k, void** arguments) {
        call_unpacked(reinterpret_cast<void (*)(A...)>(k), arguments,
                      std::index_sequence_for<A...>{});
    });
}

// Where each launch is written to: the file that FAKE_CUDA_TRACE names, null where it names none.
inline FILE* trace() {
    static FILE* file = [] {
        const char* path = getenv("FAKE_CUDA_TRACE");
        FILE* opened = path && *path ? fopen(path, "a") : nullptr;
        // The libraries share the file: a line is written at once.
        if (opened) setvbuf(opened, nullptr, _IOLBF, 0);
        return opened;
    }();
    return file;
}

// FAKE_CUDA_IDLE=1 has launches and products do nothing, and memory is zeros: what is left is what
// the host does for them.
inline bool idle() {
    static const bool set = getenv("FAKE_CUDA_IDLE") != nullptr;
    return set;
}

inline int lane() { return scheduler().current & 31; }

// The value that lane `source` of this warp passed to the same call.
template <class T>
T from_lane(T value, int source) {
    static_assert(sizeof(T) <= sizeof(uint64_t));
    Scheduler& s = scheduler();
    const int me = s.current, warp = me & ~31;
    memcpy(&s.exchange[me], &value, sizeof(T));
    park(State::AtWarp);
    T result;
    memcpy(&result, &s.exchange[warp + (source & 31)], sizeof(T));
    // Nobody may overwrite its value before all have read.
    park(State::AtWarp);
    return result;
}

template <class To, class From>
To bits(From value) {
    static_assert(sizeof(To) == sizeof(From));
    To result;
    memcpy(&result, &value, sizeof(To));
    return result;
}

}  // namespace shim

#define threadIdx (shim::scheduler().fibers[shim::scheduler().current].thread)
#define blockIdx (shim::scheduler().block_index)
#define blockDim (shim::scheduler().block)
#define gridDim (shim::scheduler().grid)
static constexpr int warpSize = 32;

inline void __syncthreads() { shim::park(shim::State::AtBlock); }
inline void __syncwarp(unsigned = ~0u) { shim::park(shim::State::AtWarp); }

template <class T>
T __shfl_sync(unsigned, T value, int source, int width = 32) {
    return shim::from_lane(value, (shim::lane() & ~(width - 1)) + (source & (width - 1)));
}
template <class T>
T __shfl_xor_sync(unsigned, T value, int mask, int = 32) {
    return shim::from_lane(value, shim::lane() ^ mask);
}
template <class T>
T __shfl_down_sync(unsigned, T value, int delta, int width = 32) {
    const int lane = shim::lane();
    return shim::from_lane(value, (lane % width) + delta < width ? lane + delta : lane);
}
template <class T>
T __shfl_up_sync(unsigned, T value, int delta, int width = 32) {
    const int lane = shim::lane();
    return shim::from_lane(value, (lane % width) >= delta ? lane - delta : lane);
}

// Fibers are switched only at barriers: a read-modify-write is atomic as it stands.
template <class T>
T atomicAdd(T* at, T value) {
    const T old = *at;
    *at = old + value;
    return old;
}
template <class T>
T atomicExch(T* at, T value) {
    return std::exchange(*at, value);
}
template <class T>
T atomicCAS(T* at, T expected, T value) {
    const T old = *at;
    if (old == expected) *at = value;
    return old;
}
template <class T, class V>
T atomicMax(T* at, V value) {
    const T old = *at;
    if (static_cast<T>(value) > old) *at = static_cast<T>(value);
    return old;
}
template <class T, class V>
T atomicMin(T* at, V value) {
    const T old = *at;
    if (static_cast<T>(value) < old) *at = static_cast<T>(value);
    return old;
}

template <class T>
T __ldg(const T* at) {
    return *at;
}
template <class T>
T max(T a, T b) {
    return a > b ? a : b;
}
template <class T>
T min(T a, T b) {
    return a < b ? a : b;
}
// Each rounds by itself: build.sh forbids the compiler to make one of two.
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
// To the nearest, ties to even, as is the CPU's rounding unless someone changes it.
inline unsigned long long __float2ull_rn(float x) {
    return static_cast<unsigned long long>(llrintf(x));
}
inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
    return static_cast<unsigned long long>(static_cast<unsigned __int128>(a) * b >> 64);
}
inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
inline float __expf(float x) { return expf(x); }
inline float __fdividef(float a, float b) { return a / b; }
inline float normcdff(float x) { return 0.5f * erfcf(-x * 0.70710678f); }
inline double normcdf(double x) { return 0.5 * erfc(-x * 0.7071067811865476); }
using std::isinf;
using std::isnan;
using std::signbit;

inline unsigned __float_as_uint(float x) { return shim::bits<unsigned>(x); }
inline int __float_as_int(float x) { return shim::bits<int>(x); }
inline float __uint_as_float(unsigned x) { return shim::bits<float>(x); }
inline float __int_as_float(int x) { return shim::bits<float>(x); }
inline long long __double_as_longlong(double x) { return shim::bits<long long>(x); }
inline double __longlong_as_double(long long x) { return shim::bits<double>(x); }

// 16-bit functions that the host headers leave out, by way of f32 as the hardware's are exact to.
#define SHIM_HALF_FUNCTION(name, expression)                     \
    inline __half name(__half h) {                               \
        const float x = __half2float(h);                         \
        return __float2half(expression);                         \
    }                                                            \
    inline __nv_bfloat16 name(__nv_bfloat16 h) {                 \
        const float x = __bfloat162float(h);                     \
        return __float2bfloat16(expression);                     \
    }
SHIM_HALF_FUNCTION(hceil, ceilf(x))
SHIM_HALF_FUNCTION(hcos, cosf(x))
SHIM_HALF_FUNCTION(hexp, expf(x))
SHIM_HALF_FUNCTION(hfloor, floorf(x))
SHIM_HALF_FUNCTION(hlog, logf(x))
SHIM_HALF_FUNCTION(hrcp, 1.0f / x)
SHIM_HALF_FUNCTION(hrsqrt, 1.0f / sqrtf(x))
SHIM_HALF_FUNCTION(hsin, sinf(x))
SHIM_HALF_FUNCTION(hsqrt, sqrtf(x))
SHIM_HALF_FUNCTION(htanh, tanhf(x))

#include "tensor_cores.h"
