#!/usr/bin/env bash
# Tests the package inside the temporary Debian that test.sh creates. Do not run this script
# elsewhere: it installs packages, writes to /etc, and purges packages. MODE is systemd or
# chroot. LANDLOCK is the Landlock version of the kernel, or below 1 if it has none.
set -euo pipefail

cd /test
DEB=/test/leastconn-lb.deb
PKI=~/pki
LOG=/var/log/leastconn/access.log
CONF=/etc/leastconn/leastconn.toml
SOCKET=/run/leastconn/leastconn.sock
PID=''

die() {
  printf 'not ok - %s\n' "$*" >&2
  exit 1
}
ok() { printf '   ok - %s\n' "$*"; }
# is WHAT EXPECTED FOUND
is() { [ "$2" = "$3" ] || die "$1: expected '$2', found '$3'"; }
# until_true WHAT COMMAND…: waits at most ten seconds.
until_true() {
  local what=$1
  shift
  for _ in $(seq 100); do
    if "$@" >/dev/null 2>&1; then return 0; fi
    sleep 0.1
  done
  die "$what: timed out after ten seconds"
}
with_systemd() { [ "$MODE" = systemd ]; }

# All paths that the package could leave behind. Paths that Debian itself writes are left out.
files() {
  find /etc /usr /var /opt /srv -xdev \( -path /var/lib/dpkg -o -path /var/cache -o -path /var/log/journal -o -path /var/tmp \
    -o -path /var/lib/systemd/catalog -o -path /var/lib/systemd/timers -o -path /var/lib/systemd/random-seed -o -path /var/log/apt -o -path /var/lib/logrotate \) -prune -o -print |
    grep -vE '^/etc/(passwd|group|shadow|gshadow|subuid|subgid|\.pwd\.lock|\.updated)-?$|^/var/log/(wtmp|btmp|dpkg.log|alternatives.log)$' | sort
}

# --- the service, with and without systemd ----------------------------------------

start() {
  if with_systemd; then
    systemctl start leastconn || die "systemctl start: $(journalctl -q --no-pager -n 5 -u leastconn)"
  else
    install -d -m 0755 -o leastconn -g leastconn /run/leastconn
    # `exec`, so that PID is the process ID of the program.
    (umask 027 && exec setpriv --reuid leastconn --regid leastconn --clear-groups --ambient-caps +net_bind_service --inh-caps +net_bind_service \
      leastconn-lb run --config $CONF 2>/test/messages) &
    PID=$!
  fi
  until_true 'ready' leastconn-lb healthcheck --config $CONF
}
main_pid() { if with_systemd; then systemctl show -P MainPID leastconn; else echo $PID; fi; }
reload() { if with_systemd; then systemctl reload leastconn; else kill -HUP $PID; fi; }
stop() {
  if with_systemd; then
    systemctl stop leastconn
    is 'the service when stopped' success "$(systemctl show -P Result leastconn)"
  else
    kill -TERM $PID
    wait $PID || die "ended with $?"
  fi
}

