#!/usr/bin/env bash
# A CUDA 13.0 toolkit without a card, a driver or root, from the wheels of the Python index.
#
# usage: toolkit.sh FOLDER    (1.2 GB; prints the environment to build with)
set -euo pipefail
mkdir -p "$1"
folder=$(realpath "$1")
pip install --quiet --no-deps --target "$folder" \
  nvidia-cuda-nvcc==13.0.88 nvidia-cuda-crt==13.0.88 nvidia-nvvm==13.0.88 \
  nvidia-cuda-runtime==13.0.96 nvidia-cuda-cccl==13.0.85 nvidia-cuda-nvrtc==13.0.88 \
  nvidia-cublas==13.1.0.3 nvidia-curand==10.4.0.35
toolkit=$folder/nvidia/cu13

# The names that build scripts and the linker look for.
ln -sfn lib "$toolkit/lib64"
cd "$toolkit/lib"
for library in *.so.*; do
  ln -sf "$library" "${library%%.so.*}.so"
done

# No wheel ships the driver's library to link against: one whose every function answers
# CUDA_ERROR_NO_DEVICE (100), with the names that cuda.h declares or renames to.
mkdir -p stubs
header=$toolkit/include/cuda.h
{
  grep -ohE '\bcu[A-Z][A-Za-z0-9_]+ *\(' "$header" | tr -d ' ('
  grep -ohE '^ *#define +cu[A-Z][A-Za-z0-9_]+ +(__CUDA_API_PT[A-Z]*\(cu[A-Za-z0-9_]+\)|cu[A-Z][A-Za-z0-9_]+)' "$header" |
    sed -E 's/.*[ (](cu[A-Z][A-Za-z0-9_]+)\)?$/\1/'
  sed -nE 's/.*__CUDA_API_PTDS\((cu[A-Za-z0-9_]+)\).*/\1_ptds/p; s/.*__CUDA_API_PTSZ\((cu[A-Za-z0-9_]+)\).*/\1_ptsz/p' "$header"
} | sort -u | sed 's/.*/int &(void) { return 100; }/' >stubs/driver.c
gcc -w -O1 -shared -fPIC -Wl,-soname,libcuda.so.1 -o stubs/libcuda.so stubs/driver.c
ln -sf libcuda.so stubs/libcuda.so.1

cat <<EOF
export CUDA_HOME=$toolkit CUDA_PATH=$toolkit PATH=$toolkit/bin:\$PATH
export CUDA_COMPUTE_CAP=80 CUDARC_CUDA_VERSION=13000 CUDAFORGE_THREADS=2
EOF
