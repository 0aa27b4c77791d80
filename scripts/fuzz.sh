#!/usr/bin/env bash
# Runs the fuzz targets one after the other. Each starts with the committed seeds (fuzz/seeds;
# for configuration: examples) and adds to its corpus (fuzz/corpus). Ends with one line per target: executions, coverage in edges and
# features, and inputs in the corpus.
#   scripts/fuzz.sh [--seconds N] [TARGET…]     (default: 60 seconds for each target)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

seconds=60
if [ "${1:-}" = --seconds ]; then
  seconds=$2
  shift 2
fi
if ! cargo fuzz --version >/dev/null 2>&1; then
  echo 'cargo-fuzz is missing: cargo install --locked cargo-fuzz' >&2
  exit 1
fi
targets=("$@")
if [ $# -eq 0 ]; then mapfile -t targets < <(cargo fuzz list); fi

# cargo-fuzz uses unstable compiler flags.
export RUSTC_BOOTSTRAP=1
# A sanitizer needs a standard library that is built with it, and this code has no `unsafe` blocks
# to check.
cargo fuzz build -s none

log=$(mktemp)
trap 'rm -f "$log"' EXIT
table=''
for target in "${targets[@]}"; do
  mkdir -p "fuzz/corpus/$target"
  directories=("fuzz/corpus/$target")
  options=(-max_total_time="$seconds" -max_len=2048 -timeout=10 -print_final_stats=1)
  if [ -d "fuzz/seeds/$target" ]; then directories+=("fuzz/seeds/$target"); fi
  if [ -f "fuzz/$target.dict" ]; then options+=(-dict="fuzz/$target.dict"); fi
  if [ "$target" = configuration ]; then
    directories+=(examples)
    options+=(-max_len=8192)
  fi
  echo "== $target"
  if ! cargo fuzz run -s none "$target" "${directories[@]}" -- "${options[@]}" >"$log" 2>&1; then
    tail -n 60 "$log" >&2
    exit 1
  fi
  runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
  last=$(grep -E 'cov: [0-9]+' "$log" | tail -n 1)
  edges=$(sed -n 's/.*cov: \([0-9]*\).*/\1/p' <<<"$last")
  features=$(sed -n 's/.*ft: \([0-9]*\).*/\1/p' <<<"$last")
  inputs=$(sed -n 's/.*corp: \([0-9]*\).*/\1/p' <<<"$last")
  table+=$(printf '%-16s %12s %8s %9s %7s' "$target" "$runs" "$edges" "$features" "$inputs")$'\n'
done
printf '\n%-16s %12s %8s %9s %7s\n%s' target executions edges features inputs "$table"
