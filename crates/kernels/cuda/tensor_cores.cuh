// Products of small matrices by a warp, in f32 of 16-bit floats. Where each lane holds which
// elements, the PTX ISA tells: mma.m16n8k16 and ldmatrix. The fake driver has no tensor cores and
// brings functions that do the same (tests/fake_cuda/tensor_cores.h).
#pragma once

#include "common.cuh"

template <class T>
constexpr bool IS_BF16 = false;
template <>
constexpr bool IS_BF16<bf16> = true;

// `c += a * b`: [16, 8] += [16, 16] * [16, 8].
template <class T>
__device__ __forceinline__ void mma_16x8x16(float (&c)[4], const uint32_t (&a)[4],
                                            const uint32_t (&b)[2]) {
#ifdef SHIM_TENSOR_CORES
    shim::mma_16x8x16<T>(c, a, b);
#else
    static_assert(sizeof(T) == 2, "16-bit floats only");
    if constexpr (IS_BF16<T>) {
        asm volatile(
            "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
            "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
            : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
            : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
    } else {
        asm volatile(
            "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
            "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
            : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
            : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
    }
#endif
}

// Four matrices of 8 x 8 from shared memory, as the operands of products hold them. Lane `l`
// names row `l % 8` of matrix `l / 8`: 16 bytes, aligned.
template <bool TRANSPOSED>
__device__ __forceinline__ void load_matrices(uint32_t (&to)[4], const void* row) {
#ifdef SHIM_TENSOR_CORES
    shim::load_matrices(to, row, TRANSPOSED);
#else
    const uint32_t at = static_cast<uint32_t>(__cvta_generic_to_shared(row));
    if constexpr (TRANSPOSED) {
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                     : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                     : "r"(at)
                     : "memory");
    } else {
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                     : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                     : "r"(at)
                     : "memory");
    }
#endif
}