# ask NAME [PORT]: prints the answer that a client gets, or nothing.
ask() {
  curl -sS -m 5 --noproxy '*' --cacert $PKI/ca.crt --cert "$PKI/$1.crt" --key "$PKI/$1.key" \
    --resolve "lb.example.com:${2:-9443}:127.0.0.1" "https://lb.example.com:${2:-9443}/" 2>/dev/null
}
served() { ask "$@" | grep -qxE 'web[12]'; }
refused() { ! served "$@"; }
counter() { curl -sS -m 5 http://127.0.0.1:9901/metrics | grep -F "$1" | awk '{ print $2 }'; }
counts() { [ "$(counter "$1")" = "$2" ]; }
# Prints the first value with a given name in `ctl status --json`.
status() { leastconn-lb ctl status --json | sed -n "s/^ *\"$1\": \"\{0,1\}\([^\",]*\).*/\1/p" | head -n 1; }
# The expected sandbox state, which depends on the kernel.
sandbox() { leastconn-lb ctl status --json | sed -n '/"sandbox": {/,/}/s/^ *"state": "\(.*\)".*/\1/p'; }
if [ "$LANDLOCK" -ge 6 ]; then CONFINED=on; elif [ "$LANDLOCK" -ge 1 ]; then CONFINED=partial; else CONFINED=unavailable; fi
# Prints the server certificate that clients get.
shown() {
  openssl s_client -connect 127.0.0.1:9443 -servername lb.example.com -cert $PKI/client1.example.com.crt \
    -key $PKI/client1.example.com.key </dev/null 2>/dev/null | openssl x509 -noout -fingerprint -sha256
}
# only NAME: checks that this server answers several requests in a row.
only() { for _ in 1 2 3 4; do [ "$(ask client1.example.com)" = "$1" ] || return 1; done; }

files >before
is 'user before the installation' '' "$(getent passwd leastconn)"

# --- installed -----------------------------------------------------------------

dpkg -i $DEB >dpkg.log 2>&1 || die "dpkg -i: $(cat dpkg.log)"
is 'status' 'install ok installed' "$(dpkg-query -W -f '${Status}' leastconn-lb)"
is 'output of dpkg --verify' '' "$(dpkg --verify leastconn-lb)"
is 'output of dpkg --audit' '' "$(dpkg --audit)"
IFS=: read -r _ _ uid _ _ home shell < <(getent passwd leastconn)
is 'home' /nonexistent "$home"
is 'shell' /usr/sbin/nologin "$shell"
[ "$uid" -lt 1000 ] || die "uid $uid is not in the range of system users"
is 'groups' leastconn "$(id -Gn leastconn)"
is 'the log directory' '2750 leastconn adm' "$(stat -c '%a %U %G' /var/log/leastconn)"
is 'the key directory' '750 root leastconn' "$(stat -c '%a %U %G' /etc/leastconn/tls)"
is 'the configuration' '644 root root' "$(stat -c '%a %U %G' $CONF)"
is 'conffiles' 2 "$(dpkg-query -W -f '${Conffiles}' leastconn-lb | grep -c /etc/)"
ok "installed: user $uid, directories, configuration"

if with_systemd; then
  is 'enabled' disabled "$(systemctl is-enabled leastconn || true)"
  is 'active' inactive "$(systemctl is-active leastconn || true)"
  ok 'neither enabled nor started'
fi

man -l --warnings /usr/share/man/man1/leastconn-lb.1.gz >man.txt 2>man.err
is 'warnings of man' '' "$(cat man.err)"
grep -q 'load balancer' man.txt || die 'the manual page is empty'
man -l --warnings /usr/share/man/man5/leastconn.toml.5.gz >config.txt 2>config.err
is 'warnings of man' '' "$(cat config.err)"
grep -q 'idle_timeout' config.txt || die 'leastconn.toml(5) is empty'
for command in run check explain pki-issue healthcheck; do man -w "leastconn-lb-$command" >/dev/null; done
bash -n /usr/share/bash-completion/completions/leastconn-lb
# Complete `leastconn-lb hea` as an interactive shell does when the user presses Tab.
words=$(bash -c '. /usr/share/bash-completion/completions/leastconn-lb
  COMP_WORDS=(leastconn-lb hea) COMP_CWORD=1; function=$(complete -p leastconn-lb | sed "s/.*-F \([^ ]*\).*/\1/")
  "$function" leastconn-lb hea leastconn-lb; echo "${COMPREPLY[*]}"')
is 'completion in bash' healthcheck "$words"
zsh -n /usr/share/zsh/vendor-completions/_leastconn-lb
fish --no-execute /usr/share/fish/vendor_completions.d/leastconn-lb.fish
is 'completion in fish' healthcheck "$(HOME=/tmp fish -c 'complete -C "leastconn-lb hea"' | cut -f 1)"
ok 'manual pages and completions'

# --- not configured yet --------------------------------------------------------

if leastconn-lb check >check.out 2>&1; then die 'check reports no error without certificates'; fi
grep -q 'tls/server.crt' check.out || die "check does not name the certificate: $(cat check.out)"
grep -q "$CONF:" check.out || die 'check does not name the configuration file'
if with_systemd; then
  systemctl start leastconn 2>/dev/null || true
  until_true 'a start without certificates fails' systemctl is-failed leastconn
  is 'restarts' 0 "$(systemctl show -P NRestarts leastconn)"
  is 'the exit code' 2 "$(systemctl show -P ExecMainStatus leastconn)"
  until_true 'the journal has the reason' sh -c 'journalctl -q --no-pager -u leastconn | grep -q tls/server.crt'
  systemctl reset-failed leastconn
  ok 'a start without certificates fails once, and the journal has the reason'
fi
ok 'without certificates, check names the missing files and the configuration file'

# --- steps at the head of the configuration ---------------------------------------

sed -n 's/^#        //p' $CONF >steps.sh
grep -q 'pki init' steps.sh || die "the configuration's head has no commands"
(umask 077 && bash -eu steps.sh >steps.log 2>&1) || die "the commands at the head of the configuration fail: $(cat steps.log)"
leastconn-lb pki issue $PKI --cn client2.example.com --client >/dev/null
leastconn-lb check >check.out 2>&1 || die "check: $(cat check.out)"
for web in 1 2; do
  mkdir -p web$web && echo web$web >web$web/index.html
  busybox httpd -p 127.0.0.1:808$web -h /test/web$web
done
if with_systemd; then systemctl enable leastconn 2>/dev/null; fi
start
pid=$(main_pid)
is 'user of the process' leastconn "$(ps -o user= -p "$pid")"
is 'capabilities of the process' 0000000000000400 "$(awk '/^CapEff/ { print $2 }' "/proc/$pid/status")"
if with_systemd; then
  is 'new privileges' 1 "$(awk '/^NoNewPrivs/ { print $2 }' "/proc/$pid/status")"
  is 'system calls filtered' 2 "$(awk '/^Seccomp:/ { print $2 }' "/proc/$pid/status")"
  # LimitNOFILE of the unit, or the maximum of this machine if that is lower.
  most=$(awk '/^Max open files/ { print ($5 < 1048576 ? $5 : 1048576) }' /proc/1/limits)
  is 'limit of open files' "$most" "$(awk '/^Max open files/ { print $4 }' "/proc/$pid/limits")"
  is '/run/leastconn' '755 leastconn leastconn' "$(stat -c '%a %U %G' /run/leastconn)"
  systemctl show -P SystemCallFilter leastconn | grep -qw landlock_create_ruleset || die 'landlock is filtered'
fi
is 'the sandbox' $CONFINED "$(sandbox)"
if [ $CONFINED = on ]; then is 'core files' 0 "$(awk '/^Max core file size/ { print $5 }' "/proc/$pid/limits")"; fi
ok "running: as leastconn, with one capability; the sandbox is $CONFINED"
until_true "client1 is served" served client1.example.com
answer=$(printf 'GET / HTTP/1.0\r\n\r\n' | timeout 5 openssl s_client -quiet -connect 127.0.0.1:9443 -servername lb.example.com \
  -CAfile $PKI/ca.crt -verify_return_error -verify_hostname lb.example.com -cert $PKI/client1.example.com.crt -key $PKI/client1.example.com.key 2>/dev/null | tail -n 1) || true
case $answer in web1 | web2) ;; *) die "openssl got '$answer'" ;; esac
refused client2.example.com || die 'client2 has no rule but is served'
until_true 'the refusal is logged' grep -q '"outcome":"unknown_client"' $LOG
is 'the log' '640 leastconn adm' "$(stat -c '%a %U %G' $LOG)"
ok 'client1 is served (curl, openssl), client2 is not; the log has both'

