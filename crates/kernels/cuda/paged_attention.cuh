// Causal attention of a step's new rows to keys and values in pages.
//
// Scores never leave the chip: keys are taken a page at a time with the softmax carried along
// (Milakov and Gimelshein 2018; Dao et al. 2022). All query heads that share a key head are rows
// of one tile, so that each page is read once for them; row `m` of a tile is new token
// `m / group` and head `m % group` of the group.
//
// A warp keeps ROWS rows in registers and reads a page in lots: so many lanes as a head has
// chunks of eight elements take one key, the others the next ones. A key is multiplied by all
// rows while it is in registers. How many lanes that is does not change a kernel's code, so one
// kernel serves every head dimension that is a multiple of 8, up to 256.
//
// Two kernels differ in how the warps of a block share the work:
//
// * `paged_decode_*`: one new token of a sequence. The warps take turns with the pages of one
//   split of the sequence, and put their sums together at the end. The sums of the splits of a
//   long sequence are joined by `paged_join_*` (Flash-Decoding, Dao et al. 2023).
// * `paged_prefill_*`: several new tokens. Each warp has rows of its own and walks through all
//   the pages that they see; four warps walk side by side and find pages in the first-level cache.
//   For 16-bit floats and heads of up to 128 there is a faster one: paged_prefill.cuh.
//
// Splits have a fixed length, so what a row gives depends on its own sequence and on nothing
// else in the step.
//
// Limits and grids are those of `src/cuda/paged_attention.rs`, the index that of `src/work.rs`.
#pragma once

#include "common.cuh"

namespace paged {

// Tokens in a page: PAGE_TOKENS.
constexpr int PAGE = 32;
constexpr int WARP = 32;
// Warps in a block: WARPS.
constexpr int WARPS = 4;
// New rows of a sequence in an item, at most: TILE_TOKENS.
constexpr int TILE_TOKENS = 64;
// Elements of a head that a lane holds.
constexpr int WIDTH = 8;
// The largest head that the lanes of a warp hold together.
constexpr int MAX_HEAD_DIM = WARP * WIDTH;
// Lots of a page that are asked for before the first is needed.
constexpr int AHEAD = 4;
constexpr unsigned ALL = 0xffffffffu;
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

// Eight elements as they are stored.
template <class E>
struct Chunk;

template <>
struct Chunk<float> {
    float4 low, high;
    __device__ static Chunk load(const float* from) {
        const float4* at = reinterpret_cast<const float4*>(from);
        return {__ldg(at), __ldg(at + 1)};
    }
    __device__ static Chunk zero() { return {{0, 0, 0, 0}, {0, 0, 0, 0}}; }
    __device__ void widen(float (&x)[WIDTH]) const {
        x[0] = low.x, x[1] = low.y, x[2] = low.z, x[3] = low.w;
        x[4] = high.x, x[5] = high.y, x[6] = high.z, x[7] = high.w;
    }
    __device__ static void store(const float (&x)[WIDTH], float* to) {
        float4* at = reinterpret_cast<float4*>(to);
        at[0] = {x[0], x[1], x[2], x[3]};
        at[1] = {x[4], x[5], x[6], x[7]};
    }
};

__device__ inline float2 widen_pair(uint32_t pair, f16) {
    const __half2 both = *reinterpret_cast<const __half2*>(&pair);
    return __half22float2(both);
}
__device__ inline float2 widen_pair(uint32_t pair, bf16) {
    // A bf16 is the upper half of the f32 that it stands for.
    return {__uint_as_float(pair << 16), __uint_as_float(pair & 0xffff0000u)};
}
__device__ inline uint32_t narrow_pair(float low, float high, f16) {
    const __half2 both = __floats2half2_rn(low, high);
    return *reinterpret_cast<const uint32_t*>(&both);
}
__device__ inline uint32_t narrow_pair(float low, float high, bf16) {
    const __nv_bfloat162 both = __floats2bfloat162_rn(low, high);
    return *reinterpret_cast<const uint32_t*>(&both);
}

// 16-bit floats.
template <class E>
struct Chunk {
    uint4 pairs;
    __device__ static Chunk load(const E* from) {
        return {__ldg(reinterpret_cast<const uint4*>(from))};
    }
    __device__ static Chunk zero() { return {{0, 0, 0, 0}}; }
    __device__ void widen(float (&x)[WIDTH]) const {
        const uint32_t all[4] = {pairs.x, pairs.y, pairs.z, pairs.w};
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const float2 both = widen_pair(all[i], E());
            x[2 * i] = both.x, x[2 * i + 1] = both.y;
        }
    }
    __device__ static void store(const float (&x)[WIDTH], E* to) {
        *reinterpret_cast<uint4*>(to) = {
            narrow_pair(x[0], x[1], E()), narrow_pair(x[2], x[3], E()),
            narrow_pair(x[4], x[5], E()), narrow_pair(x[6], x[7], E())};
    }
};

