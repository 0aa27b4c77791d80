#!/usr/bin/env bash
# Checks that the programs for building and testing are installed. If it runs as
# root on Debian or Ubuntu, it installs missing packages; otherwise it lists them. Prints
# nothing if nothing is missing.
#
#   scripts/setup.sh [--build | --test | --store | --lint | --browser | --instructions | --deb | --deb-test]…     (default: --build)
#
#   --build     cargo in the version that Cargo.toml requires, and a C compiler
#   --test      the programs that tests run against
#   --store     Valkey or Redis, whichever is installed; else Redis
#   --lint      git, python3, shellcheck and cargo-deny
#   --browser   Chromium for the dashboard tests, and axe-core (accessibility checks)
#               if npm can download it
#   --instructions
#               valgrind, which counts instructions
#   --deb       the tools that build the Debian package
#   --deb-test  the tools that test the Debian package (includes --deb)
#
# Every option includes --build.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

TEST='' STORE='' LINT='' BROWSER='' INSTRUCTIONS='' DEB='' DEB_TEST=''
for arg in "$@"; do
  case $arg in
    --build) ;;
    --test) TEST=1 ;;
    --store) STORE=1 ;;
    --lint) LINT=1 ;;
    --browser) BROWSER=1 ;;
    --instructions) INSTRUCTIONS=1 ;;
    --deb) DEB=1 ;;
    --deb-test) DEB=1 DEB_TEST=1 ;;
    *) echo "usage: setup.sh [--build | --test | --store | --lint | --browser | --instructions | --deb | --deb-test]…" >&2 && exit 2 ;;
  esac
done

# Debian installs servers in directories that are not in the PATH of ordinary users.
PATH=$PATH:/usr/local/sbin:/usr/sbin

have() { command -v "$1" >/dev/null 2>&1; }
problem() {
  printf 'setup: %s\n' "$*" >&2
  BAD=1
}
BAD=''

# --- Debian packages: COMMAND PACKAGE ------------------------------------------

MISSING=()
want() { have "$1" || MISSING+=("$2"); }

# aws-lc, the cryptographic library that rustls uses, is written in C. It ships assembly for
# Linux on x86-64 and arm64; other platforms also need cmake.
want cc gcc
if have cc && ! printf '#include <stdlib.h>\nint main(void){return 0;}' | cc -x c -fsyntax-only - 2>/dev/null; then
  MISSING+=(libc6-dev)
fi
have cc || MISSING+=(libc6-dev)
case $(uname -sm) in
  'Linux x86_64' | 'Linux aarch64') ;;
  *) want cmake cmake ;;
esac
if [ -n "$TEST" ]; then
  want openssl openssl
  want curl curl
  want dnsmasq dnsmasq-base
  want faketime faketime
  want haproxy haproxy
  want nginx nginx
  want stunnel stunnel4
  want promtool prometheus
  want psql postgresql-client
  compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null || want initdb postgresql
  want python3 python3
  # Programs that the documents use (scripts/docs-test.py).
  want ip iproute2
  want iptables iptables
  want jq jq
  want nc netcat-openbsd
  want unshare util-linux
  want redis-server redis-server
  want redis-cli redis-tools
  want tmux tmux
  # One program for each protocol in docs/reference/protocols.md.
  want ldapsearch ldap-utils
  want mariadb mariadb-client
  want mariadbd mariadb-server
  want mosquitto mosquitto
  want mosquitto_pub mosquitto-clients
  want nghttp nghttp2-client
  want slapd slapd
  want socat socat
  want ssh openssh-client
  want sshd openssh-server
  if have python3 && ! python3 -c 'import ensurepip' 2>/dev/null; then MISSING+=(python3-venv); fi
fi
if [ -n "$STORE" ]; then
  have valkey-server || want redis-server redis-server
  want python3 python3
fi
if [ -n "$BROWSER" ] && [ -z "${CHROMIUM:-}" ]; then
  have chromium-browser || have google-chrome || want chromium chromium
fi
if [ -n "$INSTRUCTIONS" ]; then
  want python3 python3
  want valgrind valgrind
fi
if [ -n "$LINT" ]; then
  want git git
  want python3 python3
  want shellcheck shellcheck
fi
if [ -n "$DEB" ]; then
  want dpkg-shlibdeps dpkg-dev
  want objcopy binutils
  want python3 python3
  want lintian lintian
fi
if [ -n "$DEB_TEST" ]; then
  want mmdebstrap mmdebstrap
  want systemd-nspawn systemd-container
fi

