//! Receives a PROXY header from a socket, without reading beyond it.

use std::io;

use leastconn_proxy_protocol::{Header, HeaderError, parse};
use tokio::{io::AsyncReadExt, net::TcpStream};

use crate::reason_code::ReasonCode;

/// Receiving a header failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReceiveError {
    #[error(transparent)]
    Header(#[from] HeaderError),
    #[error("cannot read a PROXY header: {0}")]
    Io(#[from] io::Error),
    /// The peer closed the connection after this many bytes.
    #[error("connection closed {} a PROXY header", position(*.0))]
    Closed(usize),
}

/// Explains a handshake timeout after `received` bytes of the header.
pub(super) fn timeout_detail(received: usize) -> String {
    format!("handshake timeout {} a PROXY header", position(received))
}

const fn position(received: usize) -> &'static str {
    if received == 0 {
        "before"
    } else {
        "in the middle of"
    }
}

impl ReceiveError {
    pub(super) const fn reason(&self) -> ReasonCode {
        ReasonCode::HandshakeFailed
    }
}

/// Receives a header. `received` must be empty. It collects the bytes read so far, even if the
/// future is dropped.
///
/// A version 1 header has no length field, and the bytes after it belong to TLS. The socket is
/// therefore peeked, and only bytes of the header are read. Each byte is peeked once: if the header
/// is still incomplete, all peeked bytes are consumed.
///
/// # Errors
/// Fails as soon as the received bytes cannot be the start of a header, or when the peer closes the
/// connection.
///
/// # Cancel safety
/// Not cancel safe: the bytes in `received` are no longer in the socket. Close the socket.
pub(super) async fn receive(
    socket: &mut TcpStream,
    received: &mut Vec<u8>,
) -> Result<Header, ReceiveError> {
    let mut buffer = [0; 256];
    loop {
        let before = received.len();
        let count = socket.peek(&mut buffer).await?;
        if count == 0 {
            return Err(ReceiveError::Closed(before));
        }
        received.extend_from_slice(&buffer[..count]);
        let header = parse(received)?;
        if let Some((length, _)) = header {
            received.truncate(length);
        }
        // The peeked bytes are in the receive buffer, so `read_exact` does not wait.
        let fresh = received.len() - before;
        socket.read_exact(&mut buffer[..fresh]).await?;
        if let Some((_, header)) = header {
            return Ok(header);
        }
    }
}
