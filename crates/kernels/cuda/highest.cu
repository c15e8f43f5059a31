// The highest logits of each row, so that rows of a hundred thousand need not go to the host for a
// choice among a few.
//
// One block takes one row and reads it twice: each thread finds the greatest of its own elements,
// and the `count`-th of these is a bound that at least `count` elements reach; then what reaches it is
// gathered and put in order. Elements have distinct keys, so that the result is one whatever the
// order in which threads come: greater logits first, equal ones by index.

typedef unsigned long long Key;

// Elements that can be gathered. More reach the bound only where a thread's own elements hold
// many of the highest, and are then found one after the other.
constexpr unsigned ROOM = 1024;

constexpr unsigned THREADS = 512;

// NaN is above all, for whoever reads the result to see. Zeros are equal.
__device__ __forceinline__ unsigned ordered(float x) {
    if (x != x) return 0xffffffffu;
    const unsigned bits = __float_as_uint(x + 0.0f);
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

__device__ __forceinline__ Key key_of(float x, unsigned index) {
    return static_cast<Key>(ordered(x)) << 32 | (0xffffffffu - index);
}

__device__ __forceinline__ unsigned index_of(Key key) {
    return 0xffffffffu - static_cast<unsigned>(key);
}

// The greatest of the threads' own keys, and afterwards room for others.
__device__ Key greatest_of(Key own, Key* shared) {
    shared[threadIdx.x] = own;
    __syncthreads();
    for (unsigned half = THREADS / 2; half > 0; half /= 2) {
        if (threadIdx.x < half && shared[threadIdx.x + half] > shared[threadIdx.x]) {
            shared[threadIdx.x] = shared[threadIdx.x + half];
        }
        __syncthreads();
    }
    const Key greatest = shared[0];
    __syncthreads();
    return greatest;
}

// `logits` is [rows, width]; `ids` and `values` are [rows, count]. Grid: rows. Block: THREADS.
// `count` is at least 1 and at most the smaller of `width` and THREADS.
extern "C" __global__ void highest_f32(const float* __restrict__ logits, unsigned* __restrict__ ids,
                                       float* __restrict__ values, unsigned width, unsigned count) {
    __shared__ Key own[THREADS];
    __shared__ Key gathered[ROOM];
    __shared__ Key bound;
    __shared__ unsigned found;

    const float* row = logits + static_cast<size_t>(blockIdx.x) * width;
    ids += static_cast<size_t>(blockIdx.x) * count;
    values += static_cast<size_t>(blockIdx.x) * count;

    Key greatest = 0;
    for (unsigned i = threadIdx.x; i < width; i += THREADS) {
        const Key key = key_of(row[i], i);
        if (key > greatest) greatest = key;
    }
    if (count == 1) {
        greatest = greatest_of(greatest, own);
        if (threadIdx.x == 0) {
            ids[0] = index_of(greatest);
            values[0] = row[index_of(greatest)];
        }
        return;
    }

    own[threadIdx.x] = greatest;
    if (threadIdx.x == 0) {
        bound = 0;
        found = 0;
    }
    __syncthreads();
    unsigned above = 0;
    for (unsigned i = 0; i < THREADS; ++i) above += own[i] > greatest;
    // Where fewer threads than `count` have elements the bound stays 0, which all reach.
    if (above == count - 1 && greatest != 0) bound = greatest;
    __syncthreads();

    for (unsigned i = threadIdx.x; i < width; i += THREADS) {
        const Key key = key_of(row[i], i);
        if (key >= bound) {
            const unsigned place = atomicAdd(&found, 1u);
            if (place < ROOM) gathered[place] = key;
        }
    }
    __syncthreads();

    if (found <= ROOM) {
        for (unsigned i = threadIdx.x; i < found; i += THREADS) {
            const Key key = gathered[i];
            unsigned rank = 0;
            for (unsigned j = 0; j < found; ++j) rank += gathered[j] > key;
            if (rank < count) {
                ids[rank] = index_of(key);
                values[rank] = row[index_of(key)];
            }
        }
        return;
    }
    Key last = ~static_cast<Key>(0);
    for (unsigned rank = 0; rank < count; ++rank) {
        greatest = 0;
        for (unsigned i = threadIdx.x; i < width; i += THREADS) {
            const Key key = key_of(row[i], i);
            if (key < last && key > greatest) greatest = key;
        }
        last = greatest_of(greatest, own);
        if (threadIdx.x == 0) {
            ids[rank] = index_of(last);
            values[rank] = row[index_of(last)];
        }
    }
}
