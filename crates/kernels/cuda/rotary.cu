// Rotary embedding, alone and on the way from a joined projection into the pages of the cache.
//
// How heads are turned, rotary.cuh tells. `cos` and `sin` are [tokens, half], dense. blockIdx.x is
// the token; threads stride over the token's heads along y, so gridDim.y and blockDim.x may be
// anything. Pages of codes are written by write_codes.cu.
#include "rotary.cuh"

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
