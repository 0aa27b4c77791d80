#!/usr/bin/env bash
# cargo-deny over the dependencies: licences, bans and sources always, known
# vulnerabilities when their database can be had (it is a git repository, which
# not every build environment reaches). Skipped, with a word, without cargo-deny.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

if ! command -v cargo-deny >/dev/null 2>&1; then
  echo "deny: cargo-deny is not installed (scripts/setup.sh --lint); dependencies not checked" >&2
  exit 0
fi
cargo deny --log-level error check bans licenses sources
if cargo deny --log-level error fetch db >/dev/null 2>&1; then
  cargo deny --log-level error check --disable-fetch advisories
else
  echo "deny: the advisory database cannot be fetched here; known vulnerabilities not checked" >&2
fi