if [ ${#MISSING[@]} -gt 0 ]; then
  if [ "$(id -u)" = 0 ] && have apt-get; then
    echo "setup: installing ${MISSING[*]}" >&2
    log=$(mktemp)
    # policy-rc.d keeps the installed services stopped: the tests start nginx and other servers
    # themselves, on other ports.
    policy=''
    if [ ! -e /usr/sbin/policy-rc.d ]; then
      policy=/usr/sbin/policy-rc.d
      printf '#!/bin/sh\nexit 101\n' >$policy
      chmod 755 $policy
    fi
    if ! { apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "${MISSING[@]}"; } >"$log" 2>&1; then
      tail -n 15 "$log" >&2
      problem "apt-get could not install ${MISSING[*]}"
    fi
    if [ -n "$policy" ]; then rm -f $policy; fi
    rm -f "$log"
  elif have apt-get; then
    problem "missing; install with: sudo apt-get install ${MISSING[*]}"
  else
    problem "missing (Debian's package names): ${MISSING[*]}"
  fi
fi

# --- Rust ----------------------------------------------------------------------

RUST=$(sed -n 's/^rust-version *= *"\(.*\)"/\1/p' Cargo.toml)
# version_at_least HAVE WANT
version_at_least() { [ "$(printf '%s\n%s\n' "$2" "$1" | sort -V | head -n 1)" = "$2" ]; }

if ! have cargo; then
  problem "cargo is missing; leastconn needs Rust $RUST or later:
         curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh    (see https://rustup.rs)"
else
  found=$(cargo --version 2>/dev/null | awk '{print $2}')
  if [ -z "$found" ]; then
    problem "cargo is installed but does not run: $(cargo --version 2>&1 | head -n 1)"
  elif ! version_at_least "$found" "$RUST"; then
    if have rustup; then fix="rustup toolchain install stable && rustup default stable"; else fix="see https://rustup.rs"; fi
    problem "Rust $found is too old; $RUST or later is needed: $fix"
  elif [ -n "$LINT" ]; then
    cargo fmt --version >/dev/null 2>&1 || problem "rustfmt is missing: rustup component add rustfmt"
    cargo clippy --version >/dev/null 2>&1 || problem "clippy is missing: rustup component add clippy"
    if ! have cargo-deny; then
      echo "setup: installing cargo-deny (a few minutes, only once)" >&2
      cargo install --quiet --locked cargo-deny || echo "setup: cargo-deny could not be installed; lint runs without it" >&2
    fi
  fi
  if [ -n "$DEB" ] && [ -z "$BAD" ] && ! have cargo-deb; then
    echo "setup: installing cargo-deb (a few minutes, only once)" >&2
    cargo install --quiet --locked cargo-deb || problem "cargo-deb is missing: cargo install --locked cargo-deb"
  fi
fi

# --- Python modules --------------------------------------------------------------

# Clients and servers for some protocols, and Valkey, which is not in Debian 12. Tests whose
# module is missing are skipped.
python_env=target/test-python
python_list=scripts/test-python.txt
if [ -n "$TEST" ] && [ -z "$BAD" ] && ! cmp -s "$python_list" "$python_env/installed"; then
  echo 'setup: installing Python modules for the tests' >&2
  if ! { rm -rf "$python_env" && python3 -m venv "$python_env" &&
    "$python_env/bin/pip" install -q --disable-pip-version-check --only-binary :all: --retries 1 --timeout 15 -r "$python_list" &&
    cp "$python_list" "$python_env/installed"; } >&2; then
    rm -rf "$python_env"
    echo 'setup: no Python modules; tests of gRPC, SMTP, WebSocket, AMQP, psycopg and Valkey are skipped' >&2
  fi
fi

# --- axe-core --------------------------------------------------------------------

# axe-core is used by tests only. It is not part of the repository because of its licence
# (MPL-2.0). Without it, the dashboard tests check only names, roles and landmarks.
AXE=4.14.1
axe_file=target/browser/axe.min.js
if [ -n "$BROWSER" ] && ! grep -qs "axe v$AXE" "$axe_file"; then
  if have npm && have tar; then
    place=$(mktemp -d)
    if (cd "$place" && npm pack --silent "axe-core@$AXE" && tar xzf "axe-core-$AXE.tgz") >/dev/null 2>&1; then
      mkdir -p target/browser
      cp "$place/package/axe.min.js" "$axe_file"
    else
      echo "setup: npm cannot download axe-core; the tests run without it" >&2
    fi
    rm -rf "$place"
  else
    echo "setup: npm is not installed; the tests run without axe-core" >&2
  fi
fi

[ -z "$BAD" ] || exit 1
