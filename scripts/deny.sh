#!/usr/bin/env bash
# Checks licences, bans and sources of the dependencies with cargo-deny. If the advisory
# database (a git repository) can be fetched, known vulnerabilities are checked too. If
# cargo-deny is not installed, prints a message and succeeds.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

if ! command -v cargo-deny >/dev/null 2>&1; then
  echo "deny: cargo-deny is not installed (scripts/setup.sh --lint); dependencies are not checked" >&2
  exit 0
fi
cargo deny --log-level error check bans licenses sources
if cargo deny --log-level error fetch db >/dev/null 2>&1; then
  cargo deny --log-level error check --disable-fetch advisories
else
  echo "deny: the advisory database cannot be fetched; known vulnerabilities are not checked" >&2
fi
