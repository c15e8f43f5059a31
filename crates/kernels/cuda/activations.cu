// Activations. Threads stride over the grid, so any grid of any blocks is right.
#include "common.cuh"

__device__ __forceinline__ float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

struct QuickGelu {
    __device__ __forceinline__ static float of(float x) { return x * sigmoid(1.702f * x); }
};

struct SquaredRelu {
    __device__ __forceinline__ static float of(float x) {
        // Not fmaxf, which gives 0 for NaN.
        const float positive = x < 0.0f ? 0.0f : x;
        return positive * positive;
    }
};

// out = silu(gate) * up; `gate_up` is [gridDim.x, 2 * width], dense, the gate first, and `out`
// [gridDim.x, width].
template <int N, class T>
__device__ __forceinline__ void swiglu_row(const T* gate_up, T* out, int width) {
    const int step = gridDim.y * blockDim.x * N;
    for (int at = (blockIdx.y * blockDim.x + threadIdx.x) * N; at < width; at += step) {
        Pack<T, N> gate = load<N>(gate_up + at);
        const Pack<T, N> up = load<N>(gate_up + width + at);
#pragma unroll
        for (int i = 0; i < N; i++) {
            const float g = widen(gate.at[i]);
            narrow(g * sigmoid(g) * widen(up.at[i]), gate.at[i]);
        }
        store(out + at, gate);
    }
}

// out[i] = F::of(x[i]) for `count` elements.
template <class F, int N, class T>
__device__ __forceinline__ void map(const T* x, T* out, size_t first, size_t count) {
    const size_t thread = static_cast<size_t>(blockIdx.x) * blockDim.x + threadIdx.x;
    const size_t step = static_cast<size_t>(gridDim.x) * blockDim.x * N;
    for (size_t at = first + thread * N; at < count; at += step) {
        Pack<T, N> values = load<N>(x + at);
#pragma unroll
        for (int i = 0; i < N; i++) narrow(F::of(widen(values.at[i])), values.at[i]);
        store(out + at, values);
    }
}

template <class F, class T>
__device__ __forceinline__ void map_all(const T* x, T* out, size_t count) {
    constexpr int N = WIDEST<T>;
    const size_t wide = fits<N>(x) && fits<N>(out) ? count / N * N : 0;
    map<F, N>(x, out, 0, wide);
    map<F, 1>(x, out, wide, count);
}

#define ACTIVATIONS(T)                                                                        \
    extern "C" __global__ void __launch_bounds__(1024, 1)                                     \
        swiglu_##T(const T* gate_up, T* out, int width) {                                     \
        gate_up += static_cast<size_t>(blockIdx.x) * 2 * width;                               \
        out += static_cast<size_t>(blockIdx.x) * width;                                       \
        constexpr int N = WIDEST<T>;                                                          \
        if (width % N == 0 && fits<N>(gate_up) && fits<N>(out))                               \
            swiglu_row<N>(gate_up, out, width);                                               \
        else                                                                                  \
            swiglu_row<1>(gate_up, out, width);                                               \
    }                                                                                         \
    extern "C" __global__ void __launch_bounds__(1024, 1)                                     \
        quick_gelu_##T(const T* x, T* out, size_t count) {                                    \
        map_all<QuickGelu>(x, out, count);                                                    \
    }                                                                                         \
    extern "C" __global__ void __launch_bounds__(1024, 1)                                     \
        squared_relu_##T(const T* x, T* out, size_t count) {                                  \
        map_all<SquaredRelu>(x, out, count);                                                  \
    }
FOR_EACH_NUMBER(ACTIVATIONS)
