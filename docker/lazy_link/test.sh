#!/usr/bin/env bash
# Tests make.sh with a pretended toolkit: functions get all their arguments, also at the first call,
# and give their status where the library, or the function in it, is not there.
#
# usage: test.sh
set -euo pipefail
cd "$(dirname "$0")"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/toolkit/lib64/stubs" "$work/real"

# library PATH SONAME < source
library() {
  gcc -shared -fPIC -x c -Wl,-soname,"$2" -o "$1" -
}
many='int cuMany(int a, int b, int c, int d, int e, int f, int g, int h, double p, double q, double r,
    double s, double t, double u, double v, double w) {
  return a + 2*b + 3*c + 4*d + 5*e + 6*f + 7*g + 8*h
    + (int)(1000 * (p + 2*q + 3*r + 4*s + 5*t + 6*u + 7*v + 8*w));
}'
lib=$work/toolkit/lib64
library "$lib/stubs/libcuda.so" libcuda.so.1 <<<"$many int cuNewer(void) { return 0; }"
library "$work/real/libcuda.so.1" libcuda.so.1 <<<"$many"
blas='const char *cublasGetStatusString(int status) { return status == 3 ? "three" : "another"; }
int cublasCreate_v2(void **handle) { return handle ? 0 : 7; }'
library "$lib/libcublas.so" libcublas.so.13 <<<"$blas"
library "$work/real/libcublas.so.13" libcublas.so.13 <<<"$blas"
for other in cublasLt curand nvrtc; do
  library "$lib/lib$other.so" "lib$other.so.13" <<<"int ${other}Other(void) { return 0; }"
done
gcc -c -x c -o "$work/runtime.o" - <<<'int cudaRuntime(void) { return 0; }'
ar rcs "$lib/libcudart_static.a" "$work/runtime.o"
./make.sh "$work/toolkit" "$work/lazy" >"$work/environment"
grep -q "CUDA_HOME=$work/lazy" "$work/environment"

gcc -x c -o "$work/program" - -L"$work/lazy/lib64" -lcublas -lcuda -lcudart <<'PROGRAM'
#include <stdio.h>
int cuMany(int, int, int, int, int, int, int, int, double, double, double, double, double, double,
           double, double);
int cuNewer(void), cublasCreate_v2(void **), cudaRuntime(void);
const char *cublasGetStatusString(int);
int main(void) {
    void *handle;
    // Twice: the second time it is not looked for.
    for (int i = 0; i < 2; i++)
        printf("%d ", cuMany(1, 2, 3, 4, 5, 6, 7, 8, 1.5, 2.5, 3.5, 4.5, 5.5, 6.5, 7.5, 8.5));
    printf("%d %d %d %s\n", cuNewer(), cublasCreate_v2(&handle), cudaRuntime(),
           cublasGetStatusString(3));
}
PROGRAM

expect() {
  if [ "$2" != "$3" ]; then
    printf 'test.sh: %s: expected\n%s\nand got\n%s\n' "$1" "$2" "$3" >&2
    exit 1
  fi
}
# 204 of the whole numbers, 222 of the others.
expect 'with the libraries' '222204 222204 500 0 0 three' \
  "$(LD_LIBRARY_PATH=$work/real "$work/program" 2>&1)"
expect 'without' '100 100 100 1 0 libcublas.so.13 is not there' \
  "$(LD_LIBRARY_PATH=$work/none "$work/program" 2>"$work/told")"
# Nobody else tells of it; of the driver vlmd does.
expect 'what is told' 1 "$(wc -l <"$work/told")"
grep -q 'cannot load a library for CUDA: libcublas.so.13' "$work/told"
if readelf -d "$work/program" | grep -E 'NEEDED.*(libcu|nvrtc)'; then
  echo 'test.sh: the program needs these libraries to start' >&2
  exit 1
fi
echo 'with the libraries, without, and without a function'
