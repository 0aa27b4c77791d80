#!/usr/bin/env bash
# Tests docker-compose.yml: builds the image, starts two web servers and the balancer, and
# connects clients with different rights. Removes everything at the end, even after a
# failure.
#
#   deploy/docker-test.sh          image from a static binary that cargo builds here
#   deploy/docker-test.sh --full   image built by the Dockerfile
#
# Needs no image registry: the web servers are busybox in an image from scratch, and --full
# creates its build image from Debian packages and the local Rust toolchain (or uses
# BUILDER_IMAGE).
#
# Uses the running Docker daemon. If no daemon runs and the user is root, starts a temporary
# daemon with its data in a temporary directory and without firewall rules.
#
#   DOCKER_TEST_BINARY  a static leastconn-lb to use instead of building one
#   DOCKER_TEST_KEEP=1  leave the composition up until Enter is pressed
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

FULL=''
case ${1:-} in
  '') ;;
  --full) FULL=1 ;;
  *) echo "usage: docker-test.sh [--full]" >&2 && exit 2 ;;
esac

TMP=$(mktemp -d "${TMPDIR:-/tmp}/lc-docker.XXXXXX")
TAG=test-$$
export COMPOSE_PROJECT_NAME=leastconn-$TAG
export LB_IMAGE=leastconn-lb:$TAG WEB_IMAGE=leastconn-web:$TAG WEB_ROOT=/usr/share/nginx/html
export CERTS=$TMP/certs
DAEMON=''
COMPOSE=()
STAGED=''

say() { printf '== %s\n' "$*"; }
die() {
  printf 'docker-test: %s\n' "$*" >&2
  exit 1
}

