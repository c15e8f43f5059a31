// Attention of a group of heads' rows to keys that lie in pages or one after the other.
//
// Scores never leave the chip: keys are taken a page at a time with the softmax carried along
// (Milakov and Gimelshein 2018; Dao et al. 2022). All query heads that share a key head are rows
// of one tile, so that each page is read once for them; row `m` of a tile is token `m / group`
// and head `m % group` of the group.
//
// A warp keeps ROWS rows in registers and reads a page in lots: so many lanes as a head has
// chunks of eight elements take one key, the others the next ones. A key is multiplied by all
// rows while it is in registers. How many lanes that is does not change a kernel's code, so one
// kernel serves every head dimension that is a multiple of 8, up to 256.
//
// The warps of a block share the work in one of two ways:
//
// * `attend_split`: few rows. The warps take turns with the pages of one split of the keys, and
//   put their sums together at the end. The sums of the splits are joined by `join`
//   (Flash-Decoding, Dao et al. 2023).
// * `attend_all`: many rows. Each warp has rows of its own and walks through all the pages that
//   they see; four warps walk side by side and find pages in the first-level cache. For 16-bit
//   floats and heads of up to 128 there is a faster one: attention_tensor_cores.cuh.
//
// Splits have a fixed length, so what a row gives depends on its own keys and on nothing else in
// the call.
//
// Where rows and keys lie a template's `Keys` tells, a small object that each thread makes:
//
//   Number, Stored    types of queries and results, and of keys and values
//   head_dim()        elements of a head
//   scale()           multiplies scores; times log2(e), so that weights are powers of 2
//   query(row)        the first element of a row of the group
//   result(row)       where its result goes
//   visible(row)      keys that it sees: the first ones, at least one
//   k(), v()          keys and values, of which
//   page(number)      is what page `number` is called in the following,
//   at(page)          the place of its first key, in elements, and
//   stride()          what lies from key to key
//   k_scale(page, key), v_scale(page, key)
//                     what codes are to be multiplied by
//   part(row)         the row's place among partial sums, where there are any
#pragma once

#include "common.cuh"

namespace attention {

// Keys in a page: PAGE_TOKENS.
constexpr int PAGE = 32;
constexpr int WARP = 32;
// Warps in a block.
constexpr int WARPS = 4;
// Elements of a head that a lane holds.
constexpr int WIDTH = 8;
// The largest head that the lanes of a warp hold together.
constexpr int MAX_HEAD_DIM = WARP * WIDTH;
// Lots of a page that are asked for before the first is needed.
constexpr int AHEAD = 4;
constexpr unsigned ALL = 0xffffffffu;

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

// What a warp holds of its rows. Rows lie over the lanes in two ways: sums and queries by
// elements of the head, softmax by `lane % ROWS`.
template <class Keys, int ROWS>
struct Warp {
    using T = typename Keys::Number;
    using S = typename Keys::Stored;

    const Keys& keys;
    // Of this warp alone: `[PAGE, ROWS]` scores, then weights; and `[ROWS]` factors.
    float* weights;
    int lane, first, end;
    // Lanes that take one key, and their number as a shift; this lane's chunk of the head.
    int lanes, shift, chunk;
    bool wide;
    float q[ROWS][WIDTH];
    float sums[ROWS][WIDTH];
    // The largest score so far, and the sum of this lane's weights relative to it.
    float top, total;

    // The rows `first..` of a group, of which `end` there are.
    __device__ Warp(const Keys& keys, float* weights, int first, int end)
        : keys(keys), weights(weights), first(first), end(end) {
        lane = threadIdx.x % WARP;
        shift = keys.head_dim() <= 64 ? 3 : keys.head_dim() <= 128 ? 4 : 5;
        lanes = 1 << shift;
        chunk = lane & (lanes - 1);
        wide = chunk * WIDTH < keys.head_dim();
        top = minus_infinity();
        total = 0.f;
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
            Chunk<T> chunk_of_q = Chunk<T>::zero();
            if (wide && first + r < end)
                chunk_of_q = Chunk<T>::load(keys.query(first + r) + chunk * WIDTH);
            chunk_of_q.widen(q[r]);
#pragma unroll
            for (int i = 0; i < WIDTH; i++) q[r][i] *= keys.scale(), sums[r][i] = 0.f;
        }
    }

    // Keys that row `r` sees; none for a row that is not there.
    __device__ int visible(int r) const { return first + r < end ? keys.visible(first + r) : 0; }
    // Keys that the last row sees.
    __device__ int limit() const { return keys.visible(min(first + ROWS, end) - 1); }

    // Of a lot of `AHEAD` keys of each group of lanes, those that are below `count`; what lies
    // beyond the end of a sequence may be no number, and is not read.
    __device__ void read(Chunk<S> (&lot)[AHEAD], const S* at, int step, int count) const {
        const int side = WARP >> shift;
        const size_t stride = keys.stride();
#pragma unroll
        for (int u = 0; u < AHEAD; u++) {
            const int key = (step + u) * side + (lane >> shift);
            lot[u] = wide && key < count ? Chunk<S>::load(at + key * stride) : Chunk<S>::zero();
        }
    }

    // Takes a page into account, of which the last row sees `count` keys.
    __device__ void page(int number, int count) {
        const auto page = keys.page(number);
        const size_t at = keys.at(page) + chunk * WIDTH;
        score(keys.k() + at, count);
        __syncwarp();
        soften(number, page);
        __syncwarp();
        collect(keys.v() + at, count);
        // The next page's scores go where weights are read.
        __syncwarp();
    }

