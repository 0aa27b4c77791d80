//! STARTTLS: what a client sends in its own protocol to ask for TLS, before the
//! handshake. PostgreSQL is the one protocol that is supported.

pub mod postgres;

use std::io;

use leastconn::Reason;

/// TLS was not asked for.
#[derive(Debug, thiserror::Error)]
pub enum StartTlsError {
    /// The client asked for something else than TLS. If there is an answer that explains
    /// this to the client, it was sent.
    #[error("{0}")]
    NotTls(String),
    /// The client sent bytes in plain text behind its request, before the answer.
    #[error(
        "the client sent bytes behind its request for TLS without waiting for the answer: \
         they are not protected, and somebody else may have sent them"
    )]
    Pipelined,
    /// The client closed the connection first.
    #[error("the client closed the connection before it asked for TLS")]
    Closed,
    /// The socket failed.
    #[error("{0}")]
    Io(#[from] io::Error),
}

impl StartTlsError {
    /// The stable code.
    pub const fn reason(&self) -> Reason {
        match self {
            Self::NotTls(_) => Reason::NotTls,
            Self::Pipelined | Self::Closed | Self::Io(_) => Reason::HandshakeFailed,
        }
    }
}
