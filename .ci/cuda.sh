#!/usr/bin/env bash
# All that can be shown of the CUDA variant without a card: the real compiler takes the kernels, the
# release binary needs no library of NVIDIA's to start and says in a sentence what it lacks, and on
# the fake driver each kernel gives what its CPU twin does, and the binary answers as on the CPU,
# every architecture, in f32 and bf16.
#
# usage: cuda.sh [--force] [--folder FOLDER]    (of what is built and may be kept; target/cuda)
#
# It takes long, and the compiler most of that. So it records what it was run on in .ci/cuda.last, which
# is committed, and does not run again before one of its inputs changes.
set -euo pipefail
cd "$(dirname "$0")/.."
record=.ci/cuda.last
force=''
folder=target/cuda
while [ $# -gt 0 ]; do
  case $1 in
    --force) force=yes ;;
    --folder)
      folder=${2:?--folder names none}
      shift
      ;;
    *)
      echo "cuda.sh: $1 is not known" >&2
      exit 2
      ;;
  esac
  shift
done
inputs=(.ci/cuda.sh Cargo.lock Cargo.toml rust-toolchain.toml crates/backend crates/cli/src/device.rs
  crates/engine crates/kernels crates/models docker/lazy_link models/tiny tests/fake_cuda tests/golden)
digest=$(git ls-files -z --cached --others --exclude-standard -- "${inputs[@]}" |
  LC_ALL=C sort -zu | xargs -0 sha256sum | sha256sum | cut -d ' ' -f 1)

if [ -z "$force" ] && grep -qsx "inputs: $digest" "$record"; then
  echo "unchanged since $(sed -n 's/^date: //p' "$record"): not run again. Then it gave:"
  grep -vE '^(inputs|date): ' "$record"
  exit
fi

mkdir -p "$folder"
folder=$(realpath "$folder")
results=$(mktemp)
trap 'rm -f "$results"' EXIT

# Wheels are not taken apart again where they lie.
if [ ! -e "$folder/toolkit/environment" ]; then
  tests/fake_cuda/toolkit.sh "$folder/toolkit" >"$folder/environment"
  mv "$folder/environment" "$folder/toolkit/environment"
fi
# shellcheck disable=SC1091 # Written by toolkit.sh.
source "$folder/toolkit/environment"
toolkit=$CUDA_HOME
tests/fake_cuda/registers.sh
echo 'registers: no kernel spills more than 16 bytes, for any family of cards' >>"$results"

docker/lazy_link/make.sh "$toolkit" "$folder/lazy" >/dev/null
export CUDA_HOME=$folder/lazy CUDA_PATH=$folder/lazy
# With the kernels' test in one go: by itself either would have other features of a few crates, and
# all would be compiled twice, candle's kernels too.
cargo build --locked --release --workspace --features vlmd/cuda --bin vlmd --test cuda_parity \
  --target-dir "$folder/target"
binary=$folder/target/release/vlmd
if readelf -d "$binary" | grep -E 'NEEDED.*(cuda|cublas|curand|nvrtc|nvidia)'; then
  echo "cuda.sh: $binary does not start where these libraries are not" >&2
  exit 1
fi
tests/fake_cuda/no_card.py "$binary" | tee -a "$results"

CARGO_TARGET_DIR=$folder/target tests/fake_cuda/kernels.sh "$folder/kernels"
echo 'kernels: each equals its CPU twin, and stays within its memory' >>"$results"

tests/fake_cuda/build.sh "$binary" "$folder/fake" >/dev/null
tests/fake_cuda/launches.py "$binary" "$folder/fake" | tee "$folder/launches"
echo "launches: a decoder layer at decode: $(tail -n 1 "$folder/launches")" >>"$results"
LD_LIBRARY_PATH=$folder/fake "$binary" check --device cuda --quick | tee "$folder/check"
echo "check: $(tail -n 1 "$folder/check")" >>"$results"
# In f32 alone: so many pictures take the stand-ins for tensor cores too long.
profiled=(--model tests/golden/llava_next --model tests/golden/mllama --model tests/golden/phi3_v)
tests/fake_cuda/profile.py "$binary" "$folder/fake" --dtype f32 "${profiled[@]}"
echo 'memory: no step and no picture takes more than the formulas of the memory plan say' >>"$results"
families=(--model vlmd/tiny)
for golden in kosmos2 llava llava_next mllama neva phi3_v; do
  families+=(--model "tests/golden/$golden")
done
tests/fake_cuda/company.py "$binary" "$folder/fake" --cases 2 "${families[@]}" | tee -a "$results"
models=(--model vlmd/tiny)
for golden in kosmos2 llava llava_next llava_next_vicuna llava_next_yi mllama neva neva_dist \
  neva_legacy neva_llama neva_pp2 neva_tp2 phi3_v phi3_v_crops16; do
  models+=(--model "tests/golden/$golden")
done
# In f32 answers are the same to the letter. bf16 keeps 8 bits: there log probabilities of these
# checkpoints were found to be 0.08 off, so that of two choices within 0.2 either may come first.
python3 tests/fake_cuda/compare.py "$binary" "$folder/fake" --cases 6 "${models[@]}" --dtype f32 |
  tee -a "$results"
python3 tests/fake_cuda/compare.py "$binary" "$folder/fake" --cases 6 "${models[@]}" --dtype bf16 \
  --tie 0.2 | tee -a "$results"

{
  echo "inputs: $digest"
  echo "date: $(date -u +%F)"
  sed -nE '/^(vlmd|tests)/{s/[,:] [0-9]+ requests.*//;h};/^(registers|kernels|launches|check|memory): /p;/answers equal|^no card/{G;s/^ *(.*)\n(.*)$/\2: \1/;p}' "$results"
} >"$record"
