// Draws tokens from rows of logits. src/draw.rs tells what is drawn, and that it must be the same as
// on the CPU, to the bit: hence whole numbers, whose sums have no order, and the intrinsics that round
// by themselves, which the compiler never makes one of.
//
// One block takes one draw. It never sorts: `top_k` and `top_p` end at some logit, which is found bit
// by bit (a radix select with 2048 bins), and the token at a place of a row is found by sums of ever
// smaller parts. A row is read two times for a plain draw and five times more for each of the two.

typedef unsigned long long Sum;
typedef unsigned long long Key;

constexpr unsigned THREADS = 1024;
constexpr unsigned WARPS = THREADS / 32;
constexpr unsigned ALL_LANES = 0xffffffffu;
constexpr unsigned NOTHING = 0xffffffffu;

// Of src/draw.rs, as src/cuda/draw.rs writes it.
struct Draw {
    unsigned row;
    float temperature;
    // 0 keeps all.
    unsigned top_k;
    // In units of 2^-64, the lower half first; 0 keeps all.
    unsigned share[2];
    unsigned least[2];
    unsigned number[2];
};
static_assert(sizeof(Draw) == 9 * sizeof(unsigned), "written word by word");

__device__ __forceinline__ Sum whole(const unsigned (&halves)[2]) {
    return static_cast<Sum>(halves[1]) << 32 | halves[0];
}

