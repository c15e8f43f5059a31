// New keys and values on their way into pages of codes, and the queries beside them.
//
// A row is one head of one token. Its scale and its codes are those of `src/pages.rs`, made in f32
// of the turned head, which is not rounded in between; each operation is rounded by itself, so
// that they are the CPU's to the last bit. blockIdx.x is the token; warps stride over the token's
// heads along y.
#include "rotary.cuh"

// Elements that a lane takes at a time, where heads fall into as many.
constexpr int TOGETHER = 4;

// What infinity's bits are without the sign.
constexpr uint32_t INFINITE = 0x7f800000u;

// Makes codes of a head, by one warp. The head is read twice, the second time from the cache.
template <int N, class T>
__device__ __forceinline__ void write_row(const T* from, const T* cos, const T* sin, int half,
                                          int units, uint8_t* codes, float* scale) {
    const int lane = threadIdx.x % 32;
    // Sizes are ordered as their bits are, those of infinity and NaN above all others.
    uint32_t largest = 0;
    for (int unit = lane; unit < units; unit += 32)
        bring<N>(from, cos, sin, half, unit, [&](int, const float (&x)[N]) {
#pragma unroll
            for (int i = 0; i < N; i++) largest = max(largest, __float_as_uint(x[i]) & ~(1u << 31));
        });
#pragma unroll
    for (int apart = 16; apart > 0; apart /= 2)
        largest = max(largest, __shfl_xor_sync(0xffffffffu, largest, apart));
    const bool finite = largest < INFINITE;
    const float least = __uint_as_float(0x00800000u), none = __uint_as_float(0x7fc00000u);
    const float own =
        finite ? __fadd_rn(__fmul_rn(__uint_as_float(largest), 1.f / 127.f), least) : none;
    if (lane == 0) *scale = own;
    for (int unit = lane; unit < units; unit += 32)
        bring<N>(from, cos, sin, half, unit, [&](int at, const float (&x)[N]) {
            Pack<uint8_t, N> row;
#pragma unroll
            for (int i = 0; i < N; i++) {
                // 1.5 to 255.5; the cast cuts fractions off.
                const float code = finite ? __fadd_rn(__fdiv_rn(x[i], own), 128.5f) : 0.f;
                row.at[i] = static_cast<uint8_t>(static_cast<uint32_t>(code));
            }
            store(codes + at, row);
        });
}

// The heads of a token.
template <class T>
struct Token {
    const T *q, *k, *v, *cos, *sin;
    T* turned;
    uint8_t *k_codes, *v_codes;
    float *k_scales, *v_scales;
    int heads, kv_heads, head_dim, half;

    template <int N>
    __device__ __forceinline__ bool takes(size_t stride) const {
        return whole<N>(head_dim, half, stride) && fits<N>(q) && fits<N>(k) && fits<N>(v) &&
               fits<N>(cos) && fits<N>(sin) && fits<N>(turned) && fits<N>(k_codes) &&
               fits<N>(v_codes);
    }

    template <int N>
    __device__ __forceinline__ void write() const {
        const int units = (head_dim - half) / N, warps = gridDim.y * blockDim.x / 32;
        const int first = (blockIdx.y * blockDim.x + threadIdx.x) / 32;
        const T* const none = nullptr;
        for (int head = first; head < heads + 2 * kv_heads; head += warps) {
            if (head < heads) {
                const int at = head * head_dim;
                for (int unit = threadIdx.x % 32; unit < units; unit += 32)
                    move<N>(q + at, turned + at, cos, sin, half, unit);
            } else if (head < heads + kv_heads) {
                const int own = head - heads, at = own * head_dim;
                write_row<N>(k + at, cos, sin, half, units, k_codes + at, k_scales + own);
            } else {
                const int own = head - heads - kv_heads, at = own * head_dim;
                write_row<N>(v + at, none, none, half, units, v_codes + at, v_scales + own);
            }
        }
    }
};

// Row t of `q`, `k` and `v` starts at t * stride and holds [heads, head_dim] or
// [kv_heads, head_dim]; `turned` is [tokens, heads, head_dim], `cos` and `sin` are [tokens, half].
// The codes are [slots, kv_heads, head_dim] and the scales [slots, kv_heads]; row t goes to
// slots[t]. Where heads are not turned, `cos` is null and `half` 0.
#define WRITE_CODES(T)                                                                           \
    extern "C" __global__ void __launch_bounds__(256) write_codes_##T(                           \
        const T* q, const T* k, const T* v, const T* cos, const T* sin, T* turned,               \
        uint8_t* k_codes, float* k_scales, uint8_t* v_codes, float* v_scales,                    \
        const unsigned* slots, size_t stride, int heads, int kv_heads, int head_dim, int half) { \
        const size_t token = blockIdx.x, slot = slots[token];                                    \
        const size_t from = token * stride, codes = slot * kv_heads * head_dim;                  \
        const size_t angle = token * half;                                                       \
        const Token<T> own = {q + from,                                                          \
                              k + from,                                                          \
                              v + from,                                                          \
                              cos == nullptr ? cos : cos + angle,                                \
                              sin == nullptr ? sin : sin + angle,                                \
                              turned + token * heads * head_dim,                                 \
                              k_codes + codes,                                                   \
                              v_codes + codes,                                                   \
                              k_scales + slot * kv_heads,                                        \
                              v_scales + slot * kv_heads,                                        \
                              heads,                                                             \
                              kv_heads,                                                          \
                              head_dim,                                                          \
                              half};                                                             \
        if (own.template takes<TOGETHER>(stride))                                                \
            own.template write<TOGETHER>();                                                      \
        else                                                                                     \
            own.template write<1>();                                                             \
    }
FOR_EACH_NUMBER(WRITE_CODES)
