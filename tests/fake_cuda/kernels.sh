#!/usr/bin/env bash
# Runs every CUDA kernel of vlmd against its CPU twin on the fake driver: once as it is, once with
# each access to memory checked. Fails, too, where a kernel was never launched.
#
# usage: kernels.sh OUT    (CUDA_HOME names the toolkit, see toolkit.sh)
set -euo pipefail
mkdir -p "$1"
: "${CUDA_HOME:?names no toolkit, see toolkit.sh}"
out=$(realpath "$1")
here=$(realpath "$(dirname "$0")")
cd "$here/../.."
# As .ci/cuda.sh builds it.
binary=$(cargo build --locked --release --workspace --features vlmd/cuda --bin vlmd \
  --test cuda_parity --message-format json | python3 -c 'import json, sys
for message in map(json.loads, sys.stdin):
    if message["reason"] == "compiler-artifact" and message["target"]["name"] == "cuda_parity":
        print(message["executable"])')

# What is launched goes to a file of its own: tests print, too.
check() {
  local folder=$1 preload=$2
  LD_LIBRARY_PATH=$folder:$CUDA_HOME/lib LD_PRELOAD=$preload FAKE_CUDA_TRACE=$out/launches \
    ASAN_OPTIONS=detect_leaks=0:detect_stack_use_after_return=0 "$binary" --ignored --test-threads 1
}
rm -f "$out/launches"
echo "== as it is"
"$here/build.sh" "$binary" "$out/plain" >/dev/null
check "$out/plain" ''
sed -n 's/^fake cuda: \([A-Za-z0-9_]*\) <<<.*/\1/p' "$out/launches" | sort -u >"$out/launched"
for module in crates/kernels/cuda/*.cu; do
  sed -n 's/.*register_kernel("\([^"]*\)".*/\1/p' "$out/plain/$(basename -s .cu "$module").cpp"
done | sort -u >"$out/kernels"
if ! diff <(comm -23 "$out/kernels" "$out/launched") /dev/null; then
  echo "kernels that no test launches are listed above" >&2
  exit 1
fi
echo "all $(wc -l <"$out/kernels") kernels were launched"
echo "== with each access checked"
SANITIZE=1 "$here/build.sh" "$binary" "$out/checked" >/dev/null
check "$out/checked" "$(gcc -print-file-name=libasan.so)"
