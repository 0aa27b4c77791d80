#!/usr/bin/env bash
# Runs the long form of the fleet tests with the release binary, one at a time, and prints each
# figure beside its target. Exits with 1 if a target was missed.
#
#   scripts/test-fleet.sh [FILTER]     FILTER: part of a test's name, such as with_valkey
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

figures=$(mktemp)
trap 'rm -f "$figures"' EXIT
code=0
LEASTCONN_LONG=1 LEASTCONN_FIGURES=$figures \
  "${CARGO:-cargo}" test --locked --release -p leastconn-lb --test e2e -- \
  "fleet::${1:-}" --test-threads 1 || code=1

printf '\n%-45s %-8s %-70s %s\n' test store measured target
sort -s "$figures" | while IFS=$'\t' read -r test store measured target; do
  printf '%-45s %-8s %-70s %s\n' "$test" "$store" "$measured" "$target"
done
exit "$code"
