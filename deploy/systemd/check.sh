#!/usr/bin/env bash
# Checks the units with systemd: no errors, and an exposure of at most 2.0 out of 10.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

if ! command -v systemd-analyze >/dev/null; then
  echo 'systemd is not installed; units not checked'
  exit 0
fi
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
for unit in leastconn.* leastconn-crl.*; do
  # The program and its manual page need not be installed.
  sed 's#/usr/bin/leastconn-lb#/bin/true#; /^Documentation=/d' "$unit" >"$dir/$unit"
done
output=$(systemd-analyze verify "$dir"/leastconn* 2>&1) || { echo "$output" >&2 && exit 1; }
if grep -E 'leastconn(-crl)?\.' <<<"$output" >&2; then exit 1; fi
if ! systemd-analyze --help | grep -q -- --offline; then
  echo 'systemd is older than 250; exposure not rated'
  exit 0
fi
systemd-analyze security --no-pager --offline=true --threshold=20 "$dir/leastconn.service" >"$dir/security" ||
  { grep '✗' "$dir/security" >&2 && tail -n 1 "$dir/security" >&2 && exit 1; }
sed -n 's/.*\(Overall exposure.*\)/\1/p' "$dir/security"
