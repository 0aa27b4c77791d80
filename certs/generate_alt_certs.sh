#!/bin/sh
# Generates a CA that the balancer does not trust, and a certificate of this CA with a
# client name that the balancer knows: alt/ca.crt, alt/client1.crt, alt/client1.key.pem.
# See test-mtls-alt.sh.
#
#   certs/generate_alt_certs.sh [--force] [--dir DIR]
set -eu
HERE=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
# shellcheck source=certs/ca-lib.sh
. "$HERE/ca-lib.sh"

FORCE='' DIR=$HERE
while [ $# -gt 0 ]; do
  case $1 in
    --force) FORCE=1 ;;
    --dir) DIR=${2:?--dir needs a directory} && shift ;;
    *) die "usage: generate_alt_certs.sh [--force] [--dir DIR]" ;;
  esac
  shift
done
need_openssl
mkdir -p "$DIR"
ALT=$(CDPATH='' cd -- "$DIR" && pwd)/alt

if [ -n "$FORCE" ] || [ ! -s "$ALT/ca.crt" ] || [ ! -s "$ALT/ca.key.pem" ] || [ ! -d "$ALT/db" ]; then
  new_ca "$ALT" "some other CA"
  say "made  alt/ca.crt, alt/ca.key.pem, alt/ca.crl"
fi
if ! still_good "$ALT" "$ALT/client1"; then
  issue "$ALT" "$ALT/client1" client1.lb.com clientAuth DNS:client1.lb.com
  say "made  alt/client1.crt, alt/client1.key.pem  (client1.lb.com, issued by the other CA)"
fi