useradd --no-create-home --groups adm reader
setpriv --reuid reader --regid reader --init-groups cat $LOG >/dev/null || die 'a member of adm cannot read the log'
if setpriv --reuid reader --regid reader --init-groups cat /etc/leastconn/tls/server.key >/dev/null 2>&1; then die 'a member of adm can read the key'; fi
userdel reader
ok 'the group adm reads the log and not the key'

# --- ctl -------------------------------------------------------------------

is 'the admin socket' '600 leastconn leastconn socket' "$(stat -c '%a %U %G %F' $SOCKET)"
is 'PID at the admin socket' "$pid" "$(status pid)"
leastconn-lb ctl status >status.out || die "ctl status: $(cat status.out)"
grep -q '^web ' status.out || die "ctl status does not show the upstream: $(cat status.out)"
if setpriv --reuid nobody --regid nogroup --clear-groups leastconn-lb ctl status >status.out 2>&1; then die 'every user can use the socket'; fi
grep -q 'no access' status.out || die "ctl does not explain the missing permission: $(cat status.out)"
setpriv --reuid leastconn --regid leastconn --clear-groups leastconn-lb ctl status >/dev/null || die "the service user cannot use the socket"
leastconn-lb ctl drain web/web1 >/dev/null || die 'ctl drain'
only web2 || die 'web1 is drained but gets connections'
leastconn-lb ctl status | grep -q 'web/web1 drain' || die 'ctl status does not show the override'
leastconn-lb ctl ready web/web1 >/dev/null || die 'ctl ready'
until_true 'web1 is used again' sh -c "! leastconn-lb ctl status | grep -q '^overrides'"
gets() { [ "$(ask client1.example.com)" = "$1" ]; }
until_true 'web1 is used again' gets web1
ok 'ctl as root: status, drain, ready; other users have no access'

