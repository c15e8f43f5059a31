// Attention of many rows on tensor cores, for 16-bit floats: FlashAttention-2 (Dao 2023).
//
// A warp has 16 rows, a block four warps; rows are those of a group's heads, and where they and
// their keys lie `Keys` tells, as in attention.cuh. The block brings a page of keys and values to
// shared memory while it computes with the page before. Products are summed up in f32; weights are
// rounded to 16 bits before they are multiplied by values.
#pragma once

#include "attention.cuh"
#include "tensor_cores.cuh"

namespace attention {

// Rows that a warp's products have.
constexpr int MMA_ROWS = 16;
// Rows of a block.
constexpr int MMA_TILE = WARPS * MMA_ROWS;

// Heads of up to HEAD elements, which is a multiple of 16; what is missing counts as zeros.
template <class Keys, int HEAD>
struct Tile {
    using T = typename Keys::Number;

    // Chunks of 16 bytes in a row.
    static constexpr int CHUNKS = HEAD / WIDTH;
    // Elements from row to row in shared memory: rows begin four banks apart, so that eight of
    // them are read without a conflict.
    static constexpr int STRIDE = HEAD + WIDTH;
    // Chunks of a page that a thread moves.
    static constexpr int EACH = PAGE * CHUNKS / (WARPS * WARP);
    static_assert(PAGE * CHUNKS % (WARPS * WARP) == 0, "threads move the same");

    const Keys& keys;
    T* k;
    T* v;
    uint4 next_k[EACH], next_v[EACH];

    // Asks for a page, of which `count` keys are there; what lies beyond the end of a sequence
    // may be no number, and is not read.
    __device__ void ask(int page, int count) {
        const size_t first = keys.at(keys.page(page)), stride = keys.stride();
#pragma unroll
        for (int i = 0; i < EACH; i++) {
            const int at = threadIdx.x + i * WARPS * WARP;
            const int key = at / CHUNKS, element = at % CHUNKS * WIDTH;
            const size_t from = first + key * stride + element;
            next_k[i] = next_v[i] = {0, 0, 0, 0};
            if (key < count && element < keys.head_dim()) {
                next_k[i] = __ldg(reinterpret_cast<const uint4*>(keys.k() + from));
                next_v[i] = __ldg(reinterpret_cast<const uint4*>(keys.v() + from));
            }
        }
    }

    // Puts what was asked for where all can read it.
    __device__ void take() {
#pragma unroll
        for (int i = 0; i < EACH; i++) {
            const int at = threadIdx.x + i * WARPS * WARP;
            const int to = at / CHUNKS * STRIDE + at % CHUNKS * WIDTH;
            *reinterpret_cast<uint4*>(k + to) = next_k[i];
            *reinterpret_cast<uint4*>(v + to) = next_v[i];
        }
    }
};

// uint4s of shared memory that a block has for keys, and as many for values.
template <int HEAD>
constexpr int TILE_SHARED = PAGE * (HEAD + WIDTH) / WIDTH;

// MMA_TILE rows of a group from `tile_first` on, as far as there are `end`. `k` and `v` are
// TILE_SHARED<HEAD>.
template <class Keys, int HEAD>
__device__ void attend_on_tensor_cores(const Keys& keys, int tile_first, int end,
                                       typename Keys::Number* k, typename Keys::Number* v) {
    using T = typename Keys::Number;
    using Tile = Tile<Keys, HEAD>;
    constexpr int STRIDE = Tile::STRIDE;
    const int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    const int head_dim = keys.head_dim();
    // The whole block, or no thread.
    if (tile_first >= end) return;
    const int first = tile_first + warp * MMA_ROWS;
    const int block_limit = keys.visible(min(tile_first + MMA_TILE, end) - 1);
    const int limit = first < end ? keys.visible(min(first + MMA_ROWS, end) - 1) : 0;

    // Of each product a lane holds two rows, eight apart, and pairs of columns.
    const int pair = lane % 4 * 2;
    int visible[2];
    bool there[2];
    uint32_t q[HEAD / 16][4];
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const int row = first + lane / 4 + half * 8;
        there[half] = row < end;
        visible[half] = there[half] ? keys.visible(row) : 0;
        const T* from = keys.query(row);
#pragma unroll
        for (int step = 0; step < HEAD / 16; step++)
#pragma unroll
            for (int far = 0; far < 2; far++) {
                const int element = step * 16 + far * 8 + pair;
                q[step][half + 2 * far] =
                    there[half] && element < head_dim
                        ? *reinterpret_cast<const uint32_t*>(from + element)
                        : 0;
            }
    }
    float sums[HEAD / 8][4] = {};
    float top[2] = {minus_infinity(), minus_infinity()}, total[2] = {0.f, 0.f};

    Tile tile = {keys, k, v};
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
                    b, k + key * STRIDE + step * 16 + lane / 8 % 2 * 8);
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
                    score = key < visible[half] ? score * keys.scale() : minus_infinity();
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
                load_matrices<true>(b, v + key * STRIDE + step * 16 + lane / 16 * 8);
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
        T* const to = keys.result(first + lane / 4 + half * 8);
#pragma unroll
        for (int eight = 0; eight < HEAD / 8; eight++) {
            const int element = eight * 8 + pair;
            if (element < head_dim)
                *reinterpret_cast<uint32_t*>(to + element) = narrow_pair(
                    sums[eight][2 * half] * whole, sums[eight][2 * half + 1] * whole, T());
        }
    }
}

}  // namespace attention