finish() {
  status=$?
  set +e
  trap - EXIT INT TERM
  if [ ${#COMPOSE[@]} -gt 0 ] && docker info >/dev/null 2>&1; then
    if [ $status -ne 0 ]; then
      echo "-- last messages of the composition:" >&2
      "${COMPOSE[@]}" logs --tail=40 >&2
    fi
    "${COMPOSE[@]}" down --volumes --timeout 5 >/dev/null 2>&1
    docker rmi -f "$LB_IMAGE" "$WEB_IMAGE" >/dev/null 2>&1
  fi
  stop_daemon
  if [ -n "$STAGED" ]; then rm -rf .docker-build; fi
  awk -v t="$TMP/" 'index($2, t) == 1 { print $2 }' /proc/mounts | sort -r | xargs -r -n1 umount 2>/dev/null
  rm -rf "$TMP"
  exit $status
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

is_root() { [ "$(id -u)" = 0 ]; }

# need COMMAND DEBIAN-PACKAGE
need() {
  command -v "$1" >/dev/null 2>&1 && return
  if is_root && command -v apt-get >/dev/null 2>&1; then
    say "installing $2"
    { apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "$2"; } \
      >"$TMP/apt.log" 2>&1 || { tail -n 5 "$TMP/apt.log" >&2 && die "cannot install $2"; }
  fi
  command -v "$1" >/dev/null 2>&1 || die "$1 is missing (Debian, Ubuntu: apt-get install $2)"
}

# Runs a command and prints its output only if it fails.
quietly() {
  if ! "$@" >"$TMP/quietly.log" 2>&1; then
    tail -n 40 "$TMP/quietly.log" >&2
    die "failed: $*"
  fi
}

# --- Docker ------------------------------------------------------------------

start_daemon() { # EXTRA-OPTIONS…
  # No default bridge and no firewall rules: the composition creates its network,
  # containers on one bridge reach each other without rules, and published ports use
  # Docker's userland proxy.
  dockerd -H "unix://$TMP/docker.sock" --data-root "$TMP/data" --exec-root "$TMP/exec" \
    --pidfile "$TMP/docker.pid" --bridge=none --iptables=false --ip6tables=false \
    --ip-forward=false --ip-masq=false "$@" >"$TMP/dockerd.log" 2>&1 &
  DAEMON=$!
  export DOCKER_HOST=unix://$TMP/docker.sock
  for _ in $(seq 60); do
    if docker info >/dev/null 2>&1; then return 0; fi
    kill -0 "$DAEMON" 2>/dev/null || break
    sleep 0.5
  done
  stop_daemon
  return 1
}

stop_daemon() {
  if [ -z "$DAEMON" ]; then return; fi
  kill "$DAEMON" 2>/dev/null || true
  wait "$DAEMON" 2>/dev/null || true
  DAEMON=''
}

# Checks that the daemon can build an image and start a container. With some storage drivers,
# the daemon starts but fails at the first layer.
build_web_image() {
  mkdir -p "$TMP/web"
  cp "$(command -v busybox)" "$TMP/web/busybox"
  cat >"$TMP/web/Dockerfile" <<'EOF'
FROM scratch
COPY busybox /bin/busybox
EXPOSE 80
ENTRYPOINT ["/bin/busybox", "httpd", "-f", "-p", "80", "-h", "/usr/share/nginx/html"]
EOF
  docker build -t "$WEB_IMAGE" "$TMP/web" >"$TMP/web.log" 2>&1 &&
    docker run --rm --network none --entrypoint /bin/busybox "$WEB_IMAGE" true >>"$TMP/web.log" 2>&1
}

need docker docker.io
need busybox busybox-static
need curl curl
need openssl openssl
if ! docker buildx version >/dev/null 2>&1; then export DOCKER_BUILDKIT=0; fi

if docker info >/dev/null 2>&1; then
  say "using the running Docker daemon"
  build_web_image || { cat "$TMP/web.log" >&2 && die "cannot build or run an image (is busybox a static one?)"; }
else
  is_root || die "no Docker daemon is running, and only root can start one"
  need dockerd docker.io
  if ! { start_daemon && build_web_image; }; then
    say "trying again with the storage driver vfs"
    stop_daemon
    rm -rf "$TMP/data"
    start_daemon --storage-driver=vfs || { tail -n 20 "$TMP/dockerd.log" >&2 && die "dockerd does not start here"; }
    build_web_image || { cat "$TMP/web.log" >&2 && die "cannot build or run an image (is busybox a static one?)"; }
  fi
  say "started a temporary Docker daemon ($(docker info --format '{{.ServerVersion}}, {{.Driver}}'))"
fi

if docker compose version >/dev/null 2>&1; then
  COMPOSE=(docker compose)
else
  need docker-compose docker-compose
  COMPOSE=(docker-compose)
fi
say "compose: $("${COMPOSE[@]}" version --short)"

# --- the image ---------------------------------------------------------------

TARGET=$(uname -m)-unknown-linux-gnu

# Build image: Debian's C compiler and the local Rust toolchain.
make_builder_image() {
  need debootstrap debootstrap
  local toolchain
  toolchain=$(rustc --print sysroot)
  say "creating a build image of Debian and $(rustc --version)"
  quietly debootstrap --variant=minbase --include=gcc,libc6-dev,ca-certificates bookworm "$TMP/builder" \
    "${DEBIAN_MIRROR:-http://deb.debian.org/debian}"
  mkdir -p "$TMP/builder/usr/local/rust"
  tar -C "$toolchain" --exclude=./share -cf - . | tar -C "$TMP/builder/usr/local/rust" -xf -
  # the machine's CA certificates, for networks that use a private CA
  cp /etc/ssl/certs/ca-certificates.crt "$TMP/builder/etc/ssl/certs/"
  tar -C "$TMP/builder" --one-file-system --exclude='./proc/*' --exclude='./sys/*' --exclude='./var/cache/*' --exclude='./var/lib/apt/*' -cf - . |
    docker import -c 'ENV PATH=/usr/local/rust/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin' \
      - "leastconn-builder:$TAG" >/dev/null
  rm -rf "$TMP/builder"
  BUILDER_IMAGE=leastconn-builder:$TAG
}

if [ -n "$FULL" ]; then
  if [ -z "${BUILDER_IMAGE:-}" ]; then make_builder_image; fi
  say "building the image with all stages (from $BUILDER_IMAGE)"
  quietly docker build --network host --build-arg "BUILDER_IMAGE=$BUILDER_IMAGE" -t "$LB_IMAGE" .
else
  if [ -z "${DOCKER_TEST_BINARY:-}" ]; then
    say "building a static leastconn-lb for $TARGET"
    RUSTFLAGS='-C target-feature=+crt-static' CARGO_PROFILE_RELEASE_STRIP=debuginfo cargo build --locked --release -p leastconn-lb --target "$TARGET"
    DOCKER_TEST_BINARY=${CARGO_TARGET_DIR:-target}/$TARGET/release/leastconn-lb
  fi
  STAGED=1
  mkdir -p .docker-build
  cp "$DOCKER_TEST_BINARY" .docker-build/leastconn-lb
  say "building the image from it"
  quietly docker build --target prebuilt -t "$LB_IMAGE" .
fi
say "image: $(docker image inspect -f '{{.Size}}' "$LB_IMAGE" | awk '{printf "%.1f MB", $1 / 1e6}')"

[ "$(docker image inspect -f '{{.Config.User}}' "$LB_IMAGE")" = 65532:65532 ] || die "the image's user is not 65532"
if docker run --rm --network none --entrypoint /bin/sh "$LB_IMAGE" -c true >/dev/null 2>&1; then die "there is a shell in the image"; fi

# --- the composition ---------------------------------------------------------

if is_root; then
  export LB_UID=65532 LB_GID=65532
  OWNER=(--owner 65532:65532)
else
  LB_UID=$(id -u) LB_GID=$(id -g)
  export LB_UID LB_GID
  OWNER=()
fi
chmod 755 "$TMP"
certs/generate_certs.sh --dir "$CERTS" "${OWNER[@]}" >/dev/null
certs/generate_alt_certs.sh --dir "$CERTS" >/dev/null

free_port() {
  # Use a port below the ephemeral ports (32768 and above): an ephemeral port can be in use
  # although no process listens on it.
  local port
  while :; do
    port=$((20000 + RANDOM % 12000))
    if ! (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then echo "$port" && return; fi
  done
}
LB_PORT=$(free_port) LB_ADMIN_PORT=$(free_port)
export LB_PORT LB_ADMIN_PORT
export LB_ADDRESS=127.0.0.1:$LB_PORT

wait_healthy() {
  local i health
  for i in $(seq 120); do
    health=$(docker inspect -f '{{.State.Status}} {{.State.Health.Status}}' "$LB")
    case $health in
      'running healthy') break ;;
      running*) ;;
      *) die "the health of the balancer's container is $health" ;;
    esac
    if [ "$i" = 120 ]; then die "not healthy after a minute: $(docker inspect -f '{{json .State.Health.Log}}' "$LB")"; fi
    sleep 0.5
  done
}

say "starting the composition"
quietly "${COMPOSE[@]}" up -d --no-build
LB=$("${COMPOSE[@]}" ps -q lb)

wait_healthy
say "healthy"

uids=$(docker top "$LB" -o uid,pid | awk 'NR > 1 { print $1 }' | sort -u)
[ "$uids" = "$LB_UID" ] || die "runs as uid $uids, not $LB_UID"
[ "$(docker inspect -f '{{.HostConfig.ReadonlyRootfs}}' "$LB")" = true ] || die "the file system can be written"
if "${COMPOSE[@]}" exec -T lb /leastconn-lb healthcheck --config /etc/leastconn/leastconn.toml >/dev/null 2>&1; then
  :
else
  die "healthcheck fails inside the container"
fi
"${COMPOSE[@]}" exec -T lb /leastconn-lb ctl status >"$TMP/ctl.log" 2>&1 || { cat "$TMP/ctl.log" >&2 && die "ctl fails inside the container"; }
grep -q '^web ' "$TMP/ctl.log" || { cat "$TMP/ctl.log" >&2 && die "ctl status does not show the upstream"; }

# --- authorization --------------------------------------------------------

certs/test-mtls.sh >"$TMP/mtls.log" || { cat "$TMP/mtls.log" && die "test-mtls.sh"; }
certs/test-mtls-alt.sh >"$TMP/alt.log" || { cat "$TMP/alt.log" && die "test-mtls-alt.sh"; }

# The CRL is replaced on the host. The container sees it because the directory is mounted, not
# the file.
certs/revoke.sh "$CERTS/client2/client2.crt" --dir "$CERTS" >/dev/null
revoked() {
  ! curl -fsS -m 5 --noproxy '*' --cacert "$CERTS/ca/ca.crt" --connect-to "lb.com:443:$LB_ADDRESS" --cert "$CERTS/client2/client2.crt" \
    --key "$CERTS/client2/client2.key.pem" https://lb.com/ >/dev/null 2>"$TMP/revoked.log" &&
    grep -q 'alert certificate revoked' "$TMP/revoked.log"
}
for i in $(seq 30); do
  if revoked; then break; fi
  [ "$i" -lt 30 ] || die "client2 is revoked but not refused: $(cat "$TMP/revoked.log")"
  sleep 0.5 # stay below the client's rate limit
done

[ -z "${DOCKER_TEST_KEEP:-}" ] || read -r -p "up at $LB_ADDRESS, certificates in $CERTS; Enter ends it "

say "authorization works"
{
  grep -E '^client[12].lb.com ' "$TMP/mtls.log" | sort | uniq -c | awk '{ printf "%-34s %-9s %s times\n", $2, $3, $1 }'
  awk '/ refused / { i = index($0, "   refused"); printf "%-34s refused\n", substr($0, 1, i - 1) }' "$TMP/mtls.log"
  printf '%-34s refused  %s\n' 'client1.lb.com of another CA' "$(sed 's/.*TLS: //' "$TMP/alt.log")"
  printf '%-34s refused  %s\n' 'client2.lb.com once revoked' 'alert certificate revoked'
} | sed 's/^/   /'

# --- stop -----------------------------------------------------------------

quietly docker stop -t 20 "$LB"
code=$(docker inspect -f '{{.State.ExitCode}}' "$LB")
[ "$code" = 0 ] || die "docker stop: exit code $code instead of 0"
say "docker stop: exit code 0"
quietly "${COMPOSE[@]}" down --volumes --timeout 5

# --- discovery ------------------------------------------------------------

COMPOSE+=(-f deploy/compose/discovery/docker-compose.yml)

# Scales the service `web` and waits until the balancer has that many servers, all of them up.
scale() { # COUNT
  local i up all
  quietly "${COMPOSE[@]}" up -d --no-build --no-recreate --scale "web=$1"
  for i in $(seq 120); do
    if "${COMPOSE[@]}" exec -T lb /leastconn-lb ctl servers --json >"$TMP/servers.json" 2>"$TMP/ctl.log"; then
      all=$(grep -o '"server": *"' "$TMP/servers.json" | wc -l)
      up=$(grep -o '"health": *"up"' "$TMP/servers.json" | wc -l)
      if [ "$all" = "$1" ] && [ "$up" = "$1" ]; then break; fi
    fi
    [ "$i" -lt 120 ] || die "not $1 servers after a minute: $(cat "$TMP/ctl.log" "$TMP/servers.json")"
    sleep 0.5
  done
  say "$1 containers: $1 servers"
}

for count in 2 5 1; do
  scale "$count"
  curl -fsS -m 5 --noproxy '*' --cacert "$CERTS/ca/ca.crt" --connect-to "lb.com:443:$LB_ADDRESS" \
    --cert "$CERTS/client1/client1.crt" --key "$CERTS/client1/client1.key.pem" https://lb.com/ >/dev/null ||
    die "client1 is not served by $count servers"
done
say "passed"
