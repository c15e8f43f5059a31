// Paged attention with activations in f16, and pages of the same or of codes.
#include "paged_prefill.cuh"

PAGED_KERNELS(f16, f16, f16)
PAGED_KERNELS(f16_u8, f16, uint8_t)
PAGED_JOIN(f16, f16)
PAGED_MMA_KERNELS(f16, f16)