// Codes: multiples of a scale that their row has, plus 128. See `src/pages.rs`.
template <>
struct Chunk<uint8_t> {
    uint2 codes;
    __device__ static Chunk load(const uint8_t* from) {
        return {__ldg(reinterpret_cast<const uint2*>(from))};
    }
    __device__ static Chunk zero() { return {{0, 0}}; }
    __device__ void widen(float (&x)[WIDTH]) const {
#pragma unroll
        for (int i = 0; i < WIDTH; i++) {
            const uint32_t four = i < 4 ? codes.x : codes.y;
            x[i] = static_cast<float>(four >> 8 * (i & 3) & 0xff) - 128.f;
        }
    }
};

// Whether elements are codes.
template <class S>
constexpr bool SCALED = sizeof(S) == 1;

__device__ inline float minus_infinity() { return __int_as_float(0xff800000); }

// 2^(x - top), and nothing for what is not there.
__device__ inline float weight_of(float x, float top) {
    return x == minus_infinity() ? 0.f : exp2f(x - top);
}

// Sums each of COUNT values over a group of `lanes` lanes. Lane `i` of the group gets the sum of
// value `i * COUNT / lanes`: halves are exchanged, so that this takes about COUNT shuffles and
// not COUNT times the logarithm of the lanes. At least COUNT lanes.
template <int COUNT>
__device__ float sum_each(float (&values)[COUNT], int lane, int lanes) {
    int half = lanes >> 1;
#pragma unroll
    for (int count = COUNT; count > 1; count >>= 1) {
        const bool upper = lane & half;
#pragma unroll
        for (int i = 0; i < count / 2; i++) {
            const float low = values[i], high = values[i + count / 2];
            values[i] = (upper ? high : low) + __shfl_xor_sync(ALL, upper ? low : high, half);
        }
        half >>= 1;
    }
    float sum = values[0];
    for (; half > 0; half >>= 1) sum += __shfl_xor_sync(ALL, sum, half);
    return sum;
}

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

// What a warp holds of its rows. Rows lie over the lanes in two ways: sums and queries by
// elements of the head, softmax by `lane % ROWS`.
template <class T, class S, int ROWS>
struct Warp {
    const Call<T, S>& call;
    const Item& item;
    // Of this warp alone: `[PAGE, ROWS]` scores, then weights; and `[ROWS]` factors.
    float* weights;
    int lane, kv_head, group, first, end;
    // Lanes that take one key, and their number as a shift; this lane's chunk of the head.
    int lanes, shift, chunk;
    bool wide;
    float q[ROWS][WIDTH];
    float sums[ROWS][WIDTH];
    // The largest score so far, and the sum of this lane's weights relative to it.
    float top, total;

