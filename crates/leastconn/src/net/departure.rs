//! Noticing that a client leaves while its server is being dialled.

use std::{future::poll_fn, io, pin::Pin, time::Duration};

use tokio::{io::Interest, net::TcpStream, time::sleep};

use super::{Fault, Stream};
use crate::Reason;

/// How long a client that has closed in order, without having sent anything, is still
/// served if a server is connected. It may only have closed its sending side, to read what
/// the server says first; and with a server that answers at once, a monitor that connects
/// and closes sees the server.
const GRACE: Duration = Duration::from_millis(200);

/// How a client left before a server was connected.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Departed {
    /// It closed, with or without the end of its protocol (for TLS, `close_notify`), and had
    /// sent nothing.
    #[error("the client closed before a server was connected")]
    Closed,
    /// The connection broke.
    #[error("the client's connection broke before a server was connected: {0}")]
    Broken(io::Error),
}

impl Departed {
    /// The stable code.
    pub fn reason(&self) -> Reason {
        match self {
            Self::Closed => Reason::ClientClosed,
            Self::Broken(error) if Fault::of(error) == Fault::Protocol => Reason::TlsError,
            Self::Broken(_) => Reason::ClientReset,
        }
    }
}

/// Waits until the client leaves, without taking any data from `stream`: see
/// [`Stream::poll_ahead`].
///
/// A client that resets its connection has left. One that closes it has left 200 ms later,
/// unless it has sent data: then it may have closed its sending side only, and waits for the
/// answer. Poll it after whatever it is raced with, which costs a connection nothing if that
/// is ready at once.
///
/// # Cancel safety
/// It may be dropped and called again.
pub async fn departed<S: Stream>(stream: &mut S) -> Departed {
    match poll_fn(|cx| Pin::new(&mut *stream).poll_ahead(cx)).await {
        Ok(true) => {}
        Ok(false) => {
            if !is_half_open(stream.socket()).await {
                sleep(GRACE).await;
                return Departed::Closed;
            }
        }
        Err(error) if Fault::of(&error) == Fault::Truncated => {
            sleep(GRACE).await;
            return Departed::Closed;
        }
        Err(error) => return Departed::Broken(error),
    }
    match stream.socket() {
        Some(socket) => broken(socket).await,
        None => std::future::pending().await,
    }
}

/// Waits for the end of a TCP stream whose protocol has ended. `true`: something else came.
async fn is_half_open(socket: Option<&TcpStream>) -> bool {
    match socket {
        Some(socket) => matches!(socket.peek(&mut [0]).await, Ok(1..)),
        None => false,
    }
}

async fn broken(socket: &TcpStream) -> Departed {
    let error = match socket.ready(Interest::ERROR).await {
        Ok(_) => socket.take_error(),
        Err(error) => Err(error),
    };
    let error = error.unwrap_or_else(Some);
    Departed::Broken(error.unwrap_or_else(|| io::ErrorKind::ConnectionReset.into()))
}

#[cfg(test)]
mod tests;
