//! STARTTLS: the exchange before the TLS handshake in which a client requests TLS in its own
//! protocol. Only PostgreSQL is supported.

pub mod postgres;

use std::io;

use crate::reason_code::ReasonCode;

/// The client did not request TLS properly.
#[derive(Debug, thiserror::Error)]
pub enum StartTlsError {
    /// The client did not request TLS. If the protocol has an error message, it was sent.
    #[error("{0}")]
    NotTls(String),
    /// Plaintext bytes followed the request before it was answered.
    #[error(
        "plaintext bytes after the request for TLS, before its answer: \
         they may have been injected"
    )]
    Pipelined,
    /// The client closed the connection before requesting TLS.
    #[error("connection closed before the client requested TLS")]
    Closed,
    #[error("{0}")]
    Io(#[from] io::Error),
}

impl StartTlsError {
    pub const fn reason(&self) -> ReasonCode {
        match self {
            Self::NotTls(_) => ReasonCode::NotTls,
            Self::Pipelined | Self::Closed | Self::Io(_) => ReasonCode::HandshakeFailed,
        }
    }
}
