//! Reading a header from a socket, and not one byte more.

use std::io;

use leastconn::Reason;
use tokio::{io::AsyncReadExt, net::TcpStream};

use super::{Header, HeaderError, parse};

/// No header came.
#[derive(Debug, thiserror::Error)]
pub enum ReceiveError {
    /// What came is none.
    #[error("{0}")]
    Header(#[from] HeaderError),
    /// The socket broke.
    #[error("no PROXY header came: {0}")]
    Io(#[from] io::Error),
    /// The other side closed in the middle.
    #[error("the connection was closed {} a PROXY header", place(*.0))]
    Closed(usize),
}

/// What to say of a header of which only so many bytes came in time.
pub fn late(bytes: usize) -> String {
    format!("the deadline passed {} a PROXY header", place(bytes))
}

/// Where in the header one is after so many bytes.
const fn place(bytes: usize) -> &'static str {
    if bytes == 0 {
        "before"
    } else {
        "in the middle of"
    }
}

impl ReceiveError {
    /// The stable code.
    pub const fn reason(&self) -> Reason {
        Reason::HandshakeFailed
    }
}

/// Reads the header that must come first. `taken` is empty at first, and has what
/// was taken from the socket so far, for those who give up.
///
/// The header of version 1 has no length, and what follows it belongs to others:
/// so bytes are looked at where they are, in the socket, and only those of the
/// header are taken out. Whatever does not end it is part of it, so nothing is
/// ever looked at twice, and a sender of single bytes makes us wait, not spin.
///
/// # Errors
/// As soon as it cannot be a header, or the other side goes away.
///
/// # Cancel safety
/// What was taken is in `taken`: close the socket.
pub async fn receive(socket: &mut TcpStream, taken: &mut Vec<u8>) -> Result<Header, ReceiveError> {
    let mut seen = [0; 256];
    loop {
        let before = taken.len();
        let count = socket.peek(&mut seen).await?;
        if count == 0 {
            return Err(ReceiveError::Closed(before));
        }
        taken.extend_from_slice(&seen[..count]);
        let header = parse(taken)?;
        if let Some((length, _)) = header {
            taken.truncate(length);
        }
        // They are there, so this does not wait.
        socket.read_exact(&mut seen[..taken.len() - before]).await?;
        if let Some((_, header)) = header {
            return Ok(header);
        }
    }
}
