#!/usr/bin/env bash
# Compiles vlmd's kernels for each family of cards and fails where one spills more than 16 bytes of
# registers to memory or takes more than it should: 64, with which a multiprocessor still holds 1024 threads, unless
# its source is listed below.
#
# usage: registers.sh    (NVCC or CUDA_HOME names the compiler)
set -euo pipefail
cd "$(dirname "$0")/../../crates/kernels/cuda"
nvcc=${NVCC:-${CUDA_HOME:+$CUDA_HOME/bin/}nvcc}
# Eight rows of queries and of sums, or a tile of a product, are kept in registers: two blocks of
# 128 threads on a multiprocessor.
declare -A allowed=([paged_attention_f32]=255 [paged_attention_f16]=255 [paged_attention_bf16]=255
  [dense_attention_f32]=255 [dense_attention_f16]=255 [dense_attention_bf16]=255)
default=64
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
status=0
for architecture in 80 86 89 90 100 120; do
  for source in *.cu; do
    module=${source%.cu}
    limit=${allowed[$module]:-$default}
    "$nvcc" --cubin --std=c++17 -O3 -arch "sm_$architecture" --resource-usage \
      -o "$out/$module.cubin" "$source" 2>"$out/report"
    awk -v limit="$limit" -v where="sm_$architecture $module" '
      /Compiling entry function/ { match($0, /\047[^\047]+\047/); name = substr($0, RSTART + 1, RLENGTH - 2) }
      /bytes spill stores/ {
        match($0, /[0-9]+ bytes spill stores/); spilled = substr($0, RSTART, RLENGTH) + 0
        if (spilled > 0) print where, name ": " spilled " bytes spilled"
        if (spilled > 16) bad = 1
      }
      /Used [0-9]+ registers/ {
        match($0, /Used [0-9]+/); used = substr($0, RSTART + 5, RLENGTH - 5) + 0
        kernels++
        if (used > most) most = used
        if (used > limit) { print where, name ": " used " registers, allowed are " limit; bad = 1 }
      }
      END {
        print where ": " kernels + 0 " kernels, at most " most + 0 " registers"
        exit bad || !kernels
      }' "$out/report" || status=1
  done
done
exit "$status"