    __device__ Warp(const Call<T, S>& call, const Item& item, float* weights, int kv_head,
                    int first, int end)
        : call(call), item(item), weights(weights), kv_head(kv_head), first(first), end(end) {
        lane = threadIdx.x % WARP;
        group = call.heads / call.kv_heads;
        shift = call.head_dim <= 64 ? 3 : call.head_dim <= 128 ? 4 : 5;
        lanes = 1 << shift;
        chunk = lane & (lanes - 1);
        wide = chunk * WIDTH < call.head_dim;
        top = minus_infinity();
        total = 0.f;
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
            Chunk<T> chunk_of_q = Chunk<T>::zero();
            if (wide && first + r < end) {
                const size_t at = size_t(token(r)) * call.q_stride +
                                  size_t(head(r)) * call.head_dim + chunk * WIDTH;
                chunk_of_q = Chunk<T>::load(call.q + at);
            }
            chunk_of_q.widen(q[r]);
#pragma unroll
            for (int i = 0; i < WIDTH; i++) q[r][i] *= call.scale, sums[r][i] = 0.f;
        }
    }

    // Row of the step, and head, of this warp's row `r`.
    __device__ int token(int r) const { return item.row + (first + r) / group; }
    __device__ int head(int r) const { return kv_head * group + (first + r) % group; }
    // Keys that row `r` sees; none for a row that is not there.
    __device__ int visible(int r) const {
        return first + r < end ? int(item.visible) + (first + r) / group : 0;
    }
    // Keys that the last row sees.
    __device__ int limit() const { return item.visible + (min(first + ROWS, end) - 1) / group; }

    // Of a lot of `AHEAD` keys of each group of lanes, those that are below `count`; what lies
    // beyond the end of a sequence may be no number, and is not read.
    __device__ void read(Chunk<S> (&lot)[AHEAD], const S* at, int step, int count) const {
        const int keys = WARP >> shift;
        const size_t stride = size_t(call.kv_heads) * call.head_dim;
#pragma unroll
        for (int u = 0; u < AHEAD; u++) {
            const int key = (step + u) * keys + (lane >> shift);
            lot[u] = wide && key < count ? Chunk<S>::load(at + key * stride) : Chunk<S>::zero();
        }
    }

    // Takes a page into account, of which the last row sees `count` keys.
    __device__ void page(int number, int count) {
        const uint32_t block = call.index[item.blocks + number];
        const size_t row = size_t(block) * PAGE * call.kv_heads + kv_head;
        const size_t at = row * call.head_dim + chunk * WIDTH;
        score(call.k + at, count);
        __syncwarp();
        soften(number, row);
        __syncwarp();
        collect(call.v + at, count);
        // The next page's scores go where weights are read.
        __syncwarp();
    }

    __device__ void score(const S* keys_at, int count) {
        // So many keys that there are eight sums to exchange.
        constexpr int TOGETHER = WIDTH / ROWS < AHEAD ? WIDTH / ROWS : AHEAD;
        constexpr int COUNT = TOGETHER * ROWS;
        const int keys = WARP >> shift;
        const int own = chunk * COUNT >> shift;
        const bool writes = (chunk & ((lanes / COUNT) - 1)) == 0;
        for (int step = 0; step * keys < count; step += AHEAD) {
            Chunk<S> lot[AHEAD];
            read(lot, keys_at, step, count);
#pragma unroll
            for (int u = 0; u < AHEAD; u += TOGETHER) {
                float products[COUNT];
#pragma unroll
                for (int t = 0; t < TOGETHER; t++) {
                    float k[WIDTH];
                    lot[u + t].widen(k);
#pragma unroll
                    for (int r = 0; r < ROWS; r++) {
                        float sum = 0.f;
#pragma unroll
                        for (int i = 0; i < WIDTH; i++) sum = fmaf(q[r][i], k[i], sum);
                        products[t * ROWS + r] = sum;
                    }
                }
                const float sum = sum_each<COUNT>(products, lane, lanes);
                const int key = (step + u + own / ROWS) * keys + (lane >> shift);
                if (writes) weights[key * ROWS + own % ROWS] = sum;
            }
        }
    }

    // Makes weights of scores. A lane has the row `lane % ROWS` and every `WARP / ROWS`th key.
    __device__ void soften(int number, size_t row) {
        const int seen = visible(lane % ROWS) - number * PAGE;
        float scores[ROWS];
        float best = top;
#pragma unroll
        for (int i = 0; i < ROWS; i++) {
            const int key = i * (WARP / ROWS) + lane / ROWS;
            scores[i] = minus_infinity();
            if (key < seen) {
                scores[i] = weights[i * WARP + lane];
                if (SCALED<S>) scores[i] *= __ldg(call.k_scales + row + key * call.kv_heads);
            }
            best = fmaxf(best, scores[i]);
        }
#pragma unroll
        for (int offset = ROWS; offset < WARP; offset *= 2)
            best = fmaxf(best, __shfl_xor_sync(ALL, best, offset));
        const float factor = weight_of(top, best);
        top = best;
        total *= factor;
#pragma unroll
        for (int i = 0; i < ROWS; i++) {
            const int key = i * (WARP / ROWS) + lane / ROWS;
            float weight = weight_of(scores[i], top);
            total += weight;
            // A scale may be no number, so that a weight of 0 would not keep it out.
            if (SCALED<S> && key < seen)
                weight *= __ldg(call.v_scales + row + key * call.kv_heads);
            weights[i * WARP + lane] = weight;
        }
        if (lane < ROWS) weights[PAGE * ROWS + lane] = factor;
    }

    __device__ void collect(const S* values_at, int count) {
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
            const float factor = weights[PAGE * ROWS + r];
#pragma unroll
            for (int i = 0; i < WIDTH; i++) sums[r][i] *= factor;
        }
        const int keys = WARP >> shift;
        for (int step = 0; step * keys < count; step += AHEAD) {
            Chunk<S> lot[AHEAD];
            read(lot, values_at, step, count);
#pragma unroll
            for (int u = 0; u < AHEAD; u++) {
                const int key = (step + u) * keys + (lane >> shift);
                float v[WIDTH], weight[ROWS];
                lot[u].widen(v);
                load_weights(weight, weights + key * ROWS);
#pragma unroll
                for (int r = 0; r < ROWS; r++)
#pragma unroll
                    for (int i = 0; i < WIDTH; i++) sums[r][i] = fmaf(weight[r], v[i], sums[r][i]);
            }
        }
    }

    __device__ static void load_weights(float (&weight)[ROWS], const float* from) {
        if (ROWS % 4 == 0) {
#pragma unroll
            for (int r = 0; r < ROWS; r += 4) {
                const float4 four = *reinterpret_cast<const float4*>(from + r);
                weight[r] = four.x, weight[r + 1] = four.y;
                weight[r + 2] = four.z, weight[r + 3] = four.w;
            }
        } else {
#pragma unroll
            for (int r = 0; r < ROWS; r++) weight[r] = from[r];
        }
    }

    // Adds up what the lanes have of each sum.
    __device__ void gather() {
#pragma unroll
        for (int offset = ROWS; offset < WARP; offset *= 2)
            total += __shfl_xor_sync(ALL, total, offset);
        for (int offset = lanes; offset < WARP; offset *= 2)
#pragma unroll
            for (int r = 0; r < ROWS; r++)
#pragma unroll
                for (int i = 0; i < WIDTH; i++)
                    sums[r][i] += __shfl_xor_sync(ALL, sums[r][i], offset);
    }
};

