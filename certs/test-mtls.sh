#!/bin/sh
# Requests a page from a running balancer with several client certificates, and prints
# which server responded. Expects the rules of examples/leastconn.toml:
#
#   client1.lb.com   may use both servers
#   client2.lb.com   may use webapp2 only
#   stranger.lb.com  has a trusted certificate, but matches no rule
#   clients without a certificate, or with an expired one, are refused
#
# Exit code 0 if everything is as expected, else 1 with a message.
#
#   LB_ADDRESS  where the balancer listens (default localhost:9443)
#   LB_NAME     the name in its certificate (default lb.com)
#   CERTS       directory of the certificates (default: the directory of this script)
#   SERVERS     the names on the two pages (default "webapp1 webapp2")
set -eu
HERE=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
ADDRESS=${LB_ADDRESS:-localhost:9443}
NAME=${LB_NAME:-lb.com}
CERTS=${CERTS:-$HERE}
SERVERS=${SERVERS:-webapp1 webapp2}
FIRST=${SERVERS% *}
SECOND=${SERVERS#* }
# Ties between idle servers are broken at random. This many requests reach both, and
# stay below the burst of 20.
TRIES=18

die() {
  printf 'test-mtls: %s\n' "$*" >&2
  exit 1
}

# Sets PAGE, STATUS (exit code of curl) and ERROR (message of curl).
ask() { # CLIENT
  if [ "$1" != none ]; then
    set -- --cert "$CERTS/$1/$1.crt" --key "$CERTS/$1/$1.key.pem"
  else
    set --
  fi
  STATUS=0
  PAGE=$(curl --silent --show-error --fail --max-time 10 --noproxy '*' \
    --cacert "$CERTS/ca/ca.crt" --connect-to "$NAME:443:$ADDRESS" \
    "$@" "https://$NAME/" 2>"$ERRORS") || STATUS=$?
  ERROR=$(cat "$ERRORS")
  case $STATUS in
    6 | 7) die "cannot connect to $ADDRESS ($ERROR); is the balancer running? See LB_ADDRESS" ;;
    60) die "the balancer's certificate is not valid for $NAME, or was not issued by $CERTS/ca/ca.crt ($ERROR)" ;;
    58) die "curl cannot use the client certificate ($ERROR)" ;;
  esac
}

# Prints the server whose name is on the page.
server_of() {
  case $PAGE in
    *"$FIRST"*) echo "$FIRST" ;;
    *"$SECOND"*) echo "$SECOND" ;;
    *) echo '?' ;;
  esac
}

command -v curl >/dev/null 2>&1 || die "curl is not installed (Debian, Ubuntu: apt-get install curl)"
[ -s "$CERTS/client2/client2.crt" ] || die "no certificates in $CERTS; run $HERE/generate_certs.sh first"
ERRORS=$(mktemp "${TMPDIR:-/tmp}/leastconn-mtls.XXXXXX")
trap 'rm -f "$ERRORS"' EXIT

SEEN=' '
i=0
while [ $i -lt $TRIES ]; do
  i=$((i + 1))
  ask client1
  [ "$STATUS" = 0 ] || die "client1.lb.com was not served: $ERROR"
  server=$(server_of)
  [ "$server" != '?' ] || die "the page for client1.lb.com contains neither $FIRST nor $SECOND: $PAGE"
  echo "client1.lb.com   $server"
  case $SEEN in *" $server "*) ;; *) SEEN="$SEEN$server " ;; esac
  if [ $i -ge 4 ] && [ "$SEEN" != "${SEEN#*"$FIRST"}" ] && [ "$SEEN" != "${SEEN#*"$SECOND"}" ]; then break; fi
done
for s in "$FIRST" "$SECOND"; do
  case $SEEN in *" $s "*) ;; *) die "client1.lb.com may use both servers, but $s answered none of $TRIES requests; is it running?" ;; esac
done

i=0
while [ $i -lt 4 ]; do
  i=$((i + 1))
  ask client2
  [ "$STATUS" = 0 ] || die "client2.lb.com was not served: $ERROR"
  server=$(server_of)
  echo "client2.lb.com   $server"
  [ "$server" = "$SECOND" ] || die "client2.lb.com may use only $SECOND, but reached $server"
done

expect_refusal() { # CLIENT WHAT
  ask "$1"
  [ "$STATUS" != 0 ] || die "$2 was served by $(server_of); expected a refusal"
  echo "$2   refused (${ERROR#curl: })"
}
expect_refusal stranger 'stranger.lb.com'
expect_refusal expired 'expired client1'
expect_refusal none 'no certificate'
echo "all as expected"
