#!/usr/bin/env bash
# Checks rules that the compiler does not enforce: dependencies between modules, file
# sizes, and documents that must agree with the source tree. Prints every violation. The
# exit code is 1 if there is a violation.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

FAILED=''
fail() {
  printf 'check-architecture: %s\n' "$*" >&2
  FAILED=1
}
# Lists files that are tracked, and new files that are not ignored.
files() { git ls-files --cached --others --exclude-standard -- "$@" | while IFS= read -r f; do [ -e "$f" ] && printf '%s\n' "$f"; done || true; }

# The library must depend neither on TLS nor on the configuration format.
tree=$(cargo tree --locked --prefix none -p leastconn -e normal)
for crate in rustls serde toml clap; do
  if grep -q "^$crate v" <<<"$tree"; then fail "the library leastconn depends on $crate"; fi
done

# Size limit and layout of source files.
while IFS= read -r f; do
  lines=$(wc -l <"$f")
  if [ "$lines" -gt 600 ]; then fail "$f has $lines lines; the limit is 600"; fi
  case $f in */mod.rs) fail "$f: use foo.rs beside foo/ instead of foo/mod.rs" ;; esac
done < <(files '*.rs')

# The modules of a directory must not import each other in a cycle.
cycles=$(scripts/module-cycles.py crates/*/src bench/src) || fail "$cycles"

# The repository must not contain private keys. Keys are generated where they are used.
while IFS= read -r f; do
  if grep -qE '^-----BEGIN [A-Z ]*PRIVATE KEY-----' "$f"; then fail "$f contains a private key"; fi
done < <(files)

# The container image builds its dependency layer from the manifests of the workspace, so
# the Dockerfile must copy all of them.
while IFS= read -r f; do
  grep -qF "COPY $f " Dockerfile || fail "the Dockerfile does not copy $f into its dependency layer"
done < <(files 'crates/*/Cargo.toml' bench/Cargo.toml)

# Every dependency of the workspace must have an entry in docs/dependencies.md.
while IFS= read -r dep; do
  case $dep in leastconn*) continue ;; esac
  grep -qF "\`$dep\`" docs/dependencies.md || fail "docs/dependencies.md has no entry for $dep"
done < <(awk '/^\[/ { on = ($0 == "[workspace.dependencies]") } on && /^[a-z]/ { print $1 }' Cargo.toml)

# Every path that a document names in backticks must exist. This check covers paths with a
# slash that start with a directory of the repository or have a known extension, and *.rs
# and *.sh names without a slash. Files that git ignores (certs/ca/ca.crt) may be missing,
# because they are generated.
all=$(files)
exists() {
  local path=${1%/}
  # A path may be relative to the root, a glob, or the end of a path (`tls/handshake.rs`).
  if [ -e "$path" ] || compgen -G "$path" >/dev/null; then return 0; fi
  case $'\n'$all$'\n' in
    *"/$path"$'\n'* | *"/$path/"*) return 0 ;;
  esac
  return 1
}
for doc in ARCHITECTURE.md README.md; do
  [ -e "$doc" ] || continue
  # shellcheck disable=SC2016 # the backticks are Markdown
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
    exists "$path" || git check-ignore -q "$path" || fail "$doc names $path, which does not exist"
  done < <(grep -oE '`[A-Za-z0-9_.*/~:-]+`' "$doc" | tr -d '`' | sort -u || true)
done

# Links between documents must resolve.
scripts/check-links.sh || FAILED=1

# Every alert must have a runbook.
scripts/check-runbooks.py || FAILED=1

# Every test that docs/threats.md names must exist. A test is named as
# `end/of/path.rs::name`.
while IFS= read -r test; do
  file=${test%%::*}
  found=$(grep -E "(^|/)$file\$" <<<"$all" || true)
  if [ -z "$found" ] || ! xargs -d '\n' grep -qE "fn ${test##*::}\\b" <<<"$found"; then
    fail "docs/threats.md names the test $test, which does not exist"
  fi
done < <(grep -oE '[a-z0-9_/-]+\.rs::[a-z0-9_]+' docs/threats.md | sort -u || true)

[ -z "$FAILED" ] || exit 1
