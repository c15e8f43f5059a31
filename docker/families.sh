#!/usr/bin/env bash
# Builds vlmd for hosts with cards: the CPU build, which is what is called, and beside it a program
# for each family of cards, of which the driver tells the CPU build the one that it is to become.
#
# usage: families.sh OUT FAMILY...    such as families.sh /usr/local 80 89 90
#
# Fills OUT/bin and OUT/lib/vlmd. CUDA_HOME names the toolkit, or make.sh's view of one.
set -euo pipefail
out=$1
shift
cargo build --locked --release
install -D target/release/vlmd "$out/bin/vlmd"
for family in "$@"; do
  case $family in
    # With `f` the code runs on the whole generation; cudaforge would take `a`, tied to one card.
    100 | 120) compiled=${family}f ;;
    *) compiled=$family ;;
  esac
  # A folder of its own: none throws away what another has compiled.
  CUDA_COMPUTE_CAP=$compiled cargo build --locked --release --package vlmd --features cuda \
    --target-dir "target/sm$family"
  install -D "target/sm$family/release/vlmd" "$out/lib/vlmd/vlmd-sm$family"
done
