// Paged attention with activations in bf16, and pages of the same or of codes.
#include "paged_prefill.cuh"

PAGED_KERNELS(bf16, bf16, bf16)
PAGED_KERNELS(bf16_u8, bf16, uint8_t)
PAGED_JOIN(bf16, bf16)
PAGED_MMA_KERNELS(bf16, bf16)
