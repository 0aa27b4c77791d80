#!/usr/bin/env bash
# The Debian package of this machine's architecture, by cargo-deb, which is installed
# if it is missing: target/debian/leastconn-lb_VERSION_ARCH.deb, and beside it the
# debugging symbols (-dbgsym). What goes in is listed in crates/leastconn-lb/Cargo.toml
# under [package.metadata.deb]; made here is what the program itself writes.
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
[ "${packaged%-*}" = "$version" ] || die "deploy/debian/changelog is of version $packaged, Cargo.toml of $version: add an entry"

"$CARGO" build --locked --release -p leastconn-lb
program=$("$CARGO" metadata --locked --no-deps --format-version 1 | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')/release/leastconn-lb
[ -x "$program" ] || die "cargo did not build $program"

stage=target/package
rm -rf $stage
mkdir -p $stage
"$program" man --dir $stage/man
for shell in bash zsh fish; do "$program" completions $shell >"$stage/completions.$shell"; done
deploy/debian/licences.py | gzip -9n >$stage/third-party-licences.gz

# The same sources make the same package: times are those of the last change.
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(dpkg-parsechangelog -l deploy/debian/changelog -S Timestamp)}
export SOURCE_DATE_EPOCH
rm -f target/debian/leastconn-lb_*.deb target/debian/leastconn-lb-dbgsym_*
"$CARGO" deb --quiet --no-build --locked -p leastconn-lb --deb-revision "${packaged##*-}" --dbgsym --output target/debian

deb=$(echo target/debian/leastconn-lb_*.deb)
[ -e "$deb" ] || die "cargo-deb wrote no package"
if command -v lintian >/dev/null; then
  # Whatever it has to say that is not in the overrides, each with its reason.
  lintian --allow-root --fail-on error,warning "$deb"
else
  echo 'deb: lintian is not installed; the package was not checked'
fi
echo "$deb"
