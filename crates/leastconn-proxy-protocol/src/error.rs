//! Decoding errors.

use std::fmt;

use super::{FIXED, MAX_REST};

/// The received bytes are not an acceptable header.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// The bytes belong to another protocol.
    #[error("expected a PROXY header, got {0}")]
    Missing(Unexpected),
    /// The header has invalid syntax. The text says what is wrong.
    #[error("malformed PROXY header: {0}")]
    Malformed(&'static str),
    /// The header is valid, but describes a transport other than TCP.
    #[error("PROXY header for {0}: only TCP is supported")]
    OtherProtocol(&'static str),
    /// The CRC-32C of a version 2 header does not match.
    #[error("PROXY header with a wrong checksum")]
    Checksum,
    /// The version 2 header is too long. The value is the number of bytes after its fixed part.
    #[error("PROXY header too long: {0} bytes after the first {FIXED}, limit {MAX_REST}")]
    TooLong(usize),
}

/// What was received instead of a header.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unexpected {
    /// A TLS ClientHello: the sender is not a proxy, or does not send headers.
    Tls,
    /// An HTTP request.
    Http,
    /// An unknown protocol, with its first bytes (at most 16).
    Bytes(Vec<u8>),
}

impl fmt::Display for Unexpected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tls => f.write_str("a TLS ClientHello"),
            Self::Http => f.write_str("an HTTP request"),
            Self::Bytes(bytes) => write!(f, "\"{}\"", bytes.escape_ascii()),
        }
    }
}

impl Unexpected {
    pub(super) fn of(bytes: &[u8]) -> Self {
        const METHODS: [&[u8]; 6] = [b"GET ", b"POST ", b"HEAD ", b"PUT ", b"OPTIONS ", b"PRI * "];
        // 0x16 is the TLS record type "handshake", and 3 is the major version. The second byte may
        // not have arrived yet.
        if bytes.first() == Some(&0x16) && bytes.get(1).is_none_or(|&major| major == 3) {
            return Self::Tls;
        }
        if METHODS.iter().any(|method| bytes.starts_with(method)) {
            return Self::Http;
        }
        Self::Bytes(bytes.iter().take(16).copied().collect())
    }
}
