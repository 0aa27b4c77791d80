#!/bin/sh
# Starts or stops two local web servers for examples/local.toml: webapp1 on port 8081
# and webapp2 on port 8082.
#
#   scripts/simulate-upstreams.sh start | stop
set -eu
HERE=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
STATE=${TMPDIR:-/tmp}/leastconn-upstreams-$(id -u)

# Succeeds if the process ID in FILE still belongs to a server that `start` started.
running() { # FILE
  [ -s "$1" ] || return 1
  pid=$(cat "$1")
  # Try /proc first, because minimal Debian systems have no ps.
  { tr '\0' ' ' <"/proc/$pid/cmdline" || ps -p "$pid" -o args=; } 2>/dev/null | grep -q dummy-server.py
}

# Stops the servers that `start` started.
stop() {
  for file in "$STATE"/*.pid; do
    [ -e "$file" ] || continue
    if running "$file"; then
      kill "$(cat "$file")" 2>/dev/null || true
      echo "stopped $(basename "$file" .pid)"
    fi
    rm -f "$file"
  done
  if [ -d "$STATE" ]; then rm -f "$STATE"/*.log && rmdir "$STATE"; fi
}

start() { # NAME PORT
  if running "$STATE/$1.pid"; then
    echo "$1 is running on 127.0.0.1:$2"
    return
  fi
  python3 "$HERE/dummy-server.py" "$1" "$2" </dev/null >"$STATE/$1.log" 2>&1 &
  pid=$!
  echo $pid >"$STATE/$1.pid"
  i=0
  # Compare the name in the response, because another program may listen on that port.
  until [ "$(curl -fsS --noproxy '*' --max-time 1 "http://127.0.0.1:$2/" 2>/dev/null)" = "$1" ]; do
    i=$((i + 1))
    if [ $i -gt 50 ] || ! kill -0 $pid 2>/dev/null; then
      tail -n 1 "$STATE/$1.log" >&2
      echo "simulate-upstreams: $1 does not start on 127.0.0.1:$2" >&2
      rm -f "$STATE/$1.pid"
      exit 1
    fi
    sleep 0.1
  done
  echo "$1 answers on 127.0.0.1:$2"
}

case ${1:-} in
  start)
    (umask 077 && mkdir -p "$STATE")
    start webapp1 8081
    start webapp2 8082
    ;;
  stop) stop ;;
  *) echo "usage: simulate-upstreams.sh start | stop" >&2 && exit 2 ;;
esac
