#!/bin/sh
# Two web servers on this machine, webapp1 on 8081 and webapp2 on 8082, for
# examples/local.toml. They go on until stopped.
#
#   scripts/simulate-upstreams.sh start | stop
set -eu
HERE=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
STATE=${TMPDIR:-/tmp}/leastconn-upstreams-$(id -u)

# Is the process in FILE still the server that `start` started?
running() { # FILE
  [ -s "$1" ] || return 1
  pid=$(cat "$1")
  # /proc first: a small Debian has no ps
  { tr '\0' ' ' <"/proc/$pid/cmdline" || ps -p "$pid" -o args=; } 2>/dev/null | grep -q dummy-server.py
}

# Ends what `start` started, by process ID, and only if it still is that.
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
  # The name, not just an answer: something else may be on that port.
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
