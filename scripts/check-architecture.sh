#!/usr/bin/env bash
# What the compiler does not check: the promises of ARCHITECTURE.md and the
# house's rules about files. Prints every violation; exit code 1 if there is one.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

FAILED=''
wrong() {
  printf 'check-architecture: %s\n' "$*" >&2
  FAILED=1
}
# What is committed or about to be; nothing that git ignores.
files() { git ls-files --cached --others --exclude-standard -- "$@" | while IFS= read -r f; do [ -e "$f" ] && printf '%s\n' "$f"; done || true; }

# The library knows neither TLS nor configuration.
tree=$(cargo tree --locked --prefix none -p leastconn -e normal)
for crate in rustls serde toml clap; do
  if grep -q "^$crate v" <<<"$tree"; then wrong "the library leastconn depends on $crate"; fi
done

# No file so long that nobody reads it; foo.rs and foo/, never foo/mod.rs.
while IFS= read -r f; do
  lines=$(wc -l <"$f")
  if [ "$lines" -gt 600 ]; then wrong "$f has $lines lines; 600 is the limit"; fi
  case $f in */mod.rs) wrong "$f: use foo.rs beside foo/ instead of foo/mod.rs" ;; esac
done < <(files '*.rs')

# A room knows only those below it: whoever reads one can stop somewhere. Of each
# `crate::a` and `use crate::{a, b::C, d::{E, F}}`, outside tests and comments.
rooms() {
  local src=$1 f room
  while IFS= read -r f; do
    case $f in */tests/* | */tests.rs | "$src"/lib.rs | "$src"/main.rs) continue ;; esac
    room=${f#"$src"/} room=${room%%/*}
    ROOM=${room%.rs} perl -0777 -ne '
      s{//.*}{}g; s/#\[cfg\(test\)\]\s*mod \w+ \{.*//s;
      my @to = /\bcrate::(\w+)/g;
      while (/\bcrate::(\{(?:[^{}]++|(?1))*\})/g) {
        my $list = substr $1, 1, -1;
        1 while $list =~ s/\{[^{}]*\}//g;
        push @to, $list =~ /(?:^|,)\s*(\w+)/g;
      }
      $_ eq $ENV{ROOM} || print "$ENV{ROOM} $_\n" for @to;
    ' "$f"
  done < <(files "$src/*.rs" | sort)
}
for src in crates/*/src; do
  circle=$(rooms "$src" | tsort 2>&1 >/dev/null) ||
    wrong "$src: rooms that need each other: $(awk '/loop:$/ && n++ { exit } !/loop:$/ { print $2 }' <<<"$circle" | paste -sd ' ')"
done

# Private keys are made where they are used.
while IFS= read -r f; do
  if grep -qE '^-----BEGIN [A-Z ]*PRIVATE KEY-----' "$f"; then wrong "$f holds a private key"; fi
done < <(files)

# The image's first layer needs every manifest of the workspace.
while IFS= read -r f; do
  grep -qF "COPY $f " Dockerfile || wrong "Dockerfile does not copy $f in its layer of dependencies"
done < <(files 'crates/*/Cargo.toml' bench/Cargo.toml)

# Each dependency is there for a reason that is written down.
while IFS= read -r dep; do
  case $dep in leastconn*) continue ;; esac
  grep -qF "\`$dep\`" docs/dependencies.md || wrong "docs/dependencies.md says nothing about $dep"
done < <(awk '/^\[/ { on = ($0 == "[workspace.dependencies]") } on && /^[a-z]/ { print $1 }' Cargo.toml)

# A path that a document names exists. In backticks, with a slash and either a
# first part that is in the repository or a known ending; or a bare *.rs, *.sh.
# What git ignores (certs/ca/ca.crt) is made later and may be missing.
all=$(files)
exists() {
  local path=${1%/}
  # From the root, as a pattern, or as the end of some path (`tls/handshake.rs`).
  if [ -e "$path" ] || compgen -G "$path" >/dev/null; then return 0; fi
  case $'\n'$all$'\n' in
    *"/$path"$'\n'* | *"/$path/"*) return 0 ;;
  esac
  return 1
}
for doc in ARCHITECTURE.md README.md; do
  [ -e "$doc" ] || continue
  # shellcheck disable=SC2016 # the backticks are the document's
  while IFS= read -r path; do
    case $path in
      /* | *://* | *..* | '~'*) continue ;;
      */*)
        if [ ! -e "${path%%/*}" ]; then
          case $path in *.rs | *.sh | *.md | *.toml | *.yml | *.service) ;; *) continue ;; esac
        fi
        ;;
      *.rs | *.sh) ;;
      *) continue ;;
    esac
    exists "$path" || git check-ignore -q "$path" || wrong "$doc names $path, which does not exist"
  done < <(grep -oE '`[A-Za-z0-9_.*/~:-]+`' "$doc" | tr -d '`' | sort -u || true)
done

# A test that the list of threats names exists, at the end of some path.
while IFS= read -r test; do
  file=${test%%::*}
  found=$(grep -E "(^|/)$file\$" <<<"$all" || true)
  if [ -z "$found" ] || ! xargs -d '\n' grep -qE "fn ${test##*::}\\b" <<<"$found"; then
    wrong "docs/threats.md names $test, which does not exist"
  fi
done < <(grep -oE '[a-z0-9_/-]+\.rs::[a-z0-9_]+' docs/threats.md | sort -u || true)

[ -z "$FAILED" ] || exit 1
