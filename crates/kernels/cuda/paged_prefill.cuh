// Paged attention of several new rows on tensor cores, for 16-bit floats: FlashAttention-2 (Dao
// 2023) over pages.
//
// A warp has 16 rows, a block four warps; rows are those of a group's heads, as in
// paged_attention.cuh. The block brings a page of keys and values to shared memory while it
// computes with the page before. Products are summed up in f32; weights are rounded to 16 bits
// before they are multiplied by values.
#pragma once

#include "paged_attention.cuh"
#include "tensor_cores.cuh"

namespace paged {

// Rows that a warp's products have.
constexpr int MMA_ROWS = 16;
// Rows of a block.
constexpr int MMA_TILE = WARPS * MMA_ROWS;
static_assert(MMA_TILE == TILE_TOKENS, "each head of a group makes a tile of an item");

// Heads of up to HEAD elements, which is a multiple of 16; what is missing counts as zeros.
template <class T, int HEAD>
struct Tile {
    // Chunks of 16 bytes in a row.
    static constexpr int CHUNKS = HEAD / WIDTH;
    // Elements from row to row in shared memory: rows begin four banks apart, so that eight of
    // them are read without a conflict.
    static constexpr int STRIDE = HEAD + WIDTH;
    // Chunks of a page that a thread moves.
    static constexpr int EACH = PAGE * CHUNKS / (WARPS * WARP);
    static_assert(PAGE * CHUNKS % (WARPS * WARP) == 0, "threads move the same");

    const Call<T, T>& call;
    const Item& item;
    T* keys;
    T* values;
    int kv_head;
    uint4 next_keys[EACH], next_values[EACH];

    // Asks for a page, of which `count` keys are there; what lies beyond the end of a sequence
    // may be no number, and is not read.
    __device__ void ask(int page, int count) {
        const size_t block = call.index[item.blocks + page];
        const size_t first = (block * PAGE * call.kv_heads + kv_head) * call.head_dim;
        const size_t stride = size_t(call.kv_heads) * call.head_dim;
#pragma unroll
        for (int i = 0; i < EACH; i++) {
            const int at = threadIdx.x + i * WARPS * WARP;
            const int key = at / CHUNKS, element = at % CHUNKS * WIDTH;
            const size_t from = first + key * stride + element;
            next_keys[i] = next_values[i] = {0, 0, 0, 0};
            if (key < count && element < call.head_dim) {
                next_keys[i] = __ldg(reinterpret_cast<const uint4*>(call.k + from));
                next_values[i] = __ldg(reinterpret_cast<const uint4*>(call.v + from));
            }
        }
    }

    // Puts what was asked for where all can read it.
    __device__ void take() {
#pragma unroll
        for (int i = 0; i < EACH; i++) {
            const int at = threadIdx.x + i * WARPS * WARP;
            const int to = at / CHUNKS * STRIDE + at % CHUNKS * WIDTH;
            *reinterpret_cast<uint4*>(keys + to) = next_keys[i];
            *reinterpret_cast<uint4*>(values + to) = next_values[i];
        }
    }
};

// Several new rows of a sequence; the grid is `[items, heads]`, as a group of heads has MMA_TILE
// rows for each of its heads.
template <class T, int HEAD>
__device__ void prefill_on_tensor_cores(const Call<T, T>& call, int first_item, T* keys,
                                        T* values) {
    using Tile = Tile<T, HEAD>;
    constexpr int STRIDE = Tile::STRIDE;
    const Item item = item_at(call.index, first_item + blockIdx.x);
    const int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    const int group = call.heads / call.kv_heads;
    const int kv_head = blockIdx.y / group;
    const int tile_first = int(blockIdx.y) % group * MMA_TILE;
    const int end = item.rows * group;
    // The whole block, or no thread.
    if (tile_first >= end) return;
    const int first = tile_first + warp * MMA_ROWS;
    const auto sees = [&](int row) { return int(item.visible) + row / group; };
    const int block_limit = sees(min(tile_first + MMA_TILE, end) - 1);
    const int limit = first < end ? sees(min(first + MMA_ROWS, end) - 1) : 0;

    // Of each product a lane holds two rows, eight apart, and pairs of columns.
    const int pair = lane % 4 * 2;
    int visible[2];
    size_t place[2];
    bool there[2];
    uint32_t q[HEAD / 16][4];
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const int row = first + lane / 4 + half * 8;
        there[half] = row < end;
        visible[half] = there[half] ? sees(row) : 0;
        const size_t token = item.row + row / group, head = kv_head * group + row % group;
        place[half] = (token * call.heads + head) * call.head_dim;
        const T* from = call.q + token * call.q_stride + head * call.head_dim;
#pragma unroll
        for (int step = 0; step < HEAD / 16; step++)
#pragma unroll
            for (int far = 0; far < 2; far++) {
                const int element = step * 16 + far * 8 + pair;
                q[step][half + 2 * far] =
                    there[half] && element < call.head_dim
                        ? *reinterpret_cast<const uint32_t*>(from + element)
                        : 0;
            }
    }
    float sums[HEAD / 8][4] = {};
    float top[2] = {minus_infinity(), minus_infinity()}, total[2] = {0.f, 0.f};

