//! Reason codes: why a connection ended. The codes are stable, and the same in logs, metrics and
//! errors.

use std::fmt;

macro_rules! reasons {
    ($($(#[$doc:meta])* $variant:ident = $code:literal,)+) => {
        /// How a connection ended. Every connection has exactly one reason.
        ///
        /// This library uses the reasons that concern limits, connecting and relaying. The
        /// other reasons are for programs that use the library.
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
    /// Both sides finished sending, and all bytes were delivered.
    Ok = "ok",
    /// The client was not authorized before the handshake deadline expired.
    HandshakeTimeout = "handshake_timeout",
    /// The TLS handshake failed. For example, the client did not speak TLS, there was no
    /// common version or cipher suite, or the client closed the connection.
    HandshakeFailed = "handshake_failed",
    /// The client did not request TLS with STARTTLS, and the listener requires it.
    NotTls = "not_tls",
    /// The client sent no certificate, but a certificate is required.
    NoCertificate = "no_certificate",
    /// The certificate does not chain to a trusted CA, or is not valid for client
    /// authentication.
    UntrustedCertificate = "untrusted_certificate",
    /// The certificate is outside its validity period.
    ExpiredCertificate = "expired_certificate",
    /// The certificate, or an issuer in its chain, is revoked by a CRL.
    RevokedCertificate = "revoked_certificate",
    /// The CRL for the certificate has expired.
    CrlExpired = "crl_expired",
    /// The certificate does not identify the client unambiguously.
    AmbiguousIdentity = "ambiguous_identity",
    /// No rule matches the client.
    UnknownClient = "unknown_client",
    /// A rule matches, but allows no server of this upstream.
    NotAllowed = "not_allowed",
    /// The client opens connections faster than its rate limit.
    RateLimited = "rate_limited",
    /// The client has reached its maximum of concurrent connections.
    TooManyConnections = "too_many_connections",
    /// The balancer has reached one of its own limits.
    Overloaded = "overloaded",
    /// No server that the client may use is available.
    NoServerAvailable = "no_server_available",
    /// All servers that were tried refused the connection or did not answer.
    ConnectFailed = "connect_failed",
    /// No byte was transferred in either direction during the idle timeout.
    IdleTimeout = "idle_timeout",
    /// One side had finished sending, and the other side sent nothing during the half-close
    /// timeout.
    HalfCloseTimeout = "half_close_timeout",
    /// The connection reached its maximum age.
    MaxLifetime = "max_lifetime",
    /// The client reset the connection.
    ClientReset = "client_reset",
    /// The client closed the connection before a server was connected. It had not sent any
    /// data.
    ClientClosed = "client_closed",
    /// The server reset the connection.
    ServerReset = "server_reset",
    /// The client ended a TLS stream without `close_notify`. Not a failure: all bytes were
    /// delivered.
    ClientTruncated = "client_truncated",
    /// The server ended a TLS stream without `close_notify`. Not a failure: all bytes were
    /// delivered.
    ServerTruncated = "server_truncated",
    /// TLS failed after the handshake: invalid record, fatal alert or exceeded limit.
    TlsError = "tls_error",
    /// After a policy change, the connection is no longer allowed.
    PolicyChanged = "policy_changed",
    /// The balancer was stopped before the connection had ended.
    Drained = "drained",
    /// An operator closed the connection.
    Killed = "killed",
}

impl Reason {
    /// Whether the connection was refused or failed. A truncated stream does not count as a
    /// failure, because many clients close the connection without `close_notify` after a
    /// complete exchange. A client that closes before a server is connected does not count as
    /// a failure either, because monitoring probes do so.
    pub const fn is_failure(self) -> bool {
        !matches!(
            self,
            Self::Ok | Self::ClientClosed | Self::ClientTruncated | Self::ServerTruncated
        )
    }

    /// Position in [`Reason::ALL`], for use as an array index.
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
