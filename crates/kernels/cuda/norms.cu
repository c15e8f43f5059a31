// Norms over rows, with or without a residual that is added first. One block per row.
//
// rms_norm:   out = x / sqrt(mean(x^2) + eps) * weight
// layer_norm: out = (x - mean(x)) / sqrt(var(x) + eps) * weight + bias
//
// Where `added` is not null, x is `x + added`, rounded to the type of numbers and left in `sum`.
// Arrays are dense: [gridDim.x, width], weight and bias [width]. blockDim.x is a multiple of 32.
#include "common.cuh"

// N numbers of the row that is normed, from its first visit on; leaves the sum.
template <int N, class T>
__device__ __forceinline__ Pack<T, N> arrive(const T* x, const T* added, T* sum, int at) {
    Pack<T, N> values = load<N>(x + at);
    if (added != nullptr) {
        const Pack<T, N> more = load<N>(added + at);
#pragma unroll
        for (int i = 0; i < N; i++) narrow(widen(values.at[i]) + widen(more.at[i]), values.at[i]);
        store(sum + at, values);
    }
    return values;
}

template <int N, class T>
__device__ __forceinline__ void rms_norm_row(const T* x, const T* added, T* sum, const T* weight,
                                             T* out, int width, float eps) {
    const int step = blockDim.x * N;
    float squares = 0.0f;
    for (int at = threadIdx.x * N; at < width; at += step) {
        const Pack<T, N> values = arrive<N>(x, added, sum, at);
#pragma unroll
        for (int i = 0; i < N; i++) squares += widen(values.at[i]) * widen(values.at[i]);
    }
    const float factor = 1.0f / sqrtf(block_sum(squares) / width + eps);
    // A thread reads what it wrote itself.
    const T* from = added != nullptr ? sum : x;
    for (int at = threadIdx.x * N; at < width; at += step) {
        Pack<T, N> values = load<N>(from + at);
        const Pack<T, N> weights = load<N>(weight + at);
#pragma unroll
        for (int i = 0; i < N; i++)
            narrow(widen(values.at[i]) * factor * widen(weights.at[i]), values.at[i]);
        store(out + at, values);
    }
}

template <int N, class T>
__device__ __forceinline__ void layer_norm_row(const T* x, const T* added, T* sum, const T* weight,
                                               const T* bias, T* out, int width, float eps) {
    const int step = blockDim.x * N;
    float total = 0.0f;
    for (int at = threadIdx.x * N; at < width; at += step) {
        const Pack<T, N> values = arrive<N>(x, added, sum, at);
#pragma unroll
        for (int i = 0; i < N; i++) total += widen(values.at[i]);
    }
    const float mean = block_sum(total) / width;
    const T* from = added != nullptr ? sum : x;
    // In a second pass: the difference of two large sums would lose what is looked for.
    float squares = 0.0f;
    for (int at = threadIdx.x * N; at < width; at += step) {
        const Pack<T, N> values = load<N>(from + at);
#pragma unroll
        for (int i = 0; i < N; i++) {
            const float off = widen(values.at[i]) - mean;
            squares += off * off;
        }
    }
    const float factor = 1.0f / sqrtf(block_sum(squares) / width + eps);
    for (int at = threadIdx.x * N; at < width; at += step) {
        Pack<T, N> values = load<N>(from + at);
        const Pack<T, N> weights = load<N>(weight + at), biases = load<N>(bias + at);
#pragma unroll
        for (int i = 0; i < N; i++)
            narrow((widen(values.at[i]) - mean) * factor * widen(weights.at[i]) +
                       widen(biases.at[i]),
                   values.at[i]);
        store(out + at, values);
    }
}

#define NORMS(T)                                                                               \
    extern "C" __global__ void __launch_bounds__(1024, 1)                                      \
        rms_norm_##T(const T* x, const T* added, T* sum, const T* weight, T* out, int width,   \
                     float eps) {                                                              \
        const size_t row = static_cast<size_t>(blockIdx.x) * width;                            \
        x += row, out += row;                                                                  \
        if (added != nullptr) added += row, sum += row;                                        \
        constexpr int N = WIDEST<T>;                                                           \
        if (width % N == 0 && fits<N>(x) && fits<N>(added) && fits<N>(sum) &&                  \
            fits<N>(weight) && fits<N>(out))                                                   \
            rms_norm_row<N>(x, added, sum, weight, out, width, eps);                           \
        else                                                                                   \
            rms_norm_row<1>(x, added, sum, weight, out, width, eps);                           \
    }                                                                                          \
    extern "C" __global__ void __launch_bounds__(1024, 1)                                      \
        layer_norm_##T(const T* x, const T* added, T* sum, const T* weight, const T* bias,     \
                       T* out, int width, float eps) {                                         \
        const size_t row = static_cast<size_t>(blockIdx.x) * width;                            \
        x += row, out += row;                                                                  \
        if (added != nullptr) added += row, sum += row;                                        \
        constexpr int N = WIDEST<T>;                                                           \
        if (width % N == 0 && fits<N>(x) && fits<N>(added) && fits<N>(sum) &&                  \
            fits<N>(weight) && fits<N>(bias) && fits<N>(out))                                  \
            layer_norm_row<N>(x, added, sum, weight, bias, out, width, eps);                   \
        else                                                                                   \
            layer_norm_row<1>(x, added, sum, weight, bias, out, width, eps);                   \
    }
FOR_EACH_NUMBER(NORMS)
