// Rotary embedding, alone and on the way from a joined projection into the pages of the cache.
//
// A head is turned by its token's angles in the half-split form: with a and b the two halves of
// its first 2 * half dimensions, [a cos - b sin, b cos + a sin]; dimensions behind them stay.
// `cos` and `sin` are [tokens, half], dense. blockIdx.x is the token; threads stride over the
// token's heads along y, so gridDim.y and blockDim.x may be anything.
#include "common.cuh"

// Moves unit `unit` of a head: N pairs of the turned part, or N dimensions behind it. Without
// `cos` it moves them as they are. A head has (head_dim - half) / N units.
template <int N, class T, class To>
__device__ __forceinline__ void move(const T* from, To* to, const T* cos, const T* sin, int half,
                                     int unit) {
    const int at = unit * N;
    if (at >= half) {
        // Behind the pairs, which took up `at` numbers twice.
        const Pack<T, N> values = load<N>(from + half + at);
        Pack<To, N> moved;
#pragma unroll
        for (int i = 0; i < N; i++) narrow(widen(values.at[i]), moved.at[i]);
        store(to + half + at, moved);
        return;
    }
    const Pack<T, N> first = load<N>(from + at), second = load<N>(from + half + at);
    Pack<To, N> a, b;
    if (cos != nullptr) {
        const Pack<T, N> c = load<N>(cos + at), s = load<N>(sin + at);
#pragma unroll
        for (int i = 0; i < N; i++) {
            const float x = widen(first.at[i]), y = widen(second.at[i]);
            narrow(x * widen(c.at[i]) - y * widen(s.at[i]), a.at[i]);
            narrow(y * widen(c.at[i]) + x * widen(s.at[i]), b.at[i]);
        }
    } else {
#pragma unroll
        for (int i = 0; i < N; i++) {
            narrow(widen(first.at[i]), a.at[i]);
            narrow(widen(second.at[i]), b.at[i]);
        }
    }
    store(to + at, a);
    store(to + half + at, b);
}

// Whether heads fall into whole packs.
template <int N>
__device__ __forceinline__ bool whole(int head_dim, int half, size_t stride) {
    return head_dim % N == 0 && half % N == 0 && stride % N == 0;
}

template <int N, class T>
__device__ __forceinline__ void turn_token(const T* x, const T* cos, const T* sin, T* out,
                                           int heads, int head_dim, int half) {
    const int units = (head_dim - half) / N, step = gridDim.y * blockDim.x;
    for (int at = blockIdx.y * blockDim.x + threadIdx.x; at < heads * units; at += step) {
        const size_t head = static_cast<size_t>(at / units) * head_dim;
        move<N>(x + head, out + head, cos, sin, half, at % units);
    }
}

// The heads of a token of the joined row: queries to `q`, keys and values to their slot.
template <int N, class T, class P>
__device__ __forceinline__ void qkv_token(const T* qkv, const T* cos, const T* sin, T* q, P* k,
                                          P* v, int heads, int kv_heads, int head_dim, int half) {
    const int units = (head_dim - half) / N, step = gridDim.y * blockDim.x;
    const int all = (heads + 2 * kv_heads) * units;
    for (int at = blockIdx.y * blockDim.x + threadIdx.x; at < all; at += step) {
        const int head = at / units, unit = at % units;
        const T* from = qkv + static_cast<size_t>(head) * head_dim;
        const T* none = nullptr;
        if (head < heads) {
            move<N>(from, q + head * head_dim, cos, sin, half, unit);
        } else if (head < heads + kv_heads) {
            move<N>(from, k + (head - heads) * head_dim, cos, sin, half, unit);
        } else {
            move<N>(from, v + (head - heads - kv_heads) * head_dim, none, none, half, unit);
        }
    }
}

// Row t of `x` starts at t * stride and holds [heads, head_dim]; `out` is dense.
#define TURN(T)                                                                               \
    extern "C" __global__ void __launch_bounds__(256)                                         \
        turn_##T(const T* x, const T* cos, const T* sin, T* out, size_t stride, int heads,    \
                 int head_dim, int half) {                                                    \
        const size_t token = blockIdx.x;                                                      \
        x += token * stride, cos += token * half, sin += token * half;                        \
        out += token * heads * head_dim;                                                      \
        constexpr int N = WIDEST<T>;                                                          \
        if (whole<N>(head_dim, half, stride) && fits<N>(x) && fits<N>(cos) && fits<N>(sin) && \
            fits<N>(out))                                                                     \
            turn_token<N>(x, cos, sin, out, heads, head_dim, half);                           \
        else                                                                                  \
            turn_token<1>(x, cos, sin, out, heads, head_dim, half);                           \
    }
FOR_EACH_NUMBER(TURN)

// Row t of `qkv` starts at t * stride and holds [heads + 2 * kv_heads, head_dim]: queries, keys,
// values. `q` is [tokens, heads, head_dim]; the pages are [slots, kv_heads, head_dim], and row t
// goes to slots[t]. Where heads are not turned, `cos` is null and `half` 0.
#define QKV(T, P)                                                                             \
    extern "C" __global__ void __launch_bounds__(256)                                         \
        qkv_rope_write_##T##_##P(const T* qkv, const T* cos, const T* sin, T* q, P* k_pages,  \
                                 P* v_pages, const unsigned* slots, size_t stride, int heads, \
                                 int kv_heads, int head_dim, int half) {                      \
        const size_t token = blockIdx.x, slot = slots[token];                                 \
        qkv += token * stride, q += token * heads * head_dim;                                 \
        if (cos != nullptr) cos += token * half, sin += token * half;                         \
        k_pages += slot * kv_heads * head_dim, v_pages += slot * kv_heads * head_dim;         \
        constexpr int N = WIDEST<T>;                                                          \
        if (whole<N>(head_dim, half, stride) && fits<N>(qkv) && fits<N>(cos) &&               \
            fits<N>(sin) && fits<N>(q) && fits<N>(k_pages) && fits<N>(v_pages))               \
            qkv_token<N>(qkv, cos, sin, q, k_pages, v_pages, heads, kv_heads, head_dim, half); \
        else                                                                                  \
            qkv_token<1>(qkv, cos, sin, q, k_pages, v_pages, heads, kv_heads, head_dim, half); \
    }
#define QKV_FROM(T) QKV(T, f32) QKV(T, f16) QKV(T, bf16)
FOR_EACH_NUMBER(QKV_FROM)
