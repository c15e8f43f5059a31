// Dense attention in f32.
#include "dense_attention.cuh"

DENSE_KERNELS(f32, f32)
DENSE_JOIN(f32, f32)