__device__ inline Item item_at(const uint32_t* index, int number) {
    const uint4* at = reinterpret_cast<const uint4*>(index) + 2 * number;
    const uint4 low = __ldg(at), high = __ldg(at + 1);
    return {low.x, low.y, low.z, low.w, high.x, high.y, high.z};
}

// Floats of shared memory that a warp has for weights and factors; whole float4s.
template <int ROWS>
constexpr int WEIGHTS = PAGE * ROWS + (ROWS < 4 ? 4 : ROWS);

// And a block, for that and for sums.
template <int ROWS>
constexpr int SHARED = WARPS * (WEIGHTS<ROWS> > MAX_HEAD_DIM ? WEIGHTS<ROWS> : MAX_HEAD_DIM);

// Several new rows of a sequence; the grid is `[items, heads * TILES]`, as a group of heads has
// TILE_TOKENS rows for each of its heads.
template <class T, class S, int ROWS>
__device__ void prefill(const Call<T, S>& call, int first_item, float* shared) {
    const Item item = item_at(call.index, first_item + blockIdx.x);
    const int warp = threadIdx.x / WARP;
    const int group = call.heads / call.kv_heads;
    constexpr int TILES = TILE_TOKENS / (WARPS * ROWS);
    const int first = (int(blockIdx.y) % (group * TILES) * WARPS + warp) * ROWS;
    const int end = item.rows * group;
    // Warps never wait for each other here.
    if (first >= end) return;
    Warp<T, S, ROWS> own(call, item, shared + warp * WEIGHTS<ROWS>,
                         blockIdx.y / (group * TILES), first, end);
    const int limit = own.limit();
    for (int page = 0; page * PAGE < limit; page++) own.page(page, min(limit - page * PAGE, PAGE));
    own.gather();
    const int keys = WARP >> own.shift;
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
        const float whole = 1.f / __shfl_sync(ALL, own.total, r);
        float x[WIDTH];
#pragma unroll
        for (int i = 0; i < WIDTH; i++) x[i] = own.sums[r][i] * whole;
        if (!own.wide || first + r >= end || r % keys != own.lane >> own.shift) continue;
        const size_t row = size_t(own.token(r)) * call.heads + own.head(r);
        Chunk<T>::store(x, call.out + row * call.head_dim + own.chunk * WIDTH);
    }
}