# --- reload -----------------------------------------------------

cat >>$CONF <<'TOML'

[[client]]
name = "client2"
match = { cn = "client2.example.com" }
allow = ["web/web2"]

[[listener]]
name = "low"
bind = "127.0.0.1:443"
upstream = "web"
tls = { cert = "tls/server.crt", key = "tls/server.key", client_ca = "tls/ca.crt", crl = "tls/ca.crl" }
TOML
reload
until_true 'the reload is applied' counts 'leastconn_config_reloads_total{outcome="applied"}' 1
is 'client2, on a port below 1024' web2 "$(ask client2.example.com 443)"
cp $CONF edited.toml
echo 'not = "a key"' >>$CONF
reload
until_true 'the invalid configuration is rejected' counts 'leastconn_config_reloads_total{outcome="rejected"}' 1
if leastconn-lb ctl reload >reload.out 2>&1; then die 'ctl reload accepts an invalid configuration'; fi
grep -q "$CONF" reload.out || die "ctl reload does not print the error: $(cat reload.out)"
served client1.example.com || die 'client1 is not served after a rejected reload'
cp edited.toml $CONF
is 'ctl reload' applied "$(leastconn-lb ctl reload)"
ok 'reloaded: a new rule and port 443; an invalid configuration is rejected'

inode=$(stat -c %i $LOG)
logrotate --force /etc/logrotate.d/leastconn-lb 2>rotate.err || die "logrotate: $(cat rotate.err)"
is 'output of logrotate' '' "$(cat rotate.err)"
is 'the rotated log' "$inode" "$(stat -c %i $LOG.1)"
is 'the new log' '640 leastconn adm' "$(stat -c '%a %U %G' $LOG)"
if ! with_systemd; then kill -USR1 $PID; fi
a_new_line() { served client1.example.com && grep -q '"client":"client1"' $LOG; }
until_true 'the new log is written' a_new_line
lines=$(wc -l <$LOG.1)
served client1.example.com
until_true 'another line in the new log' sh -c "[ \"\$(wc -l <$LOG)\" -ge 2 ]"
is 'lines of the rotated log' "$lines" "$(wc -l <$LOG.1)"
ok 'rotated: lines go to the new file only'

before=$(shown)
leastconn-lb pki issue $PKI --cn lb.example.com --dns lb.example.com --server --out server --force >/dev/null
install -m 0640 -g leastconn $PKI/server.key /etc/leastconn/tls/server.key.new && mv /etc/leastconn/tls/server.key.new /etc/leastconn/tls/server.key
install -m 0644 $PKI/server.crt /etc/leastconn/tls/server.crt.new && mv /etc/leastconn/tls/server.crt.new /etc/leastconn/tls/server.crt
renewed=$(openssl x509 -in $PKI/server.crt -noout -fingerprint -sha256)
[ "$before" != "$renewed" ] || die 'the certificate was not renewed'
shows() { [ "$(shown)" = "$1" ]; }
until_true 'the renewed certificate is shown' shows "$renewed"
ok 'renewed: the new certificate and key are loaded without a reload'

leastconn-lb pki revoke $PKI $PKI/client2.example.com.crt >/dev/null
install -m 0644 $PKI/ca.crl /etc/leastconn/tls/ca.crl.new && mv /etc/leastconn/tls/ca.crl.new /etc/leastconn/tls/ca.crl
until_true 'client2 is refused once revoked' refused client2.example.com
until_true 'the log has the reason' grep -q '"outcome":"revoked_certificate"' $LOG
served client1.example.com || die 'client1 is not served after another was revoked'
ok 'revoked: the new CRL is loaded without a reload'

