//! Failures and their texts: which address, what failed, what to do.

use std::io;

use ::redis::{RedisError, ServerError, Value};
use leastconn::Address;

use crate::{endpoint::RedisSettings, store::StoreError};

#[derive(Debug)]
pub(super) enum Failure {
    /// The keys are on another node of the cluster. An empty host means the host of this node.
    Moved { host: String, port: String },
    /// The server does not have the script.
    NoScript,
    /// An error reply.
    Server { code: String, detail: String },
    /// The connection failed.
    Closed(String),
    /// The reply to this command is not understood.
    Unexpected(&'static str),
}

impl Failure {
    /// Takes error replies out of values.
    pub(super) fn check(value: Value) -> Result<Value, Self> {
        match value {
            Value::ServerError(error) => Err(Self::from_reply(&error)),
            value => Ok(value),
        }
    }

    fn from_reply(error: &ServerError) -> Self {
        let detail = &*visible(error.details().unwrap_or_default());
        match &*visible(error.code()) {
            "MOVED" => match moved_to(detail) {
                Some((host, port)) => Self::Moved { host, port },
                None => Self::Server {
                    code: "MOVED".to_owned(),
                    detail: detail.to_owned(),
                },
            },
            "NOSCRIPT" => Self::NoScript,
            code => Self::Server {
                code: code.to_owned(),
                detail: detail.to_owned(),
            },
        }
    }

    pub(super) fn closed(error: &RedisError) -> Self {
        Self::Closed(visible(&error.to_string()))
    }

    pub(super) fn ended() -> Self {
        Self::Closed("the server closed it".to_owned())
    }

    pub(super) fn unexpected(command: &'static str) -> Self {
        Self::Unexpected(command)
    }

    /// Completes the reply to a script that was not allowed to run a command.
    pub(super) fn name_command(self, find: impl Fn(&str) -> Option<String>) -> Self {
        match self {
            Self::Server { detail, .. } if is_script_refused(&detail) => {
                let command = find(&detail);
                Self::Server {
                    code: "NOPERM".to_owned(),
                    detail: command.map_or(detail, |command| format!("to run `{command}`")),
                }
            }
            failure => failure,
        }
    }

    pub(super) fn into_error(self, address: &Address, settings: &RedisSettings) -> StoreError {
        let user = settings.user.as_deref().unwrap_or("default");
        self.text(address, user)
    }

    /// For failures that do not depend on the user.
    pub(super) fn describe(self, address: &Address) -> StoreError {
        self.text(address, "default")
    }

    pub(super) fn describe_sentinel(self, address: &Address) -> StoreError {
        use StoreError::Refused;
        match self {
            Self::Server { code, .. } if code == "NOAUTH" => Refused(format!(
                "{address}: the sentinel requires a password: set the password of the sentinels"
            )),
            Self::Server { code, .. } if code == "WRONGPASS" => Refused(format!(
                "{address}: the sentinel refuses the user or the password of the sentinels"
            )),
            Self::Server { code, detail }
                if code == "ERR" && detail.contains("unknown command") =>
            {
                Refused(format!(
                    "{address}: not a sentinel: set the address of a server without `sentinels`"
                ))
            }
            failure => failure.describe(address),
        }
    }

    fn text(self, address: &Address, user: &str) -> StoreError {
        match self {
            Self::Moved { host, port } => StoreError::Unavailable(format!(
                "{address}: the cluster redirects to {host}:{port}, which is not valid or \
                 redirects again. Is the server configured as `cluster`?"
            )),
            Self::NoScript => StoreError::Unavailable(format!(
                "{address}: the scripts were removed while they were used"
            )),
            Self::Closed(reason) => {
                StoreError::Unavailable(format!("{address}: connection lost: {reason}"))
            }
            Self::Unexpected(command) => StoreError::Invalid(format!(
                "{address}: the reply to {command} is not understood. Is this a Valkey or Redis \
                 server, version 6.2 or later?"
            )),
            Self::Server { code, detail } => reply_text(address, user, &code, &detail),
        }
    }

    pub(super) fn connect(address: &Address, error: &io::Error) -> StoreError {
        let reason = match error.kind() {
            io::ErrorKind::ConnectionRefused => {
                "connection refused: is the server running, and does it listen on this address?"
            }
            io::ErrorKind::NotFound => "no such socket: is the server running?",
            io::ErrorKind::PermissionDenied => {
                "permission denied: the user of the balancer must be allowed to write to the \
                 socket (`unixsocketperm`)"
            }
            _ => return StoreError::Unavailable(format!("{address}: cannot connect: {error}")),
        };
        StoreError::Unavailable(format!("{address}: {reason}"))
    }

    pub(super) fn resolve(address: &Address, error: &io::Error) -> StoreError {
        StoreError::Unavailable(format!("{address}: cannot resolve the host name: {error}"))
    }

    pub(super) fn server_name(address: &Address) -> StoreError {
        StoreError::Refused(format!(
            "{address}: the host cannot be in a certificate: set the server name of TLS"
        ))
    }

    pub(super) fn tls(address: &Address, error: &io::Error) -> StoreError {
        let hint = match error.kind() {
            io::ErrorKind::InvalidData => "check `ca`, and the names in the server's certificate",
            _ => "does the server use TLS on this port?",
        };
        StoreError::Unavailable(format!("{address}: TLS handshake failed: {error}: {hint}"))
    }

    pub(super) fn replica(address: &Address) -> StoreError {
        StoreError::Unavailable(format!(
            "{address}: a read-only replica. After a failover, the primary is found again \
             through sentinels or a host name that is updated"
        ))
    }

