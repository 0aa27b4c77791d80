#!/usr/bin/env bash
# Builds target/dist/leastconn-lb-VERSION-ARCH-linux.tar.gz: a static binary with manual pages,
# completions, systemd units, documentation, licences and a software bill of materials
# (CycloneDX), and SHA256SUMS beside it. The same commit and toolchain give the same bytes: the
# files contain no path of this machine, and no time other than that of the commit.
#
#   DIST_BINARY        a static leastconn-lb to use instead of building one
#   DIST_TARGET        target triple; default: this machine's, with glibc. For another architecture,
#                      install the Rust target and a C cross compiler: see docs/how-to/install.md
#   DIST_HOST_PROGRAM  with DIST_TARGET: a leastconn-lb that runs on this machine, which writes manual
#                      pages and completions; default: built with DIST_PROFILE
#   DIST_PROFILE       cargo profile; default: release
#   SOURCE_DATE_EPOCH  time of all files; default: that of the last commit
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

CARGO=${CARGO:-cargo}
die() {
  printf 'dist: %s\n' "$*" >&2
  exit 1
}

target=${DIST_TARGET:-$(uname -m)-unknown-linux-gnu}
profile=${DIST_PROFILE:-release}
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}
export SOURCE_DATE_EPOCH
export LC_ALL=C TZ=UTC
umask 022

directory=$profile
if [ "$profile" = dev ]; then directory=debug; fi
architecture=${target%%-*}
is_foreign=''
if [ "$architecture" != "$(uname -m)" ]; then is_foreign=1; fi

program=${DIST_BINARY:-}
if [ -z "$program" ]; then
  if [ "$is_foreign" ]; then
    compiler=$architecture-linux-gnu-gcc
    variable=CARGO_TARGET_$(tr 'a-z-' 'A-Z_' <<<"$target")_LINKER
    if [ -z "${!variable:-}" ]; then
      command -v "$compiler" >/dev/null || die "$compiler is missing: install the cross compiler for $architecture, or set $variable"
      export "$variable=$compiler"
    fi
  fi
  home=${CARGO_HOME:-$HOME/.cargo}
  # With --target, the flags do not apply to build scripts. Line tables are stripped, because they
  # would be three quarters of the binary. Function names remain for backtraces.
  RUSTFLAGS="-C target-feature=+crt-static --remap-path-prefix=$PWD=/src --remap-path-prefix=$home=/cargo" \
    CFLAGS="-ffile-prefix-map=$PWD=/src -ffile-prefix-map=$home=/cargo" \
    CARGO_PROFILE_RELEASE_STRIP=debuginfo \
    "$CARGO" build --locked --profile "$profile" -p leastconn-lb --target "$target" --target-dir target/dist-build
  program=target/dist-build/$target/$directory/leastconn-lb
fi
[ -x "$program" ] || die "$program does not exist"
if readelf -l "$program" | grep -q INTERP; then die "$program is not static"; fi

# The program that writes manual pages and completions.
writer=$program
if [ "$is_foreign" ]; then
  writer=${DIST_HOST_PROGRAM:-target/$directory/leastconn-lb}
  if [ -z "${DIST_HOST_PROGRAM:-}" ]; then "$CARGO" build --locked --profile "$profile" -p leastconn-lb; fi
fi
[ "$("$writer" --version)" = "leastconn-lb $version" ] || die "$writer has another version than Cargo.toml ($version)"

name=leastconn-lb-$version-$architecture-linux
out=target/dist
stage=$out/$name
rm -rf "$out"
mkdir -p "$stage/man/man1" "$stage/man/man5" "$stage/completions" "$stage/systemd" "$stage/docs"
install -m 0755 "$program" "$stage/leastconn-lb"
"$writer" man --dir "$stage/man/man1"
mv "$stage/man/man1/leastconn.toml.5" "$stage/man/man5"
for shell in bash zsh fish; do "$writer" completions $shell >"$stage/completions/leastconn-lb.$shell"; done
cp README.md CHANGELOG.md LICENSE-MIT LICENSE-APACHE "$stage"
cp deploy/debian/leastconn.toml "$stage/leastconn.toml"
cp deploy/systemd/*.service deploy/systemd/*.socket deploy/systemd/*.timer "$stage/systemd"
for kind in sysusers tmpfiles; do cp "deploy/systemd/$kind.d/leastconn.conf" "$stage/systemd/$kind.conf"; done
cp -R docs/. "$stage/docs"
cp -R examples "$stage/examples"
mkdir "$stage/prometheus"
cp deploy/prometheus/*.yml "$stage/prometheus"
cp deploy/grafana/leastconn.json "$stage/prometheus/grafana.json"
deploy/debian/licences.py >"$stage/THIRD-PARTY-LICENCES.txt"
deploy/dist/sbom.py >"$stage/sbom.cdx.json"
cp "$stage/sbom.cdx.json" "$out/$name.cdx.json"

chmod -R u=rwX,go=rX "$stage"
tar --create --directory "$out" --sort=name --mtime="@$SOURCE_DATE_EPOCH" --owner=0 --group=0 --numeric-owner \
  --format=gnu "$name" | gzip -9n >"$out/$name.tar.gz"
rm -rf "$stage"
(cd "$out" && sha256sum "$name.tar.gz" "$name.cdx.json" >SHA256SUMS && sha256sum --check --quiet SHA256SUMS)
echo "$out/$name.tar.gz"
