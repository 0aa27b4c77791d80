#!/usr/bin/env bash
# Builds the Debian package for this machine's architecture with cargo-deb, which is
# installed if missing: target/debian/leastconn-lb_VERSION_ARCH.deb and its debugging symbols
# (-dbgsym). The files are listed in crates/leastconn-lb/Cargo.toml under
# [package.metadata.deb]. This script generates manual pages, completions and licences.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

CARGO=${CARGO:-cargo}
die() {
  printf 'deb: %s\n' "$*" >&2
  exit 1
}

scripts/setup.sh --build --deb

version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
packaged=$(dpkg-parsechangelog -l deploy/debian/changelog -S Version)
[ "${packaged%-*}" = "$version" ] || die "deploy/debian/changelog has version $packaged, Cargo.toml $version: add an entry"

"$CARGO" build --locked --release -p leastconn-lb
program=$("$CARGO" metadata --locked --no-deps --format-version 1 | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')/release/leastconn-lb
[ -x "$program" ] || die "cargo did not build $program"

stage=target/package
rm -rf $stage
mkdir -p $stage
"$program" man --dir $stage/man
for shell in bash zsh fish; do "$program" completions $shell >"$stage/completions.$shell"; done
deploy/debian/licences.py | gzip -9n >$stage/third-party-licences.gz

# Reproducible build: use the time of the last commit for all timestamps.
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(dpkg-parsechangelog -l deploy/debian/changelog -S Timestamp)}
export SOURCE_DATE_EPOCH
rm -f target/debian/leastconn-lb_*.deb target/debian/leastconn-lb-dbgsym_*
# The last line of this script prints the path of the package; cargo-deb would print it too.
"$CARGO" deb --quiet --no-build --locked -p leastconn-lb --deb-revision "${packaged##*-}" --dbgsym --output target/debian >/dev/null

deb=$(echo target/debian/leastconn-lb_*.deb)
[ -e "$deb" ] || die "cargo-deb wrote no package"
if command -v lintian >/dev/null; then
  # Fail on every lintian tag that is not in the overrides.
  lintian --allow-root --fail-on error,warning "$deb"
else
  echo 'deb: lintian is not installed; the package was not checked'
fi
echo "$deb"
