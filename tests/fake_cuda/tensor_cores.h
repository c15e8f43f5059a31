// The warp-wide instructions of tensor cores on fibers, from the layouts of fragments that the
// PTX ISA gives: "Matrix Fragments for mma.m16n8k16 with floating point type", and "ldmatrix".
//
// Included by shim.h; `crates/kernels/cuda/tensor_cores.cuh` calls it in place of the instructions.
#pragma once

#define SHIM_TENSOR_CORES

namespace shim {

// What each lane brings to an instruction: one entry per thread of the largest block.
struct Brought {
    uint32_t a[4], b[2];
    const void* row;
};
inline Brought* brought() {
    static Brought lanes[1024 + 32];
    return lanes;
}

// Element `i` of a register that holds two.
template <class T>
float element(uint32_t pair, int i) {
    T both[2];
    memcpy(both, &pair, sizeof(pair));
    return float(both[i]);
}

// `c += a * b`. Of A, 16 x 16, register `r` of lane `l` holds row `l / 4 + r % 2 * 8` at the
// columns `l % 4 * 2 + r / 2 * 8` and the next; of B, 16 x 8, it holds column `l / 4` at such rows
// with `r * 8`; C is as A's first two registers, with a number for each element.
template <class T>
void mma_16x8x16(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    Scheduler& s = scheduler();
    const int me = s.current, warp = me & ~31, own = me & 31;
    memcpy(brought()[me].a, a, sizeof(a));
    memcpy(brought()[me].b, b, sizeof(b));
    park(State::AtWarp);
    const Brought* lanes = brought() + warp;
    for (int i = 0; i < 4; i++) {
        const int row = own / 4 + i / 2 * 8, column = own % 4 * 2 + i % 2;
        for (int k = 0; k < 16; k++) {
            const int holder = k % 8 / 2, high = k / 8;
            const Brought& of_a = lanes[row % 8 * 4 + holder];
            const Brought& of_b = lanes[column * 4 + holder];
            c[i] += element<T>(of_a.a[row / 8 + 2 * high], k % 2) * element<T>(of_b.b[high], k % 2);
        }
    }
    park(State::AtWarp);
}

// Four matrices of 8 x 8; lane `l` names row `l % 8` of matrix `l / 8`, and gets of each matrix
// row `l / 4` at the columns `l % 4 * 2` and the next; transposed, that column at those rows.
inline void load_matrices(uint32_t (&to)[4], const void* row, bool transposed) {
    Scheduler& s = scheduler();
    const int me = s.current, warp = me & ~31, own = me & 31;
    if (reinterpret_cast<uintptr_t>(row) % 16) abort();
    brought()[me].row = row;
    park(State::AtWarp);
    for (int matrix = 0; matrix < 4; matrix++) {
        uint16_t both[2];
        for (int i = 0; i < 2; i++) {
            const int across = own / 4, along = own % 4 * 2 + i;
            const int r = transposed ? along : across, c = transposed ? across : along;
            const void* from = brought()[warp + matrix * 8 + r].row;
            memcpy(&both[i], static_cast<const uint16_t*>(from) + c, sizeof(uint16_t));
        }
        memcpy(&to[matrix], both, sizeof(both));
    }
    park(State::AtWarp);
}

}  // namespace shim
