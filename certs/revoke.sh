#!/bin/sh
# Revokes a certificate by adding it to ca/ca.crl. A running balancer watches the file,
# and closes the connections of revoked clients within a second.
#
#   certs/revoke.sh CERT [--dir DIR]      e.g. certs/revoke.sh certs/client1/client1.crt
#   certs/revoke.sh --renew [--dir DIR]   renew the CRL without changes
#
# generate_certs.sh keeps revoked certificates, so that you can test that they are
# refused. To replace one, delete its directory and run generate_certs.sh again.
set -eu
HERE=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
# shellcheck source=certs/ca-lib.sh
. "$HERE/ca-lib.sh"

CERT='' RENEW='' DIR=$HERE
while [ $# -gt 0 ]; do
  case $1 in
    --dir) DIR=${2:?--dir needs a directory} && shift ;;
    --renew) RENEW=1 ;;
    -*) die "usage: revoke.sh CERT [--dir DIR], revoke.sh --renew [--dir DIR]" ;;
    *) CERT=$1 ;;
  esac
  shift
done
[ -n "$CERT" ] || [ -n "$RENEW" ] || die "usage: revoke.sh CERT [--dir DIR], revoke.sh --renew [--dir DIR]"
need_openssl
CA=$(CDPATH='' cd -- "$DIR" && pwd)/ca
if [ ! -s "$CA/ca.key.pem" ] || [ ! -d "$CA/db" ]; then
  die "no CA in $CA; run generate_certs.sh first"
fi

if [ -n "$CERT" ]; then
  openssl x509 -in "$CERT" -noout 2>/dev/null || die "$CERT is not a certificate"
  openssl verify -no_check_time -partial_chain -CAfile "$CA/ca.crt" "$CERT" >/dev/null 2>&1 ||
    die "$CERT was not issued by this CA, so this CA cannot revoke it"
  SERIAL=$(openssl x509 -in "$CERT" -noout -serial)
  SERIAL=${SERIAL#serial=}
  if awk -F '\t' -v s="$SERIAL" '$1 == "R" && $4 == s { found = 1 } END { exit !found }' "$CA/db/index.txt"; then
    say "serial $SERIAL is already revoked; renewing the CRL"
  else
    ca_conf "$CA"
    quietly ca -config "$WORK/ca.cnf" -revoke "$CERT"
    say "revoked serial $SERIAL"
  fi
fi
write_crl "$CA"
say "wrote $CA/ca.crl; a running balancer reloads it automatically"
