//! Why a connection was refused or ended.

use std::fmt;

macro_rules! reasons {
    ($($(#[$doc:meta])* $variant:ident = $code:literal,)+) => {
        /// How a connection ended, for every outcome that this library decides. Each connection has
        /// exactly one reason.
        ///
        /// A program that also authenticates or authorizes clients has additional reasons. It can
        /// define its own enum that includes these reasons and converts from this type.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[non_exhaustive]
        pub enum Reason {
            $($(#[$doc])* $variant,)+
        }

        impl Reason {
            /// Every reason, in the order of [`Reason::index`].
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// Returns the stable code: lower case, with words joined by `_`.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $code,)+ }
            }
        }
    };
}

reasons! {
    /// Both sides finished sending, and all bytes were delivered.
    Ok = "ok",
    /// The client opened connections faster than its rate limit allows.
    RateLimited = "rate_limited",
    /// The client has reached its maximum number of concurrent connections.
    TooManyConnections = "too_many_connections",
    /// The balancer has reached one of its own limits.
    Overloaded = "overloaded",
    /// No server that the client may use is available.
    NoServerAvailable = "no_server_available",
    /// The connection waited for a server, but until the queue timeout, all servers were at their
    /// maximum number of connections.
    QueueTimeout = "queue_timeout",
    /// All servers that were tried refused the connection or did not answer.
    ConnectFailed = "connect_failed",
    /// No byte was transferred in either direction during the idle timeout.
    IdleTimeout = "idle_timeout",
    /// One side had finished sending, and the other side sent nothing for the duration of the
    /// half-close timeout.
    HalfCloseTimeout = "half_close_timeout",
    /// The client reset the connection.
    ClientReset = "client_reset",
    /// The client closed the connection before a server was connected and without having sent any
    /// data.
    ClientClosed = "client_closed",
    /// The server reset the connection.
    ServerReset = "server_reset",
    /// The client's stream ended without its protocol's end marker, for example TLS without
    /// `close_notify`. This is not a failure: all bytes were delivered.
    ClientTruncated = "client_truncated",
    /// The server's stream ended without its protocol's end marker, for example TLS without
    /// `close_notify`. This is not a failure: all bytes were delivered.
    ServerTruncated = "server_truncated",
    /// The protocol of one of the streams failed, for example because of an invalid TLS record or a
    /// fatal TLS alert.
    ProtocolError = "protocol_error",
}

impl Reason {
    /// Whether the connection was refused or failed. A truncated stream is not a failure, because
    /// many clients close the connection without `close_notify` after a complete exchange. A client
    /// that closes before a server is connected is not a failure either, because monitoring probes
    /// do so.
    pub const fn is_failure(self) -> bool {
        !matches!(
            self,
            Self::Ok | Self::ClientClosed | Self::ClientTruncated | Self::ServerTruncated
        )
    }

    /// Returns the position in [`Reason::ALL`], for use as an array index.
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
