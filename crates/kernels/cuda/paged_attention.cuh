// Causal attention of a step's new rows to keys and values in pages; how, attention.cuh tells.
//
// * `paged_decode_*`: one new token of a sequence, over one split of it. The sums of the splits of
//   a long sequence are joined by `paged_join_*`.
// * `paged_prefill_*`: several new tokens.
//
// Limits and grids are those of `src/cuda/paged_attention.rs`, the index that of `src/work.rs`.
#pragma once

#include "attention.cuh"

namespace paged {

using namespace attention;

// New rows of a sequence in an item, at most: TILE_TOKENS.
constexpr int TILE_TOKENS = 64;
// The index of no partial sum: NO_PARTIAL.
constexpr uint32_t NOWHERE = 0xffffffffu;

// One entry of the list of work.
struct Item {
    // Its first row among those of the step, and how many.
    uint32_t row, rows;
    // Keys that the first row sees; each further row sees one more.
    uint32_t visible;
    // Where its sequence's blocks begin in the index.
    uint32_t blocks;
    // Its pages.
    uint32_t first_page, end_page;
    // Which partial sum to write; NOWHERE if the result is whole.
    uint32_t partial;
};

// The tensors of a call.
template <class T, class S>
struct Call {
    // Rows of `[heads, head_dim]`, `q_stride` elements apart.
    const T* q;
    // `[blocks, PAGE, kv_heads, head_dim]`.
    const S* k;
    const S* v;
    // `[blocks, PAGE, kv_heads]`, of codes only.
    const float* k_scales;
    const float* v_scales;
    // `[rows, heads, head_dim]`.
    T* out;
    // `[partials, heads, head_dim]` sums of values, relative to the largest score.
    float* sums;
    // `[partials, heads]` that largest score, and the sum of weights relative to it.
    float2* softmax;
    const uint32_t* index;
    int q_stride, heads, kv_heads, head_dim;
    // Multiplies scores; times log2(e), so that weights are powers of 2.
    float scale;
};

__device__ inline Item item_at(const uint32_t* index, int number) {
    const uint4* at = reinterpret_cast<const uint4*>(index) + 2 * number;
    const uint4 low = __ldg(at), high = __ldg(at + 1);
    return {low.x, low.y, low.z, low.w, high.x, high.y, high.z};
}

// The rows of an item that a group of heads has, and the pages that they see: `Keys` of
// attention.cuh. The item is of one token or of several.
template <class T, class S, bool ONE_TOKEN>
struct Pages {
    using Number = T;
    using Stored = S;
    // Its first key's row of `[blocks * PAGE, kv_heads]`.
    using Page = size_t;

    const Call<T, S>& call;
    const Item& item;
    int kv_head, group;

    __device__ Pages(const Call<T, S>& call, const Item& item, int kv_head)
        : call(call), item(item), kv_head(kv_head), group(call.heads / call.kv_heads) {}

    __device__ int head_dim() const { return call.head_dim; }
    __device__ float scale() const { return call.scale; }
    __device__ int end() const { return item.rows * group; }

    // Token of the item, and head.
    __device__ int token(int row) const { return ONE_TOKEN ? 0 : row / group; }
    __device__ size_t head(int row) const {
        return kv_head * group + (ONE_TOKEN ? row : row % group);
    }
    __device__ int visible(int row) const { return int(item.visible) + token(row); }
    __device__ const T* query(int row) const {
        return call.q + size_t(item.row + token(row)) * call.q_stride + head(row) * call.head_dim;
    }
    __device__ T* result(int row) const {
        return call.out + (size_t(item.row + token(row)) * call.heads + head(row)) * call.head_dim;
    }
    __device__ size_t part(int row) const { return size_t(item.partial) * call.heads + head(row); }

