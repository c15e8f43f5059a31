// Attention in which each row of a picture sees all keys of that picture; how, attention.cuh
// tells.
//
// * `dense_split_*`: few rows of a picture, over one split of its keys. Where there are several,
//   `dense_join_*` joins their sums.
// * `dense_attend_*`: many rows, over all keys; with a number, on tensor cores and for heads of up
//   to so many elements.
//
// Limits and grids are those of `src/cuda/dense_attention.rs`.
#pragma once

#include "attention_tensor_cores.cuh"

namespace dense {

using namespace attention;

// Pages of a split: SPLIT_PAGES.
constexpr int SPLIT_PAGES = 8;
constexpr int SPLIT_KEYS = SPLIT_PAGES * PAGE;

// The tensors of a call. Heads lie side by side in a row; rows, and pictures, lie as far apart as
// the strides say, in elements. Keys and values lie alike.
template <class T>
struct Call {
    // `[pictures, rows, heads, head_dim]`.
    const T* q;
    // `[pictures, keys, kv_heads, head_dim]`.
    const T* k;
    const T* v;
    // `[pictures, rows, heads, head_dim]`, dense.
    T* out;
    // `[pictures * rows * splits, heads, head_dim]`, and `[pictures * rows * splits, heads]`.
    Parts parts;
    size_t q_picture, k_picture;
    int q_stride, k_stride, rows, keys, heads, kv_heads, head_dim;
    // Multiplies scores; times log2(e).
    float scale;

    __device__ int group() const { return heads / kv_heads; }
    __device__ int splits() const { return (keys + SPLIT_KEYS - 1) / SPLIT_KEYS; }
};

// A picture's rows that a group of heads has, and its keys: `Keys` of attention.cuh.
template <class T>
struct Picture {
    using Number = T;
    using Stored = T;
    // Elements from the picture's first key to the page.
    using Page = size_t;

    const Call<T>& call;
    int picture, kv_head, group, split;
    // Of the group's first head, and of its key head.
    const T* queries;
    size_t first_key;

    __device__ Picture(const Call<T>& call, int picture, int kv_head, int split)
        : call(call), picture(picture), kv_head(kv_head), group(call.group()), split(split) {
        const size_t head = size_t(kv_head) * call.head_dim;
        queries = call.q + picture * call.q_picture + head * group;
        first_key = picture * call.k_picture + head;
    }

    __device__ int head_dim() const { return call.head_dim; }
    __device__ float scale() const { return call.scale; }
    __device__ int end() const { return call.rows * group; }

    __device__ size_t token(int row) const { return size_t(picture) * call.rows + row / group; }
    __device__ int head(int row) const { return kv_head * group + row % group; }
    __device__ int visible(int) const { return call.keys; }
    __device__ const T* query(int row) const {
        return queries + size_t(row / group) * call.q_stride + row % group * call.head_dim;
    }
    __device__ T* result(int row) const {
        return call.out + (token(row) * call.heads + head(row)) * call.head_dim;
    }
    __device__ size_t part(int row) const {
        return (token(row) * call.splits() + split) * call.heads + head(row);
    }

