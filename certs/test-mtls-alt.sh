#!/bin/sh
# Tests that a client with a certificate from an untrusted CA (generate_alt_certs.sh) is
# refused during the TLS handshake, before a server is selected.
#
# Exit code 0 if the balancer serves a trusted client, and sends the untrusted one a TLS
# alert about its certificate. A timeout, an unreachable balancer and a connection that
# closes without an alert are failures.
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

# curl may miss the alert: if it has already sent a request, a TCP reset can overtake the
# alert. s_client sends nothing, so it receives the alert.
alert() { # CERT KEY
  { sleep 3; } | openssl s_client -connect "$ADDRESS" -servername "$NAME" -CAfile "$CERTS/ca/ca.crt" \
    -cert "$1" -key "$2" 2>&1 | sed -n 's/.*\(alert [a-z ]*\).*/\1/p' | head -n 1
}

for tool in curl openssl; do
  command -v $tool >/dev/null 2>&1 || die "$tool is not installed (Debian, Ubuntu: apt-get install $tool)"
done
[ -s "$CERTS/client1/client1.crt" ] || die "no certificates in $CERTS; run $HERE/generate_certs.sh first"
[ -s "$CERTS/alt/client1.crt" ] || die "no untrusted CA in $CERTS/alt; run $HERE/generate_alt_certs.sh first"
ERRORS=$(mktemp "${TMPDIR:-/tmp}/leastconn-mtls.XXXXXX")
trap 'rm -f "$ERRORS"' EXIT

ask "$CERTS/client1/client1.crt" "$CERTS/client1/client1.key.pem"
[ "$STATUS" = 0 ] || die "the trusted client1.lb.com was not served, so the test is not conclusive: $ERROR"

ask "$CERTS/alt/client1.crt" "$CERTS/alt/client1.key.pem"
case $STATUS in
  0) die "client1.lb.com of the untrusted CA was served" ;;
  22) die "client1.lb.com of the untrusted CA reached a server: $ERROR" ;;
  28) die "no response within 10 s; expected a refusal" ;;
esac
ALERT=$(printf '%s\n' "$ERROR" | sed -n 's/.*\(alert [a-z ]*\).*/\1/p' | head -n 1)
[ -n "$ALERT" ] || ALERT=$(alert "$CERTS/alt/client1.crt" "$CERTS/alt/client1.key.pem")
case $ALERT in
  'alert unknown ca'* | 'alert bad certificate'* | 'alert certificate unknown'* | 'alert decrypt error'* | \
    'alert handshake failure'* | 'alert access denied'* | 'alert unsupported certificate'*)
    echo "client1.lb.com of the untrusted CA was refused by TLS: $ALERT"
    ;;
  *) die "client1.lb.com of the untrusted CA was refused without a TLS alert about its certificate: $ERROR" ;;
esac