# --- a UNIX listener --------------------------------------------------------------

UNIX_SOCKET=/run/leastconn/web.sock
cp $CONF without-unix.toml
cat >>$CONF <<'END'

[[listener]]
name = "unix"
bind = "unix:/run/leastconn/web.sock"
bind_mode = "0666"
upstream = "web"

[[client]]
name = "local"
match = { source = "127.0.0.1" }
allow = ["web"]
END
reload
until_true 'the UNIX socket is there' test -S $UNIX_SOCKET
is 'the UNIX socket' '666 leastconn leastconn' "$(stat -c '%a %U %G' $UNIX_SOCKET)"
setpriv --reuid nobody --regid nogroup --clear-groups curl -sS -m 5 --unix-socket $UNIX_SOCKET http://localhost/ | grep -qxE 'web[12]' ||
  die 'another user is not served over the UNIX socket'
cp without-unix.toml $CONF
reload
until_true 'the UNIX socket is removed' test ! -e $UNIX_SOCKET
ok 'UNIX listener in the runtime directory: added and removed by reload'

# --- upgrade ------------------------------------------------------------------

keep_asking() {
  while [ ! -e enough ]; do
    if served client1.example.com; then echo served; else echo refused; fi >>asked
    sleep 0.1 # stay below the client's rate limit
  done
}
old=$(main_pid)
if with_systemd; then
  # The process notifies systemd, so the upgrade passes its sockets to the new program.
  grep -qsz '^NOTIFY_SOCKET=' "/proc/$old/environ" || die 'the process does not notify systemd'
  is 'failures before the upgrade' 0 "$(systemctl show -P NRestarts leastconn)"
  leastconn-lb ctl drain web/web1 >/dev/null || die 'ctl drain before the upgrade'
  keep_asking &
  asking=$!
fi
dpkg -i $DEB >dpkg.log 2>&1 || die "dpkg -i again: $(cat dpkg.log)"
cmp -s $CONF edited.toml || die 'the edited configuration was replaced'
if with_systemd; then
  is 'enabled after an upgrade' enabled "$(systemctl is-enabled leastconn)"
  another() { local now; now=$(main_pid) && [ "$now" != 0 ] && [ "$now" != "$old" ]; }
  until_true 'the new program takes over' another
  until_true 'the old program is gone' test ! -e "/proc/$old"
  touch enough && wait "$asking"
  is 'refused during the upgrade' 0 "$(grep -c refused asked || true)"
  [ "$(wc -l <asked)" -ge 3 ] || die 'no request during the upgrade'
  is 'the service after the upgrade' active "$(systemctl is-active leastconn)"
  is 'restarts' 0 "$(systemctl show -P NRestarts leastconn)"
  only web2 || die 'the upgrade lost the override'
  leastconn-lb ctl ready web/web1 >/dev/null || die 'ctl ready after the upgrade'
  # The new program is in its predecessor's sandbox and in its own.
  is 'the sandbox of the new program' $CONFINED "$(sandbox)"
  ok "handed over: none of $(wc -l <asked) requests during the upgrade was refused"
else
  stop && start
fi
until_true 'served after an upgrade' served client1.example.com
is 'the process at the admin socket' "$(main_pid)" "$(status pid)"
is 'the admin socket after an upgrade' '600 leastconn leastconn' "$(stat -c '%a %U %G' $SOCKET)"
ok 'upgraded: the edited configuration is kept, the service and ctl work'

# --- watchdog ---------------------------------------------------------------