    Tile tile = {call, item, keys, values, kv_head};
    tile.ask(0, min(block_limit, PAGE));
    for (int page = 0; page * PAGE < block_limit; page++) {
        // The page before has been read by all.
        __syncthreads();
        tile.take();
        __syncthreads();
        const int left = block_limit - (page + 1) * PAGE;
        if (left > 0) tile.ask(page + 1, min(left, PAGE));
        if (page * PAGE >= limit) continue;

        // [16, PAGE] scores: queries times keys, 16 keys at a time.
        float scores[PAGE / 8][4] = {};
#pragma unroll
        for (int step = 0; step < HEAD / 16; step++)
#pragma unroll
            for (int sixteen = 0; sixteen < PAGE / 16; sixteen++) {
                // Matrices: both halves of the step for eight keys, then for the next eight.
                const int key = sixteen * 16 + lane / 16 * 8 + lane % 8;
                uint32_t b[4];
                load_matrices<false>(
                    b, keys + key * STRIDE + step * 16 + lane / 8 % 2 * 8);
                const uint32_t low[2] = {b[0], b[1]}, high[2] = {b[2], b[3]};
                mma_16x8x16<T>(scores[2 * sixteen], q[step], low);
                mma_16x8x16<T>(scores[2 * sixteen + 1], q[step], high);
            }

        // Weights of scores, and room for what is larger than all before.
        uint32_t weights[PAGE / 16][4];
#pragma unroll
        for (int half = 0; half < 2; half++) {
            float best = top[half];
#pragma unroll
            for (int eight = 0; eight < PAGE / 8; eight++)
#pragma unroll
                for (int i = 0; i < 2; i++) {
                    float& score = scores[eight][2 * half + i];
                    const int key = page * PAGE + eight * 8 + pair + i;
                    score = key < visible[half] ? score * call.scale : minus_infinity();
                    best = fmaxf(best, score);
                }
            // The row's other columns are with the three lanes beside.
            best = fmaxf(best, __shfl_xor_sync(ALL, best, 1));
            best = fmaxf(best, __shfl_xor_sync(ALL, best, 2));
            const float factor = weight_of(top[half], best);
            top[half] = best;
            total[half] *= factor;
#pragma unroll
            for (int eight = 0; eight < PAGE / 8; eight++) {
                const float low = weight_of(scores[eight][2 * half], best);
                const float high = weight_of(scores[eight][2 * half + 1], best);
                total[half] += low + high;
                // What a product gives lies as the first operand of the next one does.
                weights[eight / 2][half + eight % 2 * 2] = narrow_pair(low, high, T());
            }
#pragma unroll
            for (int eight = 0; eight < HEAD / 8; eight++)
                sums[eight][2 * half] *= factor, sums[eight][2 * half + 1] *= factor;
        }

        // [16, HEAD] weights times values, 16 elements of a head at a time.
#pragma unroll
        for (int sixteen = 0; sixteen < PAGE / 16; sixteen++)
#pragma unroll
            for (int step = 0; step < HEAD / 16; step++) {
                // Matrices: both halves of the keys for eight elements, then for the next eight.
                const int key = sixteen * 16 + lane % 16;
                uint32_t b[4];
                load_matrices<true>(b, values + key * STRIDE + step * 16 + lane / 16 * 8);
                const uint32_t low[2] = {b[0], b[1]}, high[2] = {b[2], b[3]};
                mma_16x8x16<T>(sums[2 * step], weights[sixteen], low);
                mma_16x8x16<T>(sums[2 * step + 1], weights[sixteen], high);
            }
    }

#pragma unroll
    for (int half = 0; half < 2; half++) {
        float whole = total[half];
        whole += __shfl_xor_sync(ALL, whole, 1);
        whole += __shfl_xor_sync(ALL, whole, 2);
        whole = 1.f / whole;
        if (!there[half]) continue;
#pragma unroll
        for (int eight = 0; eight < HEAD / 8; eight++) {
            const int element = eight * 8 + pair;
            if (element < call.head_dim)
                *reinterpret_cast<uint32_t*>(call.out + place[half] + element) = narrow_pair(
                    sums[eight][2 * half] * whole, sums[eight][2 * half + 1] * whole, T());
        }
    }
}

}  // namespace paged

#define PAGED_MMA_KERNEL(NAME, T, HEAD)                                                           \
    extern "C" __global__ void __launch_bounds__(paged::WARPS* paged::WARP)                        \
        paged_prefill_##HEAD##_##NAME(const T* q, const T* k, const T* v, const float* k_scales,  \
                                      const float* v_scales, T* out, float* sums,                 \
                                      float2* softmax, const uint32_t* index, int first_item,     \
                                      int q_stride, int heads, int kv_heads, int head_dim,        \
                                      float scale) {                                              \
        __shared__ uint4 page[2][paged::PAGE * paged::Tile<T, HEAD>::STRIDE / paged::WIDTH];      \
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