    __device__ void score(const S* keys_at, int count) {
        // So many keys that there are eight sums to exchange.
        constexpr int TOGETHER = WIDTH / ROWS < AHEAD ? WIDTH / ROWS : AHEAD;
        constexpr int COUNT = TOGETHER * ROWS;
        const int side = WARP >> shift;
        const int own = chunk * COUNT >> shift;
        const bool writes = (chunk & ((lanes / COUNT) - 1)) == 0;
        for (int step = 0; step * side < count; step += AHEAD) {
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
                const int key = (step + u + own / ROWS) * side + (lane >> shift);
                if (writes) weights[key * ROWS + own % ROWS] = sum;
            }
        }
    }

    // Makes weights of scores. A lane has the row `lane % ROWS` and every `WARP / ROWS`th key.
    __device__ void soften(int number, typename Keys::Page page) {
        const int seen = visible(lane % ROWS) - number * PAGE;
        float scores[ROWS];
        float best = top;
#pragma unroll
        for (int i = 0; i < ROWS; i++) {
            const int key = i * (WARP / ROWS) + lane / ROWS;
            scores[i] = minus_infinity();
            if (key < seen) {
                scores[i] = weights[i * WARP + lane];
                if constexpr (SCALED<S>) scores[i] *= keys.k_scale(page, key);
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
            if constexpr (SCALED<S>)
                if (key < seen) weight *= keys.v_scale(page, key);
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
        const int side = WARP >> shift;
        for (int step = 0; step * side < count; step += AHEAD) {
            Chunk<S> lot[AHEAD];
            read(lot, values_at, step, count);
#pragma unroll
            for (int u = 0; u < AHEAD; u++) {
                const int key = (step + u) * side + (lane >> shift);
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

// Floats of shared memory that a warp has for weights and factors; whole float4s.
template <int ROWS>
constexpr int WEIGHTS = PAGE * ROWS + (ROWS < 4 ? 4 : ROWS);

// And a block, for that and for sums.
template <int ROWS>
constexpr int SHARED = WARPS * (WEIGHTS<ROWS> > MAX_HEAD_DIM ? WEIGHTS<ROWS> : MAX_HEAD_DIM);

// Several rows of a group, those of this block's warps from `first` on; the group has `end`.
// `shared` is SHARED<ROWS>.
template <class Keys, int ROWS>
__device__ void attend_all(const Keys& keys, int first, int end, float* shared) {
    using T = typename Keys::Number;
    const int warp = threadIdx.x / WARP;
    first += warp * ROWS;
    // Warps never wait for each other here.
    if (first >= end) return;
    Warp<Keys, ROWS> own(keys, shared + warp * WEIGHTS<ROWS>, first, end);
    const int limit = own.limit();
    for (int page = 0; page * PAGE < limit; page++) own.page(page, min(limit - page * PAGE, PAGE));
    own.gather();
    const int side = WARP >> own.shift;
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
        const float whole = 1.f / __shfl_sync(ALL, own.total, r);
        float x[WIDTH];
#pragma unroll
        for (int i = 0; i < WIDTH; i++) x[i] = own.sums[r][i] * whole;
        if (!own.wide || first + r >= end || r % side != own.lane >> own.shift) continue;
        Chunk<T>::store(x, keys.result(first + r) + own.chunk * WIDTH);
    }
}

// Where the sums of a split go that is not all there is.
struct Parts {
    // `[partials, heads, head_dim]` sums of values, relative to the largest score.
    float* sums;
    // `[partials, heads]` that largest score, and the sum of weights relative to it.
    float2* softmax;
};

// The rows `first..first + ROWS` of a group, as far as there are `end`, over some pages of which
// they see the same. `shared` is SHARED<ROWS>; results go to `parts` unless they are `whole`.
template <class Keys, int ROWS>
__device__ void attend_split(const Keys& keys, int first, int end, int first_page, int end_page,
                             bool whole, const Parts& parts, float* shared) {
    const int warp = threadIdx.x / WARP;
    const int head_dim = keys.head_dim();
    Warp<Keys, ROWS> own(keys, shared + warp * WEIGHTS<ROWS>, first, end);
    const int limit = own.limit();
    for (int page = first_page + warp; page < end_page; page += WARPS)
        own.page(page, min(limit - page * PAGE, PAGE));
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
        if (first + r >= end) continue;
        float top = minus_infinity(), total = 0.f;
        float factors[WARPS];
#pragma unroll
        for (int w = 0; w < WARPS; w++) top = fmaxf(top, softmax[w][r].x);
#pragma unroll
        for (int w = 0; w < WARPS; w++) {
            factors[w] = weight_of(softmax[w][r].x, top);
            total += softmax[w][r].y * factors[w];
        }
        for (int d = threadIdx.x; d < head_dim; d += WARPS * WARP) {
            float x = 0.f;
#pragma unroll
            for (int w = 0; w < WARPS; w++) x += shared[w * MAX_HEAD_DIM + d] * factors[w];
            if (whole)
                narrow(x / total, keys.result(first + r)[d]);
            else
                parts.sums[keys.part(first + r) * head_dim + d] = x;
        }
        if (!whole && threadIdx.x == 0) parts.softmax[keys.part(first + r)] = {top, total};
    }
}

// Joins `count` partial sums of a row's head, from `first` on, to its result; a block has a thread
// for each chunk of the head.
template <class T>
__device__ void join(T* result, const float* sums, const float2* softmax, size_t first, int count,
                     int heads, int head, int head_dim) {
    if (int(threadIdx.x) * WIDTH >= head_dim) return;
    float top = minus_infinity(), total = 0.f;
    for (int i = 0; i < count; i++) top = fmaxf(top, softmax[(first + i) * heads + head].x);
    float x[WIDTH] = {};
    for (int i = 0; i < count; i++) {
        const size_t row = (first + i) * heads + head;
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
    Chunk<T>::store(x, result + threadIdx.x * WIDTH);
}

}  // namespace attention
