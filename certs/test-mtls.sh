#!/bin/sh
# Asks a running balancer for a page as client1 and as client2, and says which
# server answered. The rules expected are those of examples/leastconn.toml:
#
#   client1.lb.com   may use both servers
#   client2.lb.com   may use webapp2 only
#   stranger.lb.com  has a certificate of the right authority, and no rule
#   no certificate, an expired one: refused
#
# Exit code 0: all as expected. 1: something is not, and it says what.
#
#   LB_ADDRESS  where the balancer listens (default localhost:9443)
#   LB_NAME     the name its certificate must have (default lb.com)
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
# With least connections and nothing else going on the servers take turns, or
# are drawn by lot: in so many tries both are met (and a burst of 20 allows it).
TRIES=18

die() {
  printf 'test-mtls: %s\n' "$*" >&2
  exit 1
}

# Prints the page, or nothing when there was none. ERROR has curl's own words.
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
    6 | 7) die "nothing listens on $ADDRESS ($ERROR); is the balancer running? See LB_ADDRESS" ;;
    60) die "the balancer's certificate is not one for $NAME of $CERTS/ca/ca.crt ($ERROR)" ;;
    58) die "curl cannot use the client certificate ($ERROR)" ;;
  esac
}

# Which server's page that is; the page of a server holds its name.
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
  who=$(server_of)
  [ "$who" != '?' ] || die "client1.lb.com got a page that names neither $FIRST nor $SECOND: $PAGE"
  echo "client1.lb.com   $who"
  case $SEEN in *" $who "*) ;; *) SEEN="$SEEN$who " ;; esac
  if [ $i -ge 4 ] && [ "$SEEN" != "${SEEN#*"$FIRST"}" ] && [ "$SEEN" != "${SEEN#*"$SECOND"}" ]; then break; fi
done
for s in "$FIRST" "$SECOND"; do
  case $SEEN in *" $s "*) ;; *) die "client1.lb.com may use both servers, but $s answered none of $TRIES requests: is it up?" ;; esac
done

i=0
while [ $i -lt 4 ]; do
  i=$((i + 1))
  ask client2
  [ "$STATUS" = 0 ] || die "client2.lb.com was not served: $ERROR"
  who=$(server_of)
  echo "client2.lb.com   $who"
  [ "$who" = "$SECOND" ] || die "client2.lb.com may use $SECOND only, and reached $who"
done

refused() { # CLIENT WHAT
  ask "$1"
  [ "$STATUS" != 0 ] || die "$2 got a page ($(server_of)); it must be refused"
  echo "$2   refused (${ERROR#curl: })"
}
refused stranger 'stranger.lb.com'
refused expired 'expired client1'
refused none 'no certificate'
echo "all as expected"
