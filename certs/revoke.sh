#!/bin/sh
# Revokes a certificate: adds it to ca/ca.crl, which a balancer that runs watches: who is
# revoked is cut off within a second.
#
#   certs/revoke.sh CERT [--dir DIR]      e.g. certs/revoke.sh certs/client1/client1.crt
#   certs/revoke.sh --renew [--dir DIR]   the same list with a new date
#
# generate_certs.sh keeps a revoked certificate where it is, for trying that it
# is refused; remove its directory and run it again for a new one.
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
  die "no authority in $CA (generate_certs.sh makes one)"
fi

if [ -n "$CERT" ]; then
  openssl x509 -in "$CERT" -noout 2>/dev/null || die "$CERT is not a certificate"
  openssl verify -no_check_time -partial_chain -CAfile "$CA/ca.crt" "$CERT" >/dev/null 2>&1 ||
    die "$CERT was not issued by this authority: its list cannot revoke it"
  SERIAL=$(openssl x509 -in "$CERT" -noout -serial)
  SERIAL=${SERIAL#serial=}
  if awk -F '\t' -v s="$SERIAL" '$1 == "R" && $4 == s { found = 1 } END { exit !found }' "$CA/db/index.txt"; then
    say "serial $SERIAL is revoked already; the list gets a new date"
  else
    ca_conf "$CA"
    quietly ca -config "$WORK/ca.cnf" -revoke "$CERT"
    say "revoked serial $SERIAL"
  fi
fi
write_crl "$CA"
say "wrote $CA/ca.crl; a balancer that runs sees it by itself"
