#!/usr/bin/env bash
# Sends concurrent requests as both clients, each on a new connection, and prints how
# many each server answered and how many were refused. With the limits of
# examples/leastconn.toml (20 per second, burst 20) most are refused.
#
#   Run `make simulate-upstreams` and `make run`, then test/load.sh.
#
#   COUNT       requests per client (default 200)
#   AT_ONCE     concurrent requests (default 50)
#   LB_ADDRESS  where the balancer listens (default localhost:9443)
#   LB_NAME     the name in its certificate (default lb.com)
#   CERTS       directory of the certificates (default certs/)
#
# Exit code 1 if no request was served or client2 reached a server that it may not use.
# Each request starts a curl process, so this shows behaviour, not speed.
set -euo pipefail
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
export LB_ADDRESS=${LB_ADDRESS:-localhost:9443}
export LB_NAME=${LB_NAME:-lb.com}
export CERTS=${CERTS:-$HERE/../certs}
COUNT=${COUNT:-200}
AT_ONCE=${AT_ONCE:-50}

[ -s "$CERTS/client2/client2.crt" ] || {
  echo "load: no certificates in $CERTS; run certs/generate_certs.sh first" >&2
  exit 1
}

# Prints "CLIENT SERVER", or "CLIENT refused|timeout|unreachable".
one() {
  local page
  if page=$(curl --silent --fail --max-time 30 --noproxy '*' --cacert "$CERTS/ca/ca.crt" \
    --connect-to "$LB_NAME:443:$LB_ADDRESS" --cert "$CERTS/$1/$1.crt" --key "$CERTS/$1/$1.key.pem" \
    "https://$LB_NAME/"); then
    printf '%s %s\n' "$1" "$(tr -d '[:space:]' <<<"$page")"
  else
    case $? in
      6 | 7) printf '%s unreachable\n' "$1" ;;
      28) printf '%s timeout\n' "$1" ;;
      *) printf '%s refused\n' "$1" ;;
    esac
  fi
}
export -f one

start=$(date +%s.%N)
for _ in $(seq "$COUNT"); do printf 'client1\nclient2\n'; done |
  xargs -P "$AT_ONCE" -I{} bash -c 'one {}' |
  awk -v start="$start" -v at_once="$AT_ONCE" '
    { n[$1, $2]++; if (!($2 in seen)) { seen[$2] = 1; names[++columns] = $2 } total++ }
    END {
      # servers by name, then failures
      for (i = 1; i <= columns; i++) for (j = i + 1; j <= columns; j++)
        if (rank(names[j]) < rank(names[i])) { t = names[i]; names[i] = names[j]; names[j] = t }
      printf "%-16s", "client"
      for (i = 1; i <= columns; i++) printf "%14s", names[i]
      print ""
      for (c = 1; c <= 2; c++) {
        printf "%-16s", "client" c ".lb.com"
        for (i = 1; i <= columns; i++) printf "%14d", n["client" c, names[i]]
        print ""
        for (i = 1; i <= columns; i++) if (rank(names[i]) ~ /^0/) served += n["client" c, names[i]]
      }
      "date +%s.%N" | getline end
      printf "%d requests, %d at once, in %.1f s\n", total, at_once, end - start
      if (!served) { print "load: no request was served"; exit 1 }
      if (n["client2", "webapp1"]) { print "load: client2 reached webapp1, which it may not use"; exit 1 }

    }
    function rank(name) { return (name ~ /^(refused|timeout|unreachable)$/ ? "1" : "0") name }'
