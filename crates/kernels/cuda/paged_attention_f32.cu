// Paged attention with activations in f32, and pages of the same or of codes.
#include "paged_attention.cuh"

PAGED_KERNELS(f32, f32, f32)
PAGED_KERNELS(f32_u8, f32, uint8_t)
PAGED_JOIN(f32, f32)
