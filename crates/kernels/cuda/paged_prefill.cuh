// Paged attention of several new rows on tensor cores.
#pragma once

#include "attention_tensor_cores.cuh"
#include "paged_attention.cuh"

namespace paged {

static_assert(MMA_TILE == TILE_TOKENS, "each head of a group makes a tile of an item");

// Several new rows of a sequence; the grid is `[items, heads]`, as a group of heads has MMA_TILE
// rows for each of its heads.
template <class T, int HEAD>
__device__ void prefill_on_tensor_cores(const Call<T, T>& call, int first_item, T* k, T* v) {
    const Item item = item_at(call.index, first_item + blockIdx.x);
    const int group = call.heads / call.kv_heads;
    const Pages<T, T, false> pages(call, item, blockIdx.y / group);
    attend_on_tensor_cores<Pages<T, T, false>, HEAD>(pages, int(blockIdx.y) % group * MMA_TILE,
                                                     pages.end(), k, v);
}

}  // namespace paged

#define PAGED_MMA_KERNEL(NAME, T, HEAD)                                                           \
    extern "C" __global__ void __launch_bounds__(attention::WARPS* attention::WARP)                        \
        paged_prefill_##HEAD##_##NAME(const T* q, const T* k, const T* v, const float* k_scales,  \
                                      const float* v_scales, T* out, float* sums,                 \
                                      float2* softmax, const uint32_t* index, int first_item,     \
                                      int q_stride, int heads, int kv_heads, int head_dim,        \
                                      float scale) {                                              \
        __shared__ uint4 page[2][attention::TILE_SHARED<HEAD>];                                   \
        const paged::Call<T, T> call = {q,     k,        v,     k_scales, v_scales, out, sums,    \
                                        softmax, index, q_stride, heads, kv_heads, head_dim,      \
                                        scale};                                                   \
        paged::prefill_on_tensor_cores<T, HEAD>(call, first_item, reinterpret_cast<T*>(page[0]),  \
                                                reinterpret_cast<T*>(page[1]));                   \
    }

#define PAGED_MMA_KERNELS(NAME, T) \
    PAGED_MMA_KERNEL(NAME, T, 64)  \
    PAGED_MMA_KERNEL(NAME, T, 96)  \
    PAGED_MMA_KERNEL(NAME, T, 128)
