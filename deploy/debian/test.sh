#!/usr/bin/env bash
# Tests the Debian package in a temporary Debian whose only network is its loopback: install,
# configure, start with systemd, serve clients, reload, rotate, upgrade, remove and purge. Also
# tests `make install`. The checks are in deploy/debian/inside.sh.
#
#   deploy/debian/test.sh             builds the package first (as root)
#
#   DEB_TEST_PACKAGE=FILE    a package to use instead of building one
#   DEB_TEST_SUITE=trixie    a Debian release other than that of this machine
#   DEB_TEST_MODE=chroot     without systemd, where systemd-nspawn cannot boot
#
# mmdebstrap creates the temporary Debian once, from the machine's mirror, as
# target/deb-test/SUITE.tar. Everything runs in its own namespaces and ends with this script.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

say() { printf '== %s\n' "$*"; }
die() {
  printf 'deb-test: %s\n' "$*" >&2
  exit 1
}
[ "$(id -u)" = 0 ] || die 'needs root, to create namespaces'

if [ -z "${DEB_TEST_INSIDE_NAMESPACES:-}" ]; then
  scripts/setup.sh --build --deb-test
  if [ -z "${DEB_TEST_PACKAGE:-}" ]; then deploy/debian/build.sh; fi
  # Create a new PID namespace, so that all processes end with this script, and a new mount
  # namespace.
  export DEB_TEST_INSIDE_NAMESPACES=1
  exec unshare --mount --propagation private --pid --fork --kill-child --mount-proc -- "$0" "$@"
fi

# shellcheck disable=SC1091 # a file of Debian
SUITE=${DEB_TEST_SUITE:-$(. /etc/os-release && [ "${ID:-}" = debian ] && echo "${VERSION_CODENAME:-}" || echo bookworm)}
PACKAGE=${DEB_TEST_PACKAGE:-$(echo target/debian/leastconn-lb_*.deb)}
[ -e "$PACKAGE" ] || die "$PACKAGE does not exist"
MODE=${DEB_TEST_MODE:-systemd}
# Landlock version of this machine's kernel, if any (444: landlock_create_ruleset).
LANDLOCK=$(python3 -c 'import ctypes; print(ctypes.CDLL(None).syscall(444, None, 0, 1))')
TMP=$(mktemp -d "${TMPDIR:-/tmp}/lc-deb.XXXXXX")
ROOT=$TMP/root
GROUPS_MADE=()
MACHINE='' LEADER=''

finish() {
  status=$?
  set +e
  trap - EXIT INT TERM
  if [ -n "$LEADER" ] && [ $status -ne 0 ]; then
    echo '-- last messages of the service:' >&2
    in_machine journalctl --no-pager -q -n 25 -u leastconn >&2
  fi
  if [ -n "$MACHINE" ]; then
    # Asks the container's systemd to halt.
    kill -TERM "$MACHINE" 2>/dev/null
    for _ in $(seq 150); do kill -0 "$MACHINE" 2>/dev/null && sleep 0.1; done
    kill -KILL "$MACHINE" 2>/dev/null
    wait "$MACHINE" 2>/dev/null
  fi
  for group in "${GROUPS_MADE[@]}"; do
    echo $$ >"${group%/*}/cgroup.procs"
    find "$group" -depth -type d -exec rmdir {} + 2>/dev/null
  done
  rm -rf "$TMP"
  exit $status
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# --- create the Debian ------------------------------------------------------------------

base=target/deb-test/$SUITE.tar
if [ ! -e "$base" ]; then
  say "creating a Debian ($SUITE), once"
  mkdir -p target/deb-test
  mmdebstrap --quiet --variant=minbase \
    --include=systemd-sysv,adduser,busybox,curl,fish,bash-completion,logrotate,man-db,openssl,procps,zsh \
    "$SUITE" "$TMP/base.tar" >"$TMP/mmdebstrap.log" 2>&1 || { tail -n 20 "$TMP/mmdebstrap.log" >&2 && die 'mmdebstrap failed'; }
  mv "$TMP/base.tar" "$base"
fi
mkdir "$ROOT"
tar -C "$ROOT" --exclude='./dev/*' -xf "$base"
mkdir "$ROOT/test"
cp "$PACKAGE" "$ROOT/test/leastconn-lb.deb"
cp deploy/debian/inside.sh "$ROOT/test/"
DESTDIR=$ROOT/test/installed deploy/install.sh >/dev/null

# --- with systemd --------------------------------------------------------------

in_machine() {
  nsenter --target "$LEADER" --mount --uts --ipc --net --pid --root --wd -- \
    env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8 TERM=dumb MODE="$MODE" LANDLOCK="$LANDLOCK" "$@"
}

boot() {
  local options=() hierarchy
  if [ ! -d /run/systemd/system ]; then
    # Without systemd on the host, do not register the machine or create a control group.
    options=(--register=no --keep-unit)
    for hierarchy in /sys/fs/cgroup/systemd /sys/fs/cgroup/unified /sys/fs/cgroup; do
      if [ -w $hierarchy/cgroup.procs ] && mkdir "$hierarchy/lc-deb-$$" 2>/dev/null; then
        GROUPS_MADE+=("$hierarchy/lc-deb-$$")
        echo $$ >"$hierarchy/lc-deb-$$/cgroup.procs"
      fi
    done
  fi
  # Older versions of systemd-nspawn block Landlock.
  systemd-nspawn --quiet --machine "lc-deb-$$" "${options[@]}" --directory "$ROOT" --private-network \
    --system-call-filter='landlock_create_ruleset landlock_add_rule landlock_restrict_self' \
    --resolv-conf=off --timezone=off --link-journal=no --console=pipe --boot </dev/null >"$TMP/console.log" 2>&1 &
  MACHINE=$!
  for _ in $(seq 300); do
    kill -0 "$MACHINE" 2>/dev/null || break
    read -r LEADER _ <"/proc/$MACHINE/task/$MACHINE/children" || true
    if [ -n "$LEADER" ]; then
      case $(in_machine systemctl is-system-running 2>/dev/null) in
        running | degraded) return 0 ;;
      esac
    fi
    sleep 0.1
  done
  tail -n 5 "$TMP/console.log" >&2
  return 1
}

if [ "$MODE" = systemd ]; then
  boot || die 'systemd-nspawn cannot boot here; DEB_TEST_MODE=chroot tests the rest'
  say "$SUITE, with $(in_machine systemctl --version | head -n 1)"
  in_machine timeout 300 bash /test/inside.sh || die 'failed'
else
  say "$SUITE, without systemd"
  # shellcheck disable=SC2016 # the inner shell expands it
  env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8 TERM=dumb MODE="$MODE" LANDLOCK="$LANDLOCK" \
    unshare --mount --net --uts --ipc --pid --fork --kill-child -- sh -c '
      mount -t proc proc "$1/proc" && mount -t tmpfs tmpfs "$1/run" && mount -t tmpfs tmpfs "$1/dev" &&
      for device in null zero full random urandom tty; do touch "$1/dev/$device" && mount --bind "/dev/$device" "$1/dev/$device" || exit 1; done &&
      ln -s /proc/self/fd "$1/dev/fd" && busybox ip link set lo up 2>/dev/null || ip link set lo up
      exec chroot "$1" timeout 300 bash /test/inside.sh' sh "$ROOT" || die 'failed'
fi
say 'passed'