    pub(super) fn unknown_primary(sentinel: &Address, primary: &str) -> StoreError {
        StoreError::Refused(format!(
            "{sentinel}: the sentinel does not know the primary `{primary}`: check `primary`"
        ))
    }

    pub(super) fn nowhere(reason: &str) -> StoreError {
        StoreError::Refused(reason.to_owned())
    }

    /// The address of a redirection by the node `from`.
    pub(super) fn moved(from: &Address, host: &str, port: &str) -> Option<Address> {
        match (host, from) {
            ("", Address::Ip(ip)) => Self::parse_address(&ip.ip().to_string(), port),
            ("", Address::Name { host, .. }) => Self::parse_address(host, port),
            _ => Self::parse_address(host, port),
        }
    }

    pub(super) fn parse_address(host: &str, port: &str) -> Option<Address> {
        let host = match host.contains(':') {
            true => format!("[{host}]"),
            false => host.to_owned(),
        };
        format!("{host}:{port}").parse().ok()
    }
}

fn reply_text(address: &Address, user: &str, code: &str, detail: &str) -> StoreError {
    use StoreError::{Invalid, Refused, Unavailable};
    match code {
        "NOAUTH" => Refused(format!(
            "{address}: the server requires a password: set `user` and `password`"
        )),
        "WRONGPASS" => Refused(format!(
            "{address}: the server refuses user `{user}` or its password"
        )),
        "NOPERM" => Refused(format!(
            "{address}: user `{user}` lacks a permission ({detail}): set the rule that \
             `leastconn-lb fleet-acl` prints"
        )),
        "READONLY" => Failure::replica(address),
        "LOADING" => Unavailable(format!("{address}: the server is loading its data")),
        "BUSY" => Unavailable(format!(
            "{address}: the server is busy with a script of another client"
        )),
        "MASTERDOWN" => Unavailable(format!(
            "{address}: a replica without connection to its primary"
        )),
        "OOM" => Refused(format!(
            "{address}: the server has reached `maxmemory`: raise it, and use a server of its own \
             for the fleet"
        )),
        "NOREPLICAS" => Unavailable(format!(
            "{address}: the server accepts no writes, because too few replicas are connected \
             (`min-replicas-to-write`)"
        )),
        "MISCONF" => Refused(format!(
            "{address}: the server accepts no writes, because it cannot save snapshots: see its \
             log, or switch snapshots off (`save \"\"`)"
        )),
        "CLUSTERDOWN" => Unavailable(format!("{address}: the cluster is down ({detail})")),
        "ASK" | "TRYAGAIN" => Unavailable(format!(
            "{address}: the cluster is moving the keys to another node"
        )),
        "STALE" => Unavailable(format!("{address}: a later request has been applied")),
        "DENIED" => Refused(format!(
            "{address}: the server is in protected mode: configure a password or an ACL user"
        )),
        "ERR" if detail.contains("max number of clients") => {
            Unavailable(format!("{address}: the server has reached `maxclients`"))
        }
        "ERR" if detail.contains("unknown command") => Refused(format!(
            "{address}: {detail}: Valkey or Redis 6.2 or later is needed"
        )),
        _ => Invalid(format!("{address}: unexpected reply: {code} {detail}")),
    }
}

/// Text of the server, for terminals and logs: control characters are escaped, and it has at most
/// 200 characters.
pub(super) fn visible(text: &str) -> String {
    let mut out = String::new();
    for character in text.chars().take(200) {
        if character.is_control() {
            out.extend(character.escape_unicode());
        } else {
            out.push(character);
        }
    }
    out
}

fn is_script_refused(detail: &str) -> bool {
    detail.contains("The user executing the script can't")
        || detail.contains("ACL failure in script")
}

/// Host and port in `SLOT HOST:PORT`.
fn moved_to(detail: &str) -> Option<(String, String)> {
    let (_, address) = detail.split_once(' ')?;
    let (host, port) = address.rsplit_once(':')?;
    Some((host.to_owned(), port.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_of_the_server_has_no_control_characters() {
        let reply = ::redis::parse_redis_value(b"-ODD\x07 \x1b[2Jtext\r\n").unwrap();
        let error = Failure::check(reply).unwrap_err();
        let text = error.describe(&"valkey:6379".parse().unwrap()).to_string();
        assert!(!text.contains(char::is_control), "{text}");
        assert!(text.contains("\\u{1b}[2Jtext"), "{text}");
        assert_eq!(visible(&"x".repeat(1000)).len(), 200);
    }

    #[test]
    fn redirections_without_host_keep_the_host() {
        let moved = |from: &str, detail: &str| {
            let (host, port) = moved_to(detail)?;
            let address = Failure::moved(&from.parse().unwrap(), &host, &port)?;
            Some(address.to_string())
        };
        let cases = [
            (
                "10.0.0.1:6379",
                "12539 10.0.0.2:6380",
                Some("10.0.0.2:6380"),
            ),
            ("10.0.0.1:6379", "12539 :6380", Some("10.0.0.1:6380")),
            ("valkey:6379", "12539 :6380", Some("valkey:6380")),
            ("[::1]:6379", "12539 ::2:6380", Some("[::2]:6380")),
            ("[::1]:6379", "12539 :6380", Some("[::1]:6380")),
            ("10.0.0.1:6379", "12539 ?:6380", None),
            ("10.0.0.1:6379", "12539", None),
        ];
        for (from, detail, expected) in cases {
            assert_eq!(moved(from, detail).as_deref(), expected, "{detail}");
        }
    }
}
