// Dense attention in f16.
#include "dense_attention.cuh"

DENSE_KERNELS(f16, f16)
DENSE_MMA_KERNELS(f16, f16)
DENSE_JOIN(f16, f16)