// One new row of a sequence; the grid is `[items, kv_heads * tiles]`, where a group of heads
// makes `tiles` tiles of ROWS.
template <class T, class S, int ROWS>
__device__ void decode(const Call<T, S>& call, int first_item, float* shared) {
    const Item item = item_at(call.index, first_item + blockIdx.x);
    const int warp = threadIdx.x / WARP;
    const int group = call.heads / call.kv_heads;
    const int tiles = (group + ROWS - 1) / ROWS;
    const int kv_head = blockIdx.y / tiles;
    const int first = int(blockIdx.y) % tiles * ROWS;
    const int rows = group - first;
    const int head_dim = call.head_dim;
    Warp<T, S, ROWS> own(call, item, shared + warp * WEIGHTS<ROWS>, kv_head, first,
                         group);
    for (int page = item.first_page + warp; page < int(item.end_page); page += WARPS)
        own.page(page, min(int(item.visible) - page * PAGE, PAGE));
    own.gather();

    __shared__ float2 softmax[WARPS][ROWS];
    if (own.lane < ROWS) softmax[warp][own.lane] = {own.top, own.total};
    // `[WARPS, MAX_HEAD_DIM]` sums of one row at a time, where the weights were.
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
        __syncthreads();
        if (own.wide && own.lane >> own.shift == 0)
            Chunk<float>::store(own.sums[r], shared + warp * MAX_HEAD_DIM + own.chunk * WIDTH);
        __syncthreads();
        if (r >= rows) continue;
        float top = minus_infinity(), total = 0.f;
        float factors[WARPS];
#pragma unroll
        for (int w = 0; w < WARPS; w++) top = fmaxf(top, softmax[w][r].x);
#pragma unroll
        for (int w = 0; w < WARPS; w++) {
            factors[w] = weight_of(softmax[w][r].x, top);
            total += softmax[w][r].y * factors[w];
        }
        const bool whole = item.partial == NOWHERE;
        const size_t row = size_t(whole ? item.row : item.partial) * call.heads + kv_head * group +
                           first + r;
        for (int d = threadIdx.x; d < head_dim; d += WARPS * WARP) {
            float x = 0.f;
#pragma unroll
            for (int w = 0; w < WARPS; w++) x += shared[w * MAX_HEAD_DIM + d] * factors[w];
            if (whole)
                narrow(x / total, call.out[row * head_dim + d]);
            else
                call.sums[row * head_dim + d] = x;
        }
        if (!whole && threadIdx.x == 0) call.softmax[row] = {top, total};
    }
}

// Joins the splits of a sequence's new row; the grid is `[joins, heads]`, a block has a thread
// for each chunk of the head. A join is a row of the step, its first partial sum, and how many
// there are.
template <class T>
__device__ void join(T* out, const float* sums, const float2* softmax, const uint32_t* joins,
                     int heads, int head_dim) {
    const uint32_t* const own = joins + 3 * blockIdx.x;
    const int head = blockIdx.y;
    if (int(threadIdx.x) * WIDTH >= head_dim) return;
    float top = minus_infinity(), total = 0.f;
    for (uint32_t i = 0; i < own[2]; i++)
        top = fmaxf(top, softmax[size_t(own[1] + i) * heads + head].x);
    float x[WIDTH] = {};
    for (uint32_t i = 0; i < own[2]; i++) {
        const size_t row = size_t(own[1] + i) * heads + head;
        const float2 part = softmax[row];
        const float factor = weight_of(part.x, top);
        total += part.y * factor;
        float y[WIDTH];
        Chunk<float>::load(sums + row * head_dim + threadIdx.x * WIDTH).widen(y);
#pragma unroll
        for (int j = 0; j < WIDTH; j++) x[j] += y[j] * factor;
    }
#pragma unroll
    for (int j = 0; j < WIDTH; j++) x[j] /= total;
    const size_t row = size_t(own[0]) * heads + head;
    Chunk<T>::store(x, out + row * head_dim + threadIdx.x * WIDTH);
}

}  // namespace paged

#define PAGED_KERNEL(NAME, FUNCTION, T, S, ROWS)                                                \
    extern "C" __global__ void __launch_bounds__(paged::WARPS* paged::WARP)                      \
        NAME(const T* q, const S* k, const S* v, const float* k_scales, const float* v_scales,  \
             T* out, float* sums, float2* softmax, const uint32_t* index, int first_item,       \
             int q_stride, int heads, int kv_heads, int head_dim, float scale) {                                                                     \
        __shared__ float4 shared[paged::SHARED<ROWS> / 4];                                      \
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
        paged::join<T>(out, sums, softmax, joins, heads, head_dim);                           \
    }
