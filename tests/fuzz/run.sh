#!/usr/bin/env bash
# Fuzzes everything that reads what others wrote, with libFuzzer and the pinned toolchain.
#
# usage: tests/fuzz/run.sh [SECONDS_PER_TARGET [TARGET...]]
#
# Without seconds each target runs for a minute; with 0 only the seeds and what earlier runs
# gathered are run. Fails if a target finds something, and says where the input lies: a panic, an
# overflow, an answer that takes 20 s, more than 2 GiB at once or 4 GiB in all, or a property that
# the target asserts. `target/fuzz/bin/TARGET INPUT` runs one input again.
set -euo pipefail
cd "$(dirname "$0")/../.."
seconds=${1:-60}
shift || true
host=$(rustc -vV | sed -n 's/^host: //p')
work=target/fuzz
mkdir -p "$work/bin" "$work/found"

# What cargo-fuzz does, but for the sanitizers, which need a nightly compiler: the counters that
# guide libFuzzer. `--target` keeps them out of build scripts.
flags=(
  --cfg fuzzing
  -Cpasses=sancov-module
  -Cllvm-args=-sanitizer-coverage-level=4
  -Cllvm-args=-sanitizer-coverage-inline-8bit-counters
  -Cllvm-args=-sanitizer-coverage-pc-table
  -Cllvm-args=-sanitizer-coverage-trace-compares
)
build=${CARGO_TARGET_DIR:-$work/build}
RUSTFLAGS="${flags[*]}" cargo build --quiet --release --manifest-path tests/fuzz/Cargo.toml \
  --target "$host" --target-dir "$build" --bins

targets=("$@")
if [ ${#targets[@]} = 0 ]; then
  for file in tests/fuzz/targets/*.rs; do targets+=("$(basename "$file" .rs)"); done
fi

# Beside tests/fuzz/seeds/TARGET: files of the goldens.
more_seeds() {
  case $1 in
    picture) echo tests/golden/decode tests/golden/broken ;;
    nemo) echo tests/golden/broken_nemo tests/golden/nemo_distributed ;;
    tokenizer) echo tests/golden/sentencepiece ;;
  esac
}

failed=()
for target in "${targets[@]}"; do
  cp "$build/$host/release/$target" "$work/bin/$target"
  corpus=$work/corpus/$target
  mkdir -p "$corpus"
  arguments=(
    -timeout=20 -rss_limit_mb=4096 -malloc_limit_mb=2048 -print_final_stats=1 -verbosity=1
    -artifact_prefix="$work/found/$target-"
  )
  if [ "$seconds" = 0 ]; then arguments+=(-runs=0); else arguments+=(-max_total_time="$seconds"); fi
  dictionary=tests/fuzz/dictionaries/$target.dict
  if [ -f "$dictionary" ]; then arguments+=(-dict="$dictionary"); fi
  folders=("$corpus")
  for folder in "tests/fuzz/seeds/$target" $(more_seeds "$target"); do
    if [ -d "$folder" ]; then folders+=("$folder"); fi
  done
  log=$work/$target.log
  if "$work/bin/$target" "${arguments[@]}" "${folders[@]}" >"$log" 2>&1; then
    verdict=ok
  else
    verdict=FOUND
    failed+=("$target")
    tail -n 40 "$log"
  fi
  runs=$(sed -nE 's/^stat::number_of_executed_units: +//p' "$log")
  edges=$(sed -nE 's/.* cov: ([0-9]+) .*/\1/p' "$log" | tail -n 1)
  printf '%-14s %-5s %12s runs %8s edges\n' "$target" "$verdict" "${runs:-?}" "${edges:-?}"
done
if [ ${#failed[@]} != 0 ]; then
  printf 'found something: %s\n' "${failed[*]}"
  ls "$work/found"
  exit 1
fi
