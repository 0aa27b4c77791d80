#!/bin/sh
# A client whose certificate is by an authority the balancer does not trust
# (generate_alt_certs.sh) must be turned away by TLS itself: before a server is
# chosen and before a byte reaches one.
#
# Exit code 0 only if it was: the balancer let a trusted client in, and answered
# the untrusted one with a TLS alert about its certificate. A time-out, a
# balancer that is not there, or one that closes without a word are failures.
#
#   LB_ADDRESS, LB_NAME, CERTS: as for test-mtls.sh
set -eu
HERE=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
ADDRESS=${LB_ADDRESS:-localhost:9443}
NAME=${LB_NAME:-lb.com}
CERTS=${CERTS:-$HERE}

die() {
  printf 'test-mtls-alt: %s\n' "$*" >&2
  exit 1
}

ask() { # CERT KEY
  STATUS=0
  curl --silent --show-error --fail --max-time 10 --noproxy '*' --output /dev/null \
    --cacert "$CERTS/ca/ca.crt" --connect-to "$NAME:443:$ADDRESS" \
    --cert "$1" --key "$2" "https://$NAME/" 2>"$ERRORS" || STATUS=$?
  ERROR=$(cat "$ERRORS")
}

# The alert may lose a race against the reset that follows it when the client has
# sent its request already: s_client waits for it without sending anything.
alert() { # CERT KEY
  { sleep 3; } | openssl s_client -connect "$ADDRESS" -servername "$NAME" -CAfile "$CERTS/ca/ca.crt" \
    -cert "$1" -key "$2" 2>&1 | sed -n 's/.*\(alert [a-z ]*\).*/\1/p' | head -n 1
}

for tool in curl openssl; do
  command -v $tool >/dev/null 2>&1 || die "$tool is not installed (Debian, Ubuntu: apt-get install $tool)"
done
[ -s "$CERTS/client1/client1.crt" ] || die "no certificates in $CERTS; run $HERE/generate_certs.sh first"
[ -s "$CERTS/alt/client1.crt" ] || die "no other authority in $CERTS/alt; run $HERE/generate_alt_certs.sh first"
ERRORS=$(mktemp "${TMPDIR:-/tmp}/leastconn-mtls.XXXXXX")
trap 'rm -f "$ERRORS"' EXIT

ask "$CERTS/client1/client1.crt" "$CERTS/client1/client1.key.pem"
[ "$STATUS" = 0 ] || die "even the trusted client1.lb.com is not served, so a refusal would say nothing: $ERROR"

ask "$CERTS/alt/client1.crt" "$CERTS/alt/client1.key.pem"
case $STATUS in
  0) die "client1.lb.com of the other authority was let in" ;;
  22) die "client1.lb.com of the other authority got as far as a server: $ERROR" ;;
  28) die "no answer within 10 s; expected a refusal" ;;
esac
WHY=$(printf '%s\n' "$ERROR" | sed -n 's/.*\(alert [a-z ]*\).*/\1/p' | head -n 1)
[ -n "$WHY" ] || WHY=$(alert "$CERTS/alt/client1.crt" "$CERTS/alt/client1.key.pem")
case $WHY in
  'alert unknown ca'* | 'alert bad certificate'* | 'alert certificate unknown'* | 'alert decrypt error'* | \
    'alert handshake failure'* | 'alert access denied'* | 'alert unsupported certificate'*)
    echo "client1.lb.com of the other authority was refused by TLS: $WHY"
    ;;
  *) die "client1.lb.com of the other authority got no page, but no TLS alert about its certificate either: $ERROR" ;;
esac
