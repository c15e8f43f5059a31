// Pictures as rows of patches, normalised on the way: a row of the result is a patch in the order of
// a convolution's weight, which is colour, row, column.
//
// A row of patches, a strip, is `patch` rows of pixels; in the pictures and in the result its
// numbers lie together. So a strip is the work of blocks along y, whose threads write it from its
// beginning to its end in the widest packs that fit, and read pixels that lie as close together.
#include "common.cuh"

constexpr int COLOURS = 3, LEVELS = 256;

// Where in its strip a number comes from: of which patch, by its first column, and where in that.
struct Place {
    int column, colour, y, x;

    __device__ __forceinline__ Place(int at, int patch) {
        x = at % patch;
        at /= patch;
        y = at % patch;
        at /= patch;
        colour = at % COLOURS;
        column = at / COLOURS * patch;
    }

    // Goes to the next number without a division.
    __device__ __forceinline__ void advance(int patch) {
        if (++x < patch) return;
        x = 0;
        if (++y < patch) return;
        y = 0;
        if (++colour < COLOURS) return;
        colour = 0;
        column += patch;
    }

    // The pixel, counted from the first of the strip.
    __device__ __forceinline__ int pixel(int width) const { return y * width + column + x; }
};

// Pixels of 8 bits a colour, colours side by side, and what levels become.
template <class T>
struct Levels {
    const uint8_t* strip;
    const T* table;
    int width;

    __device__ __forceinline__ T at(const Place& place) const {
        const int level = strip[place.pixel(width) * COLOURS + place.colour];
        return table[place.colour * LEVELS + level];
    }
};

// Pixels that are numbers already, each colour by itself.
template <class T>
struct Values {
    const float* strip;
    size_t plane;
    int width;

    __device__ __forceinline__ T at(const Place& place) const {
        T value;
        narrow(strip[place.colour * plane + place.pixel(width)], value);
        return value;
    }
};

// Writes a strip of `count` numbers. Threads stride over the grid's y.
template <int N, class T, class Pixels>
__device__ __forceinline__ void cut(const Pixels& pixels, T* out, int count, int patch) {
    // Unsigned: the last step may end beyond what an int holds.
    const unsigned step = gridDim.y * blockDim.x * N;
    const unsigned end = count;
    for (unsigned at = (blockIdx.y * blockDim.x + threadIdx.x) * N; at < end; at += step) {
        Place place(at, patch);
        Pack<T, N> pack;
#pragma unroll
        for (int i = 0; i < N; i++) {
            pack.at[i] = pixels.at(place);
            place.advance(patch);
        }
        store(out + at, pack);
    }
}

template <class T, class Pixels>
__device__ __forceinline__ void cut_wide(const Pixels& pixels, T* out, int count, int patch) {
    constexpr int N = WIDEST<T>;
    out += static_cast<size_t>(blockIdx.x) * count;
    if (count % N == 0 && fits<N>(out))
        cut<N>(pixels, out, count, patch);
    else
        cut<1>(pixels, out, count, patch);
}

// `levels` is [n, height, width, COLOURS], `values` [n, COLOURS, height, width], and `table`
// [COLOURS, LEVELS]; `out` is [n, height / patch, count] with `count` = COLOURS * patch * width.
// Grid: n * height / patch, and any number of blocks that share a strip.
#define PATCHES(T)                                                                            \
    extern "C" __global__ void __launch_bounds__(256, 1)                                      \
        level_patches_##T(const uint8_t* __restrict__ levels, const float* __restrict__ table, \
                          T* __restrict__ out, int count, int patch, int width) {             \
        __shared__ T becomes[COLOURS * LEVELS];                                               \
        for (int i = threadIdx.x; i < COLOURS * LEVELS; i += blockDim.x)                      \
            narrow(table[i], becomes[i]);                                                     \
        __syncthreads();                                                                      \
        const uint8_t* strip = levels + static_cast<size_t>(blockIdx.x) * count;              \
        cut_wide(Levels<T>{strip, becomes, width}, out, count, patch);                        \
    }                                                                                         \
    extern "C" __global__ void __launch_bounds__(256, 1)                                      \
        value_patches_##T(const float* __restrict__ values, T* __restrict__ out, int count,   \
                          int patch, int width, int height) {                                 \
        const int strips = height / patch;                                                    \
        const size_t plane = static_cast<size_t>(height) * width;                             \
        const size_t picture = blockIdx.x / strips, nth = blockIdx.x % strips;                \
        const float* strip = values + picture * COLOURS * plane + nth * patch * width;        \
        cut_wide(Values<T>{strip, plane, width}, out, count, patch);                          \
    }
FOR_EACH_NUMBER(PATCHES)
