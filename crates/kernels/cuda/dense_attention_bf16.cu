// Dense attention in bf16.
#include "dense_attention.cuh"

DENSE_KERNELS(bf16, bf16)
DENSE_MMA_KERNELS(bf16, bf16)
DENSE_JOIN(bf16, bf16)
