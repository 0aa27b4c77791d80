//! Reason codes: why a connection was refused or ended. The codes are stable, and the same in
//! the access log, metrics, the admin API and `leastconn-lb explain`.
//!
//! This is the only list of the codes. The library `leastconn` and the crate `leastconn-tls`
//! have error types of their own, which are converted to [`ReasonCode`] here.

use std::fmt;

use leastconn::Reason;
use leastconn_tls::{ChainErrorKind, HandshakeErrorKind};

macro_rules! reason_codes {
    ($($(#[$doc:meta])* $variant:ident = $code:expr, $class:ident;)+) => {
        /// How a connection ended. Every connection has exactly one reason code.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum ReasonCode {
            $($(#[$doc])* $variant,)+
        }

        impl ReasonCode {
            /// Every code, in the order of [`ReasonCode::index`].
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The stable code: lower case, words joined by `_`.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $code,)+ }
            }

            const fn class(self) -> Class {
                match self { $(Self::$variant => Class::$class,)+ }
            }
        }
    };
}

/// The class of a reason code, the second column of the table below.
enum Class {
    /// Not a failure. A truncated stream does not count as a failure, because many clients close
    /// the connection without `close_notify` after a complete exchange. A client that closes
    /// before a server is connected does not count as a failure either, because monitoring probes
    /// do so.
    Success,
    /// The client was refused. Some of these reasons can also end a connection that has a server,
    /// for example if the client's certificate is revoked.
    Refused,
    /// The connection ended early, although it was not refused.
    Failed,
}

reason_codes! {
    /// Both sides finished sending, and all bytes were delivered.
    Ok = Reason::Ok.as_str(), Success;
    /// The client was not authorized before the handshake deadline expired.
    HandshakeTimeout = "handshake_timeout", Refused;
    /// The TLS handshake failed. For example, the client did not speak TLS, there was no
    /// common version or cipher suite, or the client closed the connection.
    HandshakeFailed = "handshake_failed", Refused;
    /// The client did not request TLS with STARTTLS, and the listener requires it.
    NotTls = "not_tls", Refused;
    /// The client sent no certificate, but a certificate is required.
    NoCertificate = "no_certificate", Refused;
    /// The certificate does not chain to a trusted CA, or is not valid for client
    /// authentication.
    UntrustedCertificate = "untrusted_certificate", Refused;
    /// The certificate is outside its validity period.
    ExpiredCertificate = "expired_certificate", Refused;
    /// The certificate, or an issuer in its chain, is revoked by a CRL.
    RevokedCertificate = "revoked_certificate", Refused;
    /// The CRL for the certificate has expired.
    CrlExpired = "crl_expired", Refused;
    /// The certificate does not identify the client unambiguously.
    AmbiguousIdentity = "ambiguous_identity", Refused;
    /// No rule matches the client.
    UnknownClient = "unknown_client", Refused;
    /// A rule matches, but allows no server of this upstream.
    NotAllowed = "not_allowed", Refused;
    /// An operator has blocked the client.
    Blocked = "blocked", Refused;
    /// The client opens connections faster than its rate limit.
    RateLimited = Reason::RateLimited.as_str(), Refused;
    /// The client has reached its maximum number of concurrent connections.
    TooManyConnections = Reason::TooManyConnections.as_str(), Refused;
    /// The balancer has reached one of its own limits.
    Overloaded = Reason::Overloaded.as_str(), Refused;
    /// No server that the client may use is available.
    NoServerAvailable = Reason::NoServerAvailable.as_str(), Refused;
    /// The connection waited for a server until the timeout of the queue, because all servers were
    /// at their maximum number of connections.
    QueueTimeout = Reason::QueueTimeout.as_str(), Refused;
    /// All servers that were tried refused the connection or did not answer.
    ConnectFailed = Reason::ConnectFailed.as_str(), Refused;
    /// No byte was transferred in either direction during the idle timeout.
    IdleTimeout = Reason::IdleTimeout.as_str(), Failed;
    /// One side had finished sending, and the other side sent nothing during the half-close
    /// timeout.
    HalfCloseTimeout = Reason::HalfCloseTimeout.as_str(), Failed;
    /// The connection reached its maximum age.
    MaxLifetime = "max_lifetime", Failed;
    /// The client reset the connection.
    ClientReset = Reason::ClientReset.as_str(), Failed;
    /// The client closed the connection before a server was connected. It had not sent any
    /// data.
    ClientClosed = Reason::ClientClosed.as_str(), Success;
    /// The server reset the connection.
    ServerReset = Reason::ServerReset.as_str(), Failed;
    /// The client ended a TLS stream without `close_notify`. Not a failure: all bytes were
    /// delivered.
    ClientTruncated = Reason::ClientTruncated.as_str(), Success;
    /// The server ended a TLS stream without `close_notify`. Not a failure: all bytes were
    /// delivered.
    ServerTruncated = Reason::ServerTruncated.as_str(), Success;
    /// TLS failed after the handshake: invalid record, fatal alert or exceeded limit.
    TlsError = "tls_error", Failed;
    /// After a policy change, the connection is no longer allowed.
    PolicyChanged = "policy_changed", Failed;
    /// The balancer was stopped before the connection had ended.
    Drained = "drained", Failed;
    /// An operator closed the connection.
    Killed = "killed", Failed;
    /// The server was removed by discovery, and `removed = "close"` is set.
    ServerRemoved = "server_removed", Failed;
    /// The connection was quiet, and its server had more connections than the other servers.
    Rebalanced = "rebalanced", Failed;
}

