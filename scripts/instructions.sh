#!/usr/bin/env bash
# Uses valgrind to count the instructions that the library executes per pick, admission,
# echo and MiB. The counts vary by less than 1 % even on a busy machine, so changes of a
# few percent are visible. Each operation runs n and 3n times; the difference divided by
# 2n excludes one-time costs.
#   scripts/instructions.sh [pick-4|pick-64|pick-1000|admit|echo|mebibyte …]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

if ! command -v valgrind >/dev/null; then
  echo 'instructions: valgrind is missing (Debian, Ubuntu: apt-get install valgrind)' >&2
  exit 1
fi

program=$(cargo bench --locked -p leastconn --bench instructions --no-run --message-format json |
  sed -n 's/.*"executable":"\([^"]*instructions[^"]*\)".*/\1/p' | tail -n 1)
[ -x "$program" ] || { echo 'instructions: the benchmark was not built' >&2; exit 1; }

# valgrind counts `rep movsb` as one instruction per byte.
export GLIBC_TUNABLES=glibc.cpu.x86_rep_movsb_threshold=1000000000

LOG=$(mktemp)
trap 'rm -f "$LOG"' EXIT

count_instructions() {
  local text
  if ! valgrind --tool=callgrind --callgrind-out-file=/dev/null "$program" "$1" "$2" >"$LOG" 2>&1; then
    cat "$LOG" >&2
    return 1
  fi
  text=$(sed -n 's/.*Collected : \([0-9]*\).*/\1/p' "$LOG")
  [ -n "$text" ] || { cat "$LOG" >&2; return 1; }
  echo "$text"
}

works=("$@")
[ $# -gt 0 ] || works=(pick-4 pick-64 pick-1000 admit echo mebibyte)
printf '%-12s %14s\n' work instructions
for work in "${works[@]}"; do
  case $work in mebibyte) n=8 ;; *) n=2000 ;; esac
  short=$(count_instructions "$work" "$n")
  long=$(count_instructions "$work" "$((3 * n))")
  printf '%-12s %14d\n' "$work" "$(((long - short) / (2 * n)))"
done
