// Rotary embedding of a head.
//
// A head is turned by its token's angles in the half-split form: with a and b the two halves of
// its first 2 * half dimensions, [a cos - b sin, b cos + a sin]; dimensions behind them stay.
// Products are rounded before they are added, as on the CPU: what is made of the sums is then the
// same to the last bit.
#pragma once

#include "common.cuh"

// Brings unit `unit` of a head: N pairs of the turned part, or N dimensions behind it. Without
// `cos` they come as they are. A head has (head_dim - half) / N units. `take` is called with the
// first dimension of each N in a row, and with these, in f32.
template <int N, class T, class Take>
__device__ __forceinline__ void bring(const T* from, const T* cos, const T* sin, int half,
                                      int unit, Take take) {
    const int at = unit * N;
    float x[N], y[N];
    if (at >= half) {
        // Behind the pairs, which took up `at` numbers twice.
        const Pack<T, N> values = load<N>(from + half + at);
#pragma unroll
        for (int i = 0; i < N; i++) x[i] = widen(values.at[i]);
        take(half + at, x);
        return;
    }
    const Pack<T, N> first = load<N>(from + at), second = load<N>(from + half + at);
#pragma unroll
    for (int i = 0; i < N; i++) x[i] = widen(first.at[i]), y[i] = widen(second.at[i]);
    if (cos != nullptr) {
        const Pack<T, N> cosines = load<N>(cos + at), sines = load<N>(sin + at);
#pragma unroll
        for (int i = 0; i < N; i++) {
            const float a = x[i], b = y[i], c = widen(cosines.at[i]), s = widen(sines.at[i]);
            x[i] = __fsub_rn(__fmul_rn(a, c), __fmul_rn(b, s));
            y[i] = __fadd_rn(__fmul_rn(b, c), __fmul_rn(a, s));
        }
    }
    take(at, x);
    take(half + at, y);
}

// Moves unit `unit` of a head.
template <int N, class T, class To>
__device__ __forceinline__ void move(const T* from, To* to, const T* cos, const T* sin, int half,
                                     int unit) {
    bring<N>(from, cos, sin, half, unit, [&](int at, const float (&x)[N]) {
        Pack<To, N> moved;
#pragma unroll
        for (int i = 0; i < N; i++) narrow(x[i], moved.at[i]);
        store(to + at, moved);
    });
}

// Whether heads fall into whole packs.
template <int N>
__device__ __forceinline__ bool whole(int head_dim, int half, size_t stride) {
    return head_dim % N == 0 && half % N == 0 && stride % N == 0;
}
