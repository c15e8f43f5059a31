#!/usr/bin/env bash
# Builds libcuda.so.1, libcublas.so.13 and libcurand.so.10 that run a CUDA binary's kernels on
# the CPU.
#
# usage: [SANITIZE=1] build.sh BINARY OUT
#
# BINARY, a program or a test, was built with `--features cuda` and the toolkit that CUDA_HOME
# names; its build folder holds the PTX whose kernel names are registered. All of vlmd's kernels
# run, and of candle's those that compile as plain C++: all but convolution and the quantised ones.
#
# With SANITIZE=1 kernels stop where they read or write outside of what was allocated. The
# sanitizer must then be loaded first: LD_PRELOAD="$(gcc -print-file-name=libasan.so)".
set -euo pipefail
binary=$(realpath "$1")
mkdir -p "$2"
out=$(realpath "$2")
here=$(realpath "$(dirname "$0")")
: "${CUDA_HOME:?names no toolkit, see toolkit.sh}"
sources=$(cargo metadata --locked --format-version 1 --manifest-path "$here/../../Cargo.toml" \
  --features vlmd-kernels/cuda --filter-platform "$(rustc -vV | sed -n 's/^host: //p')" |
  python3 -c 'import json, os, sys
for package in json.load(sys.stdin)["packages"]:
    if package["name"] == "candle-kernels":
        print(os.path.join(os.path.dirname(package["manifest_path"]), "src"))')
folder=$(dirname "$binary")
# Tests lie in a folder of their own.
[ -d "$folder/build" ] || folder=$(dirname "$folder")
newest() {
  find "$folder/build" -name "$1" -size +0 -printf '%T@ %h\n' | sort -n | tail -n 1 | cut -d ' ' -f 2
}

cd "$out"
# As the intrinsics that round by themselves do, nothing is multiplied and added at once.
flags=(-O1 -std=c++17 -ffp-contract=off -w -fPIC -D__CUDA_ARCH__=800 -include "$here/shim.h"
  -I"$CUDA_HOME/include" -I"$CUDA_HOME/include/cccl")
[ -z "${SANITIZE:-}" ] || flags+=(-g -fsanitize=address)
objects=()
# compile SOURCES PTX MODULE...: the kernels that PTX has, as C++.
compile() {
  local sources=$1 ptx=$2 module
  shift 2
  for module in "$@"; do
    sed -E 's/extern __shared__ (\w+) (\w+)\[\];/SHARED_DYN(\1, \2);/' "$sources/$module.cu" >"$module.cu"
    {
      echo "#include \"$module.cu\""
      grep -oE '\.entry [A-Za-z0-9_]+' "$ptx/$module.ptx" | cut -d ' ' -f 2 | sort -u |
        sed 's/.*/static int r_& = shim::register_kernel("&", \&&);/'
    } >"$module.cpp"
    g++ "${flags[@]}" -I"$sources" -I. -c "$module.cpp" -o "$module.o"
    objects+=("$module.o")
  done
}
compile "$sources" "$(newest affine.ptx)" affine binary cast fill indexing reduce sort ternary unary
own=$here/../../crates/kernels/cuda
mapfile -t modules < <(basename -s .cu -a "$own"/*.cu)
compile "$own" "$(newest norms.ptx)" "${modules[@]}"
for part in driver blas rand; do
  g++ "${flags[@]}" -c "$here/$part.cpp" -o "$part.o"
done

# What the binary needs and nobody wrote says so when it is called. Where docker/lazy_link is in it,
# it has functions of those names itself.
{ nm -D --undefined-only "$binary" && nm --defined-only "$binary"; } | awk '{print $NF}' |
  sed 's/@.*//' | sort -u >needed
link() {
  local library=$1 pattern=$2 version=$3
  shift 3
  nm --defined-only "$@" | awk 'NF == 3 {print $3}' | sort -u >defined
  {
    echo '#include <stdio.h>'
    grep -E "$pattern" needed | grep -vxFf defined |
      sed 's/.*/int &(void) { fprintf(stderr, "fake cuda: & is not written\\n"); return 999; }/' || true
  } >missing.c
  gcc -fPIC -c missing.c -o missing.o
  local script=()
  if [ -n "$version" ]; then
    echo "$version { *; };" >version.map
    script=('-Wl,--version-script=version.map')
  fi
  # Each module brings the same helper functions, which on a card are its own.
  g++ -shared -o "$library" -Wl,-soname,"$library" -Wl,-z,muldefs "${script[@]}" "$@" missing.o
}
link libcuda.so.1 '^cu[A-Z]' '' driver.o "${objects[@]}"
link libcublas.so.13 '^cublas' libcublas.so.13 blas.o
link libcurand.so.10 '^curand' libcurand.so.10 rand.o
echo "$out"
