#!/usr/bin/env bash
# A view of a CUDA toolkit to build vlmd against, so that one binary starts on any host.
#
# usage: make.sh TOOLKIT OUT    (prints the environment to build with)
#
# candle links the driver and the toolkit's libraries as shared ones, and a binary that needs them
# does not start where they are not. Here they are static archives whose functions load the real
# library when they are first called, and give an error status where there is none; the CUDA
# runtime is linked statically. Everything else is the toolkit's own. Needs gcc and binutils.
set -euo pipefail
toolkit=$(realpath "$1")
mkdir -p "$2"
out=$(realpath "$2")
here=$(dirname "$(realpath "$0")")
if [ "$(uname -m)" != x86_64 ]; then
  echo "make.sh: call.S is written for x86_64, and this machine is $(uname -m)" >&2
  exit 1
fi

libraries=$toolkit/lib64
[ -d "$libraries" ] || libraries=$toolkit/lib
rm -rf "${out:?}/lib64" "${out:?}/work"
mkdir -p "$out/lib64" "$out/work"
for part in bin include nvvm; do
  ln -sfn "$toolkit/$part" "$out/$part"
done
ln -sfn lib64 "$out/lib"
ln -sf "$(realpath "$libraries/libcudart_static.a")" "$out/lib64/libcudart.a"

# archive NAME LIBRARY TOLD ABSENT UNKNOWN: libNAME.a, of the functions that LIBRARY has. The last
# three are as library.c has them.
archive() {
  local name=$1 library=$2 told=$3 absent=$4 unknown=$5 soname
  soname=$(readelf -d "$library" | sed -n 's/.*(SONAME).*\[\(.*\)\]/\1/p')
  cd "$out/work"
  nm -D --defined-only "$library" | awk '$2 ~ /[TWi]/ {print $3}' | sed 's/@.*//' |
    grep -E '^(cu|nvrtc)' | sort -u | sed 's/^/lazy /' >"$name.names"
  gcc -c "$here/call.S" -o "$name.call.o" \
    -DFIRST="lazy_${name}_first" -DRESOLVE="lazy_${name}_resolve" -DNAMES="\"$name.names\""
  gcc -Wall -Wextra -Werror -O2 -fPIC -c "$here/library.c" -o "$name.library.o" \
    -DRESOLVE="lazy_${name}_resolve" -DSONAME="\"$soname\"" -DTOLD="$told" \
    -DABSENT="$absent" -DUNKNOWN="$unknown"
  ar rcs "$out/lib64/lib$name.a" "$name.call.o" "$name.library.o"
}

# The statuses are those of cuda.h, cublas_api.h, curand.h and nvrtc.h.
archive cuda "$libraries/stubs/libcuda.so" 1 100 500 # NO_DEVICE, NOT_FOUND
archive cublas "$libraries/libcublas.so" 0 1 15      # NOT_INITIALIZED, NOT_SUPPORTED
archive cublasLt "$libraries/libcublasLt.so" 0 1 15
archive curand "$libraries/libcurand.so" 0 203 204 # INITIALIZATION_FAILED, ARCH_MISMATCH
archive nvrtc "$libraries/libnvrtc.so" 0 11 11     # INTERNAL_ERROR
rm -rf "$out/work"

echo "export CUDA_HOME=$out CUDA_PATH=$out PATH=$out/bin:\$PATH"