// As src/draw/key.rs has it; NaN is above all.
__device__ __forceinline__ unsigned ordered(float x) {
    if (x != x) return 0xffffffffu;
    const unsigned bits = __float_as_uint(__fadd_rn(x, 0.0f));
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

__device__ __forceinline__ float logit_of(unsigned ordered) {
    return __uint_as_float(ordered & 0x80000000u ? ordered ^ 0x80000000u : ~ordered);
}

// Of negative and of positive infinity.
constexpr unsigned LOWEST_ORDERED = 0x007fffffu;
constexpr unsigned INFINITE_ORDERED = 0xff800000u;

// As src/draw/weight.rs has it, operation by operation.
struct Scale {
    float highest;
    float temperature;

    __device__ __forceinline__ Sum weight(float logit) const {
        float x = __fdiv_rn(__fsub_rn(logit, highest), temperature);
        x = x > -31.0f ? x : -31.0f;
        const float magic = 12582912.0f;
        const float shifted = __fadd_rn(__fmul_rn(x, 1.44269504f), magic);
        const float n = __fsub_rn(shifted, magic);
        float rest = __fsub_rn(x, __fmul_rn(n, 0.693359375f));
        rest = __fsub_rn(rest, __fmul_rn(n, -2.1219444e-4f));
        const float series[8] = {1.0f,         1.0f,          1.0f / 2.0f,   1.0f / 6.0f,
                                 1.0f / 24.0f, 1.0f / 120.0f, 1.0f / 720.0f, 1.0f / 5040.0f};
        float sum = series[7];
#pragma unroll
        for (int i = 6; i >= 0; --i) sum = __fadd_rn(__fmul_rn(sum, rest), series[i]);
        const float power = __uint_as_float((__float_as_uint(shifted) << 23) + ((127u + 43u) << 23));
        return __float2ull_rn(__fmul_rn(sum, power));
    }
};

__device__ __forceinline__ Sum warp_sum(Sum x) {
#pragma unroll
    for (int apart = 16; apart > 0; apart /= 2) x += __shfl_xor_sync(ALL_LANES, x, apart);
    return x;
}

// The greatest of the threads' keys, in every thread. Called once.
__device__ Key greatest(Key own) {
    __shared__ Key of_warp[WARPS];
#pragma unroll
    for (int apart = 16; apart > 0; apart /= 2) {
        const Key other = __shfl_xor_sync(ALL_LANES, own, apart);
        if (other > own) own = other;
    }
    if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = own;
    __syncthreads();
    for (unsigned warp = 0; warp < WARPS; ++warp) {
        if (of_warp[warp] > own) own = of_warp[warp];
    }
    return own;
}

// An element, and how far a place lies within it.
struct Place {
    unsigned index;
    Sum rest;
};

// The element at the place `aim(total)` of `length` elements that measure `total` together, which is
// more than that. Every warp sums up a part of them; then the part in which the place lies is divided
// in the same way. All threads of the block call it, and all know the result.
template <class Measure, class Aim>
__device__ Place find(unsigned length, Measure measure, Aim aim) {
    __shared__ Sum of_warp[WARPS];
    const unsigned lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    unsigned begin = 0;
    Sum rest = 0;
    for (bool first = true;; first = false) {
        const unsigned part = (length + WARPS - 1) / WARPS;
        const unsigned from = warp * part < length ? warp * part : length;
        const unsigned to = length - from < part ? length : from + part;
        Sum sum = 0;
#pragma unroll 4
        for (unsigned i = from + lane; i < to; i += 32) sum += measure(begin + i);
        sum = warp_sum(sum);
        // The last sums may still be being read.
        __syncthreads();
        if (lane == 0) of_warp[warp] = sum;
        __syncthreads();
        if (first) {
            Sum total = 0;
            for (unsigned i = 0; i < WARPS; ++i) total += of_warp[i];
            rest = aim(total);
        }
        unsigned its = 0;
        while (its + 1 < WARPS && of_warp[its] <= rest) rest -= of_warp[its++];
        begin += its * part;
        length = length - its * part < part ? length - its * part : part;
        if (length <= 1) return {begin, rest};
    }
}

// The tokens that are kept: logits above a bound, and of those at the bound the first ones.
struct Cut {
    unsigned bound;
    unsigned last;

    __device__ __forceinline__ bool keeps(unsigned ordered, unsigned id) const {
        return ordered > bound || (ordered == bound && id <= last);
    }
};

// Values of a digit of an ordered logit: 11 bits, the highest first; three digits are all.
constexpr unsigned BINS = 2048;

// A sum for each value of a digit. Of 64 bits, added up in halves: cards add 32 bits in shared memory
// at once, but 64 only by trying again and again.
struct Histogram {
    unsigned low[BINS];
    unsigned high[BINS];

    __device__ __forceinline__ void add(unsigned bin, Sum x) {
        const unsigned half = static_cast<unsigned>(x);
        const unsigned before = atomicAdd(&low[bin], half);
        // Who makes the lower half overflow carries.
        const unsigned carry = static_cast<unsigned>(before + half) < before;
        const unsigned upper = static_cast<unsigned>(x >> 32) + carry;
        if (upper != 0) atomicAdd(&high[bin], upper);
    }

    __device__ __forceinline__ Sum at(unsigned bin) const {
        return static_cast<Sum>(high[bin]) << 32 | low[bin];
    }
};

// The fewest of the tokens within `within`, best first, that measure more than `aim` makes of what all
// of these measure.
template <class Measure, class Aim>
__device__ Cut cut(const float* row, unsigned width, Cut within, Measure measure, Aim aim,
                   Histogram& histogram) {
    unsigned bound = 0;
    Sum rest = 0;
    unsigned shift = 32;
    for (int digit = 0; digit < 3; ++digit) {
        const unsigned above = shift;
        shift -= digit == 2 ? 10 : 11;
        for (unsigned bin = threadIdx.x; bin < BINS; bin += THREADS) {
            histogram.low[bin] = 0;
            histogram.high[bin] = 0;
        }
        __syncthreads();
#pragma unroll 4
        for (unsigned i = threadIdx.x; i < width; i += THREADS) {
            const float logit = row[i];
            const unsigned value = ordered(logit);
            // The digits before are those of the bound.
            const bool beside = static_cast<Sum>(value ^ bound) >> above == 0;
            if (beside && within.keeps(value, i)) {
                const Sum x = measure(logit);
                if (x != 0) histogram.add(value >> shift & (BINS - 1), x);
            }
        }
        __syncthreads();
        const Place place = find(
            BINS, [&](unsigned bin) { return histogram.at(BINS - 1 - bin); },
            [&](Sum total) { return digit == 0 ? aim(total) : rest; });
        // The last digit begins with a bit that the one before ended with: all have the same there.
        bound |= (BINS - 1 - place.index) << shift;
        rest = place.rest;
    }
    // How many of those at the bound are passed before it is reached.
    const Sum passed = rest / measure(logit_of(bound));
    const Place last = find(
        width, [&](unsigned i) -> Sum { return ordered(row[i]) == bound; }, [&](Sum) { return passed; });
    return {bound, last.index};
}

// `logits` is [rows, width]; `draws` and `ids` have one element for each block. Grid: draws. Block:
// THREADS. `width` is at least 1 and at most 2^20, and the rows of all draws are there.
extern "C" __global__ void __launch_bounds__(THREADS)
    draw_f32(const float* __restrict__ logits, const Draw* __restrict__ draws, unsigned* __restrict__ ids,
             unsigned width) {
    __shared__ Histogram histogram;
    const Draw draw = draws[blockIdx.x];
    const float* row = logits + static_cast<size_t>(draw.row) * width;

    Key best = 0;
#pragma unroll 4
    for (unsigned i = threadIdx.x; i < width; i += THREADS) {
        const Key key = static_cast<Key>(ordered(row[i])) << 32 | (0xffffffffu - i);
        if (key > best) best = key;
    }
    best = greatest(best);
    const unsigned highest = static_cast<unsigned>(best >> 32);
    const bool finite = highest > LOWEST_ORDERED && highest < INFINITE_ORDERED;
    if (!finite || draw.temperature == 0.0f || draw.top_k == 1) {
        const unsigned first = 0xffffffffu - static_cast<unsigned>(best);
        if (threadIdx.x == 0) ids[blockIdx.x] = finite ? first : NOTHING;
        return;
    }

    const Scale scale = {logit_of(highest), draw.temperature};
    Cut kept = {0, 0xffffffffu};
    if (draw.top_k != 0 && draw.top_k < width) {
        const Sum others = draw.top_k - 1;
        kept = cut(
            row, width, kept, [](float) -> Sum { return 1; }, [=](Sum) { return others; }, histogram);
    }
    const Sum share = whole(draw.share);
    if (share != 0) {
        kept = cut(
            row, width, kept, [=](float logit) { return scale.weight(logit); },
            // One less than the least sum that is the share of all.
            [=](Sum total) { return __umul64hi(share, total) - (share * total == 0); }, histogram);
    }
    const Sum least = whole(draw.least), number = whole(draw.number);
    const Place drawn = find(
        width,
        [=](unsigned i) -> Sum {
            const float logit = row[i];
            if (!kept.keeps(ordered(logit), i)) return 0;
            const Sum weight = scale.weight(logit);
            return weight >= least ? weight : 0;
        },
        [=](Sum total) { return __umul64hi(number, total); });
    if (threadIdx.x == 0) ids[blockIdx.x] = drawn.index;
}