    __device__ const S* k() const { return call.k; }
    __device__ const S* v() const { return call.v; }
    __device__ Page page(int number) const {
        return size_t(call.index[item.blocks + number]) * PAGE * call.kv_heads + kv_head;
    }
    __device__ size_t at(Page page) const { return page * call.head_dim; }
    __device__ size_t stride() const { return size_t(call.kv_heads) * call.head_dim; }
    __device__ float k_scale(Page page, int key) const {
        return __ldg(call.k_scales + page + key * call.kv_heads);
    }
    __device__ float v_scale(Page page, int key) const {
        return __ldg(call.v_scales + page + key * call.kv_heads);
    }
};

// Several new rows of a sequence; the grid is `[items, heads * TILES]`, as a group of heads has
// TILE_TOKENS rows for each of its heads.
template <class T, class S, int ROWS>
__device__ void prefill(const Call<T, S>& call, int first_item, float* shared) {
    constexpr int TILES = TILE_TOKENS / (WARPS * ROWS);
    const Item item = item_at(call.index, first_item + blockIdx.x);
    const int tiles = call.heads / call.kv_heads * TILES;
    const Pages<T, S, false> pages(call, item, blockIdx.y / tiles);
    const int first = int(blockIdx.y) % tiles * (WARPS * ROWS);
    attend_all<Pages<T, S, false>, ROWS>(pages, first, pages.end(), shared);
}

// One new row of a sequence; the grid is `[items, kv_heads * tiles]`, where a group of heads
// makes `tiles` tiles of ROWS.
template <class T, class S, int ROWS>
__device__ void decode(const Call<T, S>& call, int first_item, float* shared) {
    const Item item = item_at(call.index, first_item + blockIdx.x);
    const int group = call.heads / call.kv_heads;
    const int tiles = (group + ROWS - 1) / ROWS;
    const Pages<T, S, true> pages(call, item, blockIdx.y / tiles);
    attend_split<Pages<T, S, true>, ROWS>(pages, int(blockIdx.y) % tiles * ROWS, group,
                                          item.first_page, item.end_page,
                                          item.partial == NOWHERE, {call.sums, call.softmax},
                                          shared);
}

// Joins the splits of a sequence's new row; the grid is `[joins, heads]`. A join is a row of the
// step, its first partial sum, and how many there are.
template <class T>
__device__ void join_row(T* out, const float* sums, const float2* softmax, const uint32_t* joins,
                         int heads, int head_dim) {
    const uint32_t* const own = joins + 3 * blockIdx.x;
    const int head = blockIdx.y;
    join(out + (size_t(own[0]) * heads + head) * head_dim, sums, softmax, own[1], own[2], heads,
         head, head_dim);
}

}  // namespace paged

#define PAGED_KERNEL(NAME, FUNCTION, T, S, ROWS)                                                \
    extern "C" __global__ void __launch_bounds__(attention::WARPS* attention::WARP)                      \
        NAME(const T* q, const S* k, const S* v, const float* k_scales, const float* v_scales,  \
             T* out, float* sums, float2* softmax, const uint32_t* index, int first_item,       \
             int q_stride, int heads, int kv_heads, int head_dim, float scale) {                                                                     \
        __shared__ float4 shared[attention::SHARED<ROWS> / 4];                                      \
        const paged::Call<T, S> call = {q,     k,        v,     k_scales, v_scales, out, sums,  \
                                        softmax, index, q_stride, heads, kv_heads, head_dim,    \
                                        scale};                                                 \
        paged::FUNCTION<T, S, ROWS>(call, first_item, reinterpret_cast<float*>(shared));        \
    }

#define PAGED_KERNELS(NAME, T, S)                       \
    PAGED_KERNEL(paged_decode_1_##NAME, decode, T, S, 1) \
    PAGED_KERNEL(paged_decode_4_##NAME, decode, T, S, 4) \
    PAGED_KERNEL(paged_decode_8_##NAME, decode, T, S, 8) \
    PAGED_KERNEL(paged_prefill_##NAME, prefill, T, S, 8)

#define PAGED_JOIN(NAME, T)                                                                   \
    extern "C" __global__ void paged_join_##NAME(T* out, const float* sums,                   \
                                                 const float2* softmax, const uint32_t* joins, \
                                                 int heads, int head_dim) {          \
        paged::join_row<T>(out, sums, softmax, joins, heads, head_dim);                           \
    }
