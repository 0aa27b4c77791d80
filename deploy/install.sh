#!/usr/bin/env bash
# `make install`: installs the files of the Debian package below PREFIX. Does not
# replace an existing configuration in /etc, and starts nothing.
#
#   PREFIX   /usr/local
#   DESTDIR  staging directory, for packagers
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

umask 022

PREFIX=${PREFIX:-/usr/local} DESTDIR=${DESTDIR:-}
program=${CARGO_TARGET_DIR:-target}/release/leastconn-lb
if [ ! -x "$program" ]; then
  echo "install: $program does not exist; run make build first" >&2
  exit 1
fi
if [ "$PREFIX" = /usr ]; then lib=/usr/lib; else lib=/etc; fi
share=$DESTDIR$PREFIX/share

install -D -m 0755 "$program" "$DESTDIR$PREFIX/bin/leastconn-lb"
install -d "$share/man/man1" "$share/man/man5"
"$program" man --dir "$share/man/man1"
mv "$share/man/man1/leastconn.toml.5" "$share/man/man5"
while read -r shell path; do
  install -d "$(dirname "$share/$path")"
  "$program" completions "$shell" >"$share/$path"
done <<'SHELLS'
bash bash-completion/completions/leastconn-lb
zsh zsh/site-functions/_leastconn-lb
fish fish/vendor_completions.d/leastconn-lb.fish
SHELLS

for unit in deploy/systemd/leastconn.* deploy/systemd/leastconn-crl.*; do
  install -d "$DESTDIR$lib/systemd/system"
  sed "s#/usr/bin/leastconn-lb#$PREFIX/bin/leastconn-lb#" "$unit" >"$DESTDIR$lib/systemd/system/${unit##*/}"
done
for kind in sysusers tmpfiles; do
  install -D -m 0644 deploy/systemd/$kind.d/leastconn.conf "$DESTDIR$lib/$kind.d/leastconn.conf"
done
install -D -m 0644 deploy/debian/leastconn.logrotate "$DESTDIR/etc/logrotate.d/leastconn-lb"
if [ ! -e "$DESTDIR/etc/leastconn/leastconn.toml" ]; then
  install -D -m 0644 deploy/debian/leastconn.toml "$DESTDIR/etc/leastconn/leastconn.toml"
fi

if [ -z "$DESTDIR" ] && [ -d /run/systemd/system ]; then
  systemd-sysusers leastconn.conf
  systemd-tmpfiles --create leastconn.conf
  systemctl daemon-reload
fi
echo "installed below $DESTDIR$PREFIX; next, follow the steps at the head of $DESTDIR/etc/leastconn/leastconn.toml"
