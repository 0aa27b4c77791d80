#!/bin/sh
# Generates certificates for trying out mutual TLS: a CA with an empty CRL, a server
# certificate, and clients with different permissions. Valid existing files are kept.
#
#   certs/generate_certs.sh [--force] [--owner UID[:GID]] [--dir DIR]
#
#   --force   replace the CA and all certificates
#   --owner   owner of the server's key. The container's user (65532) cannot read a
#             key of mode 0600 that belongs to root; `make certs` sets this option
#   --dir     output directory (default: the directory of this script)
#
#   ca/ca.crt ca/ca.key.pem ca/ca.crl   the CA
#   server/server.{crt,key.pem}         lb.com, localhost, 127.0.0.1, ::1
#   client1/client1.{crt,key.pem}       client1.lb.com
#   client2/client2.{crt,key.pem}       client2.lb.com
#   stranger/stranger.{crt,key.pem}     stranger.lb.com: trusted, but matches no rule
#   expired/expired.{crt,key.pem}       client1.lb.com, expired in 2021
#
# For tests and small sites. If you have a CA, use it; ca-lib.sh shows the required
# certificate extensions.
set -eu
HERE=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
# shellcheck source=certs/ca-lib.sh
. "$HERE/ca-lib.sh"

usage() { sed -n '2,/^set -eu/{/^set -eu/d;s/^# \{0,1\}//;p;}' "$0"; }

FORCE='' OWNER='' DIR=$HERE
while [ $# -gt 0 ]; do
  case $1 in
    --force) FORCE=1 ;;
    --owner) OWNER=${2:?--owner needs UID:GID} && shift ;;
    --dir) DIR=${2:?--dir needs a directory} && shift ;;
    -h | --help) usage && exit 0 ;;
    *) usage >&2 && exit 2 ;;
  esac
  shift
done
need_openssl
mkdir -p "$DIR"
DIR=$(CDPATH='' cd -- "$DIR" && pwd)

made=0
if [ -n "$FORCE" ] || [ ! -s "$DIR/ca/ca.crt" ] || [ ! -s "$DIR/ca/ca.key.pem" ] || [ ! -d "$DIR/ca/db" ]; then
  new_ca "$DIR/ca" "leastconn test CA"
  say "made  ca/ca.crt, ca/ca.key.pem, ca/ca.crl"
  made=1
elif ! openssl crl -in "$DIR/ca/ca.crl" -noout >/dev/null 2>&1; then
  write_crl "$DIR/ca"
  say "made  ca/ca.crl"
fi

leaf() { # NAME CN USAGE SAN
  if still_good "$DIR/ca" "$DIR/$1/$1"; then return; fi
  issue "$DIR/ca" "$DIR/$1/$1" "$2" "$3" "$4"
  say "made  $1/$1.crt, $1/$1.key.pem  ($2)"
  made=1
}

leaf server lb.com serverAuth "DNS:lb.com, DNS:localhost, IP:127.0.0.1, IP:::1"
leaf client1 client1.lb.com clientAuth DNS:client1.lb.com
leaf client2 client2.lb.com clientAuth DNS:client2.lb.com
leaf stranger stranger.lb.com clientAuth DNS:stranger.lb.com
if ! belongs "$DIR/ca" "$DIR/expired/expired"; then
  issue "$DIR/ca" "$DIR/expired/expired" client1.lb.com clientAuth DNS:client1.lb.com \
    "-startdate 20200101000000Z -enddate 20210101000000Z"
  say "made  expired/expired.crt, expired/expired.key.pem  (client1.lb.com, expired)"
  made=1
fi

if [ -n "$OWNER" ]; then
  chown "$OWNER" "$DIR/server/server.key.pem" ||
    die "cannot give server/server.key.pem to $OWNER: run as root, or run the container as yourself (LB_UID=\$(id -u))"
fi
if [ "$made" = 0 ]; then say "certificates in $DIR are up to date (--force replaces them)"; fi