    __device__ const T* k() const { return call.k + first_key; }
    __device__ const T* v() const { return call.v + first_key; }
    __device__ Page page(int number) const { return size_t(number) * PAGE * call.k_stride; }
    __device__ size_t at(Page page) const { return page; }
    __device__ size_t stride() const { return call.k_stride; }
};

// The grid is `[pictures * tiles, kv_heads]`, with a tile for each TILE rows of a group.
template <class T, int ROWS>
__device__ void attend(const Call<T>& call, float* shared) {
    constexpr int TILE = WARPS * ROWS;
    const int tiles = (call.rows * call.group() + TILE - 1) / TILE;
    const Picture<T> picture(call, blockIdx.x / tiles, blockIdx.y, 0);
    attend_all<Picture<T>, ROWS>(picture, int(blockIdx.x) % tiles * TILE, picture.end(), shared);
}

template <class T, int HEAD>
__device__ void attend_tiles(const Call<T>& call, T* k, T* v) {
    const int tiles = (call.rows * call.group() + MMA_TILE - 1) / MMA_TILE;
    const Picture<T> picture(call, blockIdx.x / tiles, blockIdx.y, 0);
    attend_on_tensor_cores<Picture<T>, HEAD>(picture, int(blockIdx.x) % tiles * MMA_TILE,
                                             picture.end(), k, v);
}

// The grid is `[pictures * splits, kv_heads * tiles]`, with a tile for each ROWS rows of a group.
template <class T, int ROWS>
__device__ void attend_some(const Call<T>& call, float* shared) {
    const int splits = call.splits();
    const int tiles = (call.rows * call.group() + ROWS - 1) / ROWS;
    const Picture<T> picture(call, blockIdx.x / splits, blockIdx.y / tiles, blockIdx.x % splits);
    const int pages = (call.keys + PAGE - 1) / PAGE;
    const int first = picture.split * SPLIT_PAGES;
    attend_split<Picture<T>, ROWS>(picture, int(blockIdx.y) % tiles * ROWS, picture.end(), first,
                                   min(first + SPLIT_PAGES, pages), splits == 1, call.parts,
                                   shared);
}

}  // namespace dense

#define DENSE_CALL(T)                                                                          \
    const dense::Call<T> call = {q,        k,        v,    out,  {sums, softmax}, q_picture,    \
                                 k_picture, q_stride, k_stride, rows, keys,       heads,        \
                                 kv_heads, head_dim, scale};

#define DENSE_KERNEL(NAME, T)                                                                    \
    extern "C" __global__ void __launch_bounds__(attention::WARPS* attention::WARP)              \
        NAME(const T* q, const T* k, const T* v, T* out, float* sums, float2* softmax,           \
             size_t q_picture, size_t k_picture, int q_stride, int k_stride, int rows, int keys, \
             int heads, int kv_heads, int head_dim, float scale)

#define DENSE_ROWS_KERNEL(NAME, FUNCTION, T, ROWS)                         \
    DENSE_KERNEL(NAME, T) {                                                \
        __shared__ float4 shared[attention::SHARED<ROWS> / 4];             \
        DENSE_CALL(T)                                                      \
        dense::FUNCTION<T, ROWS>(call, reinterpret_cast<float*>(shared));  \
    }

#define DENSE_KERNELS(NAME, T)                                  \
    DENSE_ROWS_KERNEL(dense_split_1_##NAME, attend_some, T, 1)  \
    DENSE_ROWS_KERNEL(dense_split_4_##NAME, attend_some, T, 4)  \
    DENSE_ROWS_KERNEL(dense_split_8_##NAME, attend_some, T, 8)  \
    DENSE_ROWS_KERNEL(dense_attend_##NAME, attend, T, 8)

#define DENSE_MMA_KERNEL(NAME, T, HEAD)                                      \
    DENSE_KERNEL(dense_attend_##HEAD##_##NAME, T) {                           \
        __shared__ uint4 page[2][attention::TILE_SHARED<HEAD>];               \
        DENSE_CALL(T)                                                         \
        dense::attend_tiles<T, HEAD>(call, reinterpret_cast<T*>(page[0]),      \
                                    reinterpret_cast<T*>(page[1]));           \
    }

#define DENSE_MMA_KERNELS(NAME, T) \
    DENSE_MMA_KERNEL(NAME, T, 64)  \
    DENSE_MMA_KERNEL(NAME, T, 96)  \
    DENSE_MMA_KERNEL(NAME, T, 128)

// Joins the splits of each row; the grid is `[pictures * rows, heads]`.
#define DENSE_JOIN(NAME, T)                                                                     \
    extern "C" __global__ void dense_join_##NAME(T* out, const float* sums,                     \
                                                 const float2* softmax, int splits, int heads,  \
                                                 int head_dim) {                                \
        const size_t row = blockIdx.x;                                                          \
        const int head = blockIdx.y;                                                            \
        attention::join(out + (row * heads + head) * head_dim, sums, softmax, row * splits,     \
                        splits, heads, head, head_dim);                                         \
    }