if with_systemd; then
  mkdir -p /etc/systemd/system/leastconn.service.d
  printf '[Service]\nWatchdogSec=2s\n' >/etc/systemd/system/leastconn.service.d/watchdog.conf
  systemctl daemon-reload && systemctl restart leastconn
  pid=$(main_pid)
  # Check for three times the watchdog interval that a working process is not restarted.
  end=$((SECONDS + 6))
  while [ $SECONDS -lt $end ]; do served client1.example.com || die 'client1 is not served' && sleep 0.2; done
  is 'PID after three watchdog intervals' "$pid" "$(main_pid)"
  is 'restarts' 0 "$(systemctl show -P NRestarts leastconn)"
  # The watchdog kills a hanging process, which leaves its socket file behind. The next process
  # replaces the file.
  kill -STOP "$pid"
  restarted() { [ "$(systemctl show -P NRestarts leastconn)" = 1 ] && leastconn-lb healthcheck --config $CONF; }
  until_true 'the hanging process is restarted' restarted
  is 'the process at the admin socket' "$(main_pid)" "$(status pid)"
  is 'the sandbox' $CONFINED "$(sandbox)"
  rm -r /etc/systemd/system/leastconn.service.d
  systemctl daemon-reload && systemctl reset-failed leastconn
  ok 'watchdog: restarted when it hangs, with a new socket'
fi

# --- a key that only root can read ------------------------------------------------

if with_systemd; then
  chmod 0600 /etc/leastconn/tls/server.key && chgrp root /etc/leastconn/tls/server.key
  mkdir -p /etc/systemd/system/leastconn.service.d
  printf '[Service]\nLoadCredential=server.key:/etc/leastconn/tls/server.key\n' >/etc/systemd/system/leastconn.service.d/key.conf
  # shellcheck disable=SC2016 # the configuration expands it
  sed -i 's#"tls/server.key"#"${CREDENTIALS_DIRECTORY}/server.key"#' $CONF
  systemctl daemon-reload
  systemctl restart leastconn
  until_true 'served with a credential' served client1.example.com
  is 'the sandbox with a credential' $CONFINED "$(sandbox)"
  rm -r /etc/systemd/system/leastconn.service.d
  cp edited.toml $CONF && chgrp leastconn /etc/leastconn/tls/server.key && chmod 0640 /etc/leastconn/tls/server.key
  systemctl daemon-reload
  ok 'LoadCredential: a key that only root can read'
fi

stop
if with_systemd; then [ ! -e /run/leastconn ] || die '/run/leastconn exists after a stop'; fi
ok 'stopped: drained, exit code 0'

# --- removed, purged -----------------------------------------------------------

if with_systemd; then systemctl start leastconn; fi
dpkg -r leastconn-lb >dpkg.log 2>&1 || die "dpkg -r: $(cat dpkg.log)"
if with_systemd; then is 'running after the removal' '' "$(pgrep -u leastconn || true)"; fi
cmp -s $CONF edited.toml || die 'removing the package deleted the configuration'
[ -s $LOG ] || die 'removing the package deleted the log'
[ ! -e /usr/bin/leastconn-lb ] || die 'the program still exists'
ok 'removed: stopped; configuration and log are kept'

dpkg -P leastconn-lb >dpkg.log 2>&1 || die "dpkg -P: $(cat dpkg.log)"
files >after
left=$(comm -13 before after)
is 'remaining files, all of the administrator' "$(printf '%s\n' /etc/leastconn /etc/leastconn/tls /etc/leastconn/tls/{ca.crl,ca.crt,server.crt,server.key})" "$left"
is 'removed files that the package did not install' '' "$(comm -23 before after)"
getent passwd leastconn >/dev/null || die 'the user was removed, so its number could be reused'
cp -r /etc/leastconn/tls saved && rm -r /etc/leastconn
{ dpkg -i $DEB && dpkg -P leastconn-lb; } >dpkg.log 2>&1 || die "installed and purged again: $(cat dpkg.log)"
files >after
is 'remaining files of a package that was not configured' '' "$(comm -13 before after)"
ok 'purged: only keys and certificates of the administrator, and the user, remain'

# --- make install -------------------------------------------------------------------

cp -a installed/. /
hash -r # forget the old path of the program
if with_systemd; then
  systemd-sysusers leastconn.conf && systemd-tmpfiles --create leastconn.conf && systemctl daemon-reload
else
  install -d -m 2750 -o leastconn -g adm /var/log/leastconn && install -d -m 0750 -g leastconn /etc/leastconn/tls
fi
cp saved/* /etc/leastconn/tls/ && chgrp leastconn /etc/leastconn/tls/server.key && chmod 0640 /etc/leastconn/tls/server.key
start
is 'the program' /usr/local/bin/leastconn-lb "$(readlink "/proc/$(main_pid)/exe")"
until_true 'served by what make install installs' served client1.example.com
stop
ok 'make install: the service runs from /usr/local'
