//! The `global` section.

use std::path::Path;

use super::{
    super::{
        model::{Imported, Value},
        units,
    },
    lexer::Line,
    sections::Proxy,
    tls::Bases,
};

/// Settings that apply to all sections.
#[derive(Debug, Default)]
pub(crate) struct Global {
    pub(crate) bases: Bases,
    /// Options for all `bind` lines with TLS.
    bind: Vec<String>,
    /// Options for all `server` lines.
    server: Vec<String>,
}

/// Why a log server is not translated.
pub(crate) const NETWORK_LOG: &str = "logs are not sent over the network. The access log goes to \
    standard output or to the file in `[log] access`: forward it with the syslog daemon or a log \
    collector of this host";

/// Whether a `log` line names a log server: neither a local socket, a file descriptor, a ring nor
/// `global`.
pub(crate) fn is_network_log(line: &Line) -> bool {
    let target = line.word(1);
    let local = ["/", "unix@", "abns@", "fd@", "ring@", "backend@"];
    let is_local = local.iter().any(|prefix| target.starts_with(prefix));
    !is_local && !matches!(target, "" | "global" | "stdout" | "stderr" | "null")
}

pub(crate) fn read(lines: &[Line], imported: &mut Imported, dir: Option<&Path>) -> Global {
    let mut global = Global::default();
    global.bases.dir = dir.map(Path::to_owned);
    for line in lines {
        let (place, value) = (&line.place, line.word(1));
        let rest = line.words.get(1..).unwrap_or(&[]);
        let process = &mut imported.process;
        match line.word(0) {
            "maxconn" => match value.parse() {
                Ok(limit) => process.set("max_connections", Value::Integer(limit)),
                Err(_) => process.note(place.left_out("is not a number")),
            },
            "nbthread" => match value.parse() {
                Ok(threads) => process.set("workers", Value::Integer(threads)),
                Err(_) => process.note(place.left_out("is not a number")),
            },
            "hard-stop-after" => match units::milliseconds(value, 1) {
                Some(ms) => process.set("drain_timeout", units::duration(ms)),
                None => process.note(place.left_out("is not a duration")),
            },
            "crt-base" => global.bases.crt = Some(value.to_owned()),
            "ca-base" => global.bases.ca = Some(value.to_owned()),
            "ssl-default-bind-ciphers" => {
                global.bind.extend(["ciphers".to_owned(), value.to_owned()])
            }
            "ssl-default-bind-ciphersuites" => {
                global
                    .bind
                    .extend(["ciphersuites".to_owned(), value.to_owned()]);
            }
            "ssl-default-bind-curves" => {
                global.bind.extend(["curves".to_owned(), value.to_owned()])
            }
            "ssl-default-bind-options" => global.bind.extend_from_slice(rest),
            "ssl-default-server-ciphers" => {
                global
                    .server
                    .extend(["ciphers".to_owned(), value.to_owned()]);
            }
            "ssl-default-server-ciphersuites" => {
                global
                    .server
                    .extend(["ciphersuites".to_owned(), value.to_owned()]);
            }
            "ssl-default-server-options" => global.server.extend_from_slice(rest),
            "ssl-server-verify" => global
                .server
                .extend(["verify".to_owned(), value.to_owned()]),
            "stats" if value == "socket" => imported.admin.note(
                place.remark("for `ctl`, add `[admin]` with `socket`: see docs/how-to/operate.md"),
            ),
            "log" if is_network_log(line) => imported.log.note(place.left_out(NETWORK_LOG)),
            "log" | "log-send-hostname" | "log-tag" => {
                imported.log.note(place.remark(
                    "the access log goes to standard output; `[log] access` names another file",
                ));
            }
            "setenv" | "presetenv" | "unsetenv" | "resetenv" => {
                process.note(place.remark("applied to the lines after it"));
            }
            "daemon"
            | "user"
            | "group"
            | "uid"
            | "gid"
            | "chroot"
            | "pidfile"
            | "nbproc"
            | "stats"
            | "node"
            | "description"
            | "ulimit-n"
            | "quiet"
            | "master-worker"
            | "zero-warning"
            | "localpeer"
            | "unix-bind"
            | "strict-limits"
            | "set-dumpable"
            | "cpu-map"
            | "numa-cpu-mapping"
            | "expose-experimental-directives"
            | "insecure-fork-wanted"
            | "ssl-dh-param-file"
            | "ssl-load-extra-files"
            | "busy-polling"
            | "noepoll"
            | "nosplice"
            | "spread-checks"
            | "h1-case-adjust"
            | "max-spread-checks"
            | "external-check"
            | "maxpipes"
            | "grace"
            | "server-state-base"
            | "server-state-file"
            | "debug"
            | "default-path"
            | "thread-groups"
            | "ssl-mode-async"
            | "no"
            | "ssl-skip-self-issued-ca"
            | "issuers-chain-path"
            | "log-steps"
            | "cluster-secret"
            | "set-var"
            | "set-var-fmt"
            | "stats-file"
            | "profiling.tasks"
            | "limited-quic"
            | "no-quic"
            | "warn-blocked-traffic-after"
            | "harden.reject-privileged-ports.tcp" => {
                process.note(
                    place.remark("not needed; the service is described in docs/how-to/install.md"),
                );
            }
            word if word.starts_with("tune.") => process.note(place.remark("not needed")),
            _ => process.note(place.left_out("has no equivalent")),
        }
    }
    global
}

impl Global {
    /// Prepends the defaults from `global` to the lines of a section.
    pub(crate) fn prepend_defaults(&self, proxy: &mut Proxy) {
        for line in &mut proxy.lines {
            let is_tls = line.words.iter().any(|word| word == "ssl");
            let (defaults, at) = match line.word(0) {
                "bind" if is_tls => (&self.bind, 2),
                "server" if is_tls => (&self.server, 3),
                "server-template" if is_tls => (&self.server, 4),
                "default-server" => (&self.server, 1),
                _ => continue,
            };
            let at = at.min(line.words.len());
            line.words.splice(at..at, defaults.iter().cloned());
        }
    }
}
