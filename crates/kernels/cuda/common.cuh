// What the kernels share: number types, wide loads and sums over threads.
//
// Numbers come as f32, f16 or bf16 and are computed with as f32. A kernel is a template over its
// number types, made into functions that the host finds by name with FOR_EACH_NUMBER.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <stdint.h>
#include <string.h>

using f32 = float;
using f16 = __half;
using bf16 = __nv_bfloat16;

// Expands MAKE(type) once for each type of numbers.
#define FOR_EACH_NUMBER(MAKE) MAKE(f32) MAKE(f16) MAKE(bf16)

__device__ __forceinline__ float widen(f32 x) { return x; }
__device__ __forceinline__ float widen(f16 x) { return __half2float(x); }
__device__ __forceinline__ float widen(bf16 x) { return __bfloat162float(x); }

// To the nearest, ties to even.
__device__ __forceinline__ void narrow(float x, f32& to) { to = x; }
__device__ __forceinline__ void narrow(float x, f16& to) { to = __float2half_rn(x); }
__device__ __forceinline__ void narrow(float x, bf16& to) { to = __float2bfloat16_rn(x); }

// N neighbouring numbers, held in registers.
template <class T, int N>
struct Pack {
    T at[N];
};

// How many numbers one load of 16 bytes, the widest that there is, brings.
template <class T>
constexpr int WIDEST = 16 / sizeof(T);

// Bytes of one access to a pack.
template <class T, int N>
constexpr int ACCESS = N * sizeof(T) < 16 ? N * sizeof(T) : 16;

// Whether packs of N numbers may be loaded from and stored to this address.
template <int N, class T>
__device__ __forceinline__ bool fits(const T* address) {
    return reinterpret_cast<uintptr_t>(address) % ACCESS<T, N> == 0;
}

// `to` and `from` are apart and aligned for the widest access that BYTES allow.
template <int BYTES>
__device__ __forceinline__ void copy_wide(void* to, const void* from) {
    static_assert(BYTES % 16 == 0 || BYTES == 8 || BYTES == 4, "no such access");
    if constexpr (BYTES == 4) {
        *static_cast<uint32_t*>(to) = *static_cast<const uint32_t*>(from);
    } else if constexpr (BYTES == 8) {
        *static_cast<uint2*>(to) = *static_cast<const uint2*>(from);
    } else {
#pragma unroll
        for (int i = 0; i < BYTES / 16; i++)
            static_cast<uint4*>(to)[i] = static_cast<const uint4*>(from)[i];
    }
}

template <int N, class T>
__device__ __forceinline__ Pack<T, N> load(const T* from) {
    if constexpr (N == 1) {
        return {{*from}};
    } else {
        alignas(16) Pack<T, N> pack;
        copy_wide<sizeof(pack)>(&pack, from);
        return pack;
    }
}

template <class T, int N>
__device__ __forceinline__ void store(T* to, const Pack<T, N>& values) {
    if constexpr (N == 1) {
        *to = values.at[0];
    } else {
        alignas(16) const Pack<T, N> pack = values;
        copy_wide<sizeof(pack)>(to, &pack);
    }
}

// The sum over the lanes of a warp, in every lane.
__device__ __forceinline__ float warp_sum(float x) {
#pragma unroll
    for (int apart = 16; apart > 0; apart /= 2) x += __shfl_xor_sync(0xffffffffu, x, apart);
    return x;
}

// The sum over the threads of a block, in every thread. All threads of the block call it; the
// block is one row of whole warps, at most 32 of them.
__device__ __forceinline__ float block_sum(float x) {
    __shared__ float of_warp[32];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
    x = warp_sum(x);
    // An earlier sum may still be being read.
    __syncthreads();
    if (lane == 0) of_warp[warp] = x;
    __syncthreads();
    return warp_sum(lane < warps ? of_warp[lane] : 0.0f);
}
