//! Why a connection ended: one stable code each, the same in logs, metrics and
//! typed errors.

use std::fmt;

macro_rules! reasons {
    ($($(#[$doc:meta])* $variant:ident = $code:literal,)+) => {
        /// How a connection ended. Exactly one belongs to every connection.
        ///
        /// The library raises those of limiting, connecting and relaying; a
        /// server on top of it raises the others.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[non_exhaustive]
        pub enum Reason {
            $($(#[$doc])* $variant,)+
        }

        impl Reason {
            /// Every reason, in the order of [`Reason::index`].
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The stable code: lower case, words joined by `_`.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $code,)+ }
            }
        }
    };
}

reasons! {
    /// It ended well: both sides finished sending, all bytes were delivered.
    Ok = "ok",
    /// The client was not authorized before the handshake deadline.
    HandshakeTimeout = "handshake_timeout",
    /// The TLS handshake broke: not TLS, no common version or suite, or the client went away.
    HandshakeFailed = "handshake_failed",
    /// The client did not ask for TLS where it must do so in its own protocol (STARTTLS).
    NotTls = "not_tls",
    /// The client showed no certificate where one is required.
    NoCertificate = "no_certificate",
    /// The certificate does not chain to a trusted CA, or is not fit for a client.
    UntrustedCertificate = "untrusted_certificate",
    /// The certificate is outside its validity period.
    ExpiredCertificate = "expired_certificate",
    /// The certificate, or one above it, is on a revocation list.
    RevokedCertificate = "revoked_certificate",
    /// The revocation list that decides about the certificate has expired.
    CrlExpired = "crl_expired",
    /// The certificate does not say one thing about who its owner is.
    AmbiguousIdentity = "ambiguous_identity",
    /// No rule matches the client.
    UnknownClient = "unknown_client",
    /// A rule matches, and grants no server of this upstream.
    NotAllowed = "not_allowed",
    /// The client opens connections faster than its rate limit.
    RateLimited = "rate_limited",
    /// The client has as many connections open as it may.
    TooManyConnections = "too_many_connections",
    /// The balancer itself is at a limit.
    Overloaded = "overloaded",
    /// No allowed server is ready to be tried.
    NoServerAvailable = "no_server_available",
    /// Every server that was tried refused the connection or did not answer.
    ConnectFailed = "connect_failed",
    /// No byte went either way for the idle time-out.
    IdleTimeout = "idle_timeout",
    /// One side had finished sending, and no byte came for the half-close time-out.
    HalfCloseTimeout = "half_close_timeout",
    /// The connection reached its maximum age.
    MaxLifetime = "max_lifetime",
    /// The client reset the connection.
    ClientReset = "client_reset",
    /// The client closed before a server was connected, without having sent anything.
    ClientClosed = "client_closed",
    /// The server reset the connection.
    ServerReset = "server_reset",
    /// The client ended its stream without the protocol's end, for TLS without
    /// `close_notify`. Not a failure: all bytes were delivered.
    ClientTruncated = "client_truncated",
    /// The server ended its stream without the protocol's end, for TLS without
    /// `close_notify`. Not a failure: all bytes were delivered.
    ServerTruncated = "server_truncated",
    /// TLS failed after the handshake: a bad record, a fatal alert, a limit.
    TlsError = "tls_error",
    /// A change of the rules ended it.
    PolicyChanged = "policy_changed",
    /// The balancer stopped before the connection had ended.
    Drained = "drained",
    /// An operator ended it.
    Killed = "killed",
}

impl Reason {
    /// Whether the connection was refused or failed. A truncated stream is no
    /// failure: many clients close without `close_notify` after a complete exchange. Nor is
    /// a client that closes before a server is connected: monitors do.
    pub const fn is_failure(self) -> bool {
        !matches!(
            self,
            Self::Ok | Self::ClientClosed | Self::ClientTruncated | Self::ServerTruncated
        )
    }

    /// Position in [`Reason::ALL`], for arrays of counters.
    pub const fn index(self) -> usize {
        self as usize
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn index_is_the_position_in_all() {
        for (position, reason) in Reason::ALL.iter().enumerate() {
            assert_eq!(reason.index(), position);
        }
    }

    #[test]
    fn codes_are_distinct_and_in_snake_case() {
        let mut codes: Vec<_> = Reason::ALL.iter().map(|r| r.as_str()).collect();
        assert!(
            codes
                .iter()
                .all(|c| c.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'))
        );
        codes.sort_unstable();
        codes.dedup();
        assert_eq!(codes.len(), Reason::ALL.len());
    }
}