/// The code of each library reason, by [`Reason::index`].
const OF_LIBRARY: [ReasonCode; Reason::ALL.len()] = {
    let mut codes = [ReasonCode::Ok; Reason::ALL.len()];
    let mut index = 0;
    while index < codes.len() {
        codes[index] = of_library(Reason::ALL[index]);
        index += 1;
    }
    codes
};

/// Evaluated only at compile time. `Reason` is `#[non_exhaustive]`, so the compiler does not check
/// that all reasons have an arm. Instead, a missing arm panics in [`OF_LIBRARY`], which is a
/// compile error.
const fn of_library(reason: Reason) -> ReasonCode {
    match reason {
        Reason::Ok => ReasonCode::Ok,
        Reason::RateLimited => ReasonCode::RateLimited,
        Reason::TooManyConnections => ReasonCode::TooManyConnections,
        Reason::Overloaded => ReasonCode::Overloaded,
        Reason::NoServerAvailable => ReasonCode::NoServerAvailable,
        Reason::QueueTimeout => ReasonCode::QueueTimeout,
        Reason::ConnectFailed => ReasonCode::ConnectFailed,
        Reason::IdleTimeout => ReasonCode::IdleTimeout,
        Reason::HalfCloseTimeout => ReasonCode::HalfCloseTimeout,
        Reason::ClientReset => ReasonCode::ClientReset,
        Reason::ClientClosed => ReasonCode::ClientClosed,
        Reason::ServerReset => ReasonCode::ServerReset,
        Reason::ClientTruncated => ReasonCode::ClientTruncated,
        Reason::ServerTruncated => ReasonCode::ServerTruncated,
        Reason::ProtocolError => ReasonCode::TlsError,
        _ => panic!("a reason of the library has no reason code"),
    }
}

impl From<Reason> for ReasonCode {
    fn from(reason: Reason) -> Self {
        OF_LIBRARY[reason.index()]
    }
}

impl From<ChainErrorKind> for ReasonCode {
    fn from(kind: ChainErrorKind) -> Self {
        match kind {
            ChainErrorKind::Untrusted => Self::UntrustedCertificate,
            ChainErrorKind::Expired => Self::ExpiredCertificate,
            ChainErrorKind::Revoked => Self::RevokedCertificate,
            ChainErrorKind::CrlExpired => Self::CrlExpired,
        }
    }
}

impl From<HandshakeErrorKind> for ReasonCode {
    fn from(kind: HandshakeErrorKind) -> Self {
        match kind {
            HandshakeErrorKind::NoCertificate => Self::NoCertificate,
            HandshakeErrorKind::Chain(kind) => kind.into(),
            HandshakeErrorKind::Evicted => Self::Overloaded,
            HandshakeErrorKind::Other => Self::HandshakeFailed,
        }
    }
}

impl ReasonCode {
    /// Whether the connection was refused or failed.
    pub const fn is_failure(self) -> bool {
        !matches!(self.class(), Class::Success)
    }

    /// Whether a connection that ends with this reason before it has a server was refused. Some of
    /// these reasons can also end a connection that has a server.
    pub const fn is_refusal(self) -> bool {
        matches!(self.class(), Class::Refused)
    }

    /// Position in [`ReasonCode::ALL`], for use as an array index.
    pub const fn index(self) -> usize {
        self as usize
    }
}

impl fmt::Display for ReasonCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn index_is_the_position_in_all() {
        for (position, reason) in ReasonCode::ALL.iter().enumerate() {
            assert_eq!(reason.index(), position);
        }
    }

    #[test]
    fn library_reasons_keep_their_code() {
        for &reason in Reason::ALL {
            let code = ReasonCode::from(reason).as_str();
            let expected = match reason {
                // The program relays no other protocol than TLS.
                Reason::ProtocolError => "tls_error",
                reason => reason.as_str(),
            };
            assert_eq!(code, expected);
        }
    }

    #[test]
    fn library_reasons_keep_their_class() {
        for &reason in Reason::ALL {
            let code = ReasonCode::from(reason);
            assert_eq!(code.is_failure(), reason.is_failure(), "{code}");
        }
    }

    #[test]
    fn codes_are_distinct_and_in_snake_case() {
        let mut codes: Vec<_> = ReasonCode::ALL.iter().map(|r| r.as_str()).collect();
        assert!(
            codes
                .iter()
                .all(|c| c.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'))
        );
        codes.sort_unstable();
        codes.dedup();
        assert_eq!(codes.len(), ReasonCode::ALL.len());
    }
}
