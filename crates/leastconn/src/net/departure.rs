//! Detects clients that disconnect while a server is being dialled.

use std::{future::poll_fn, io, pin::Pin, time::Duration};

use tokio::{io::Interest, net::TcpStream, time::sleep};

use super::{Fault, Stream};
use crate::Reason;

/// How long dialling continues after the client has cleanly closed its connection without sending
/// data. The client may have closed only its sending direction and be waiting for the server to
/// send first. The grace period also lets a monitoring probe that connects and closes reach a
/// server that accepts quickly.
const GRACE: Duration = Duration::from_millis(200);

/// How a client left before a server was connected.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Departed {
    /// The client closed the connection without sending data. If the client uses TLS,
    /// `close_notify` may be missing.
    #[error("the client closed before a server was connected")]
    Closed,
    /// The connection was reset or failed.
    #[error("the client's connection failed before a server was connected: {0}")]
    Broken(io::Error),
}

impl Departed {
    /// Returns the reason code.
    pub fn reason(&self) -> Reason {
        match self {
            Self::Closed => Reason::ClientClosed,
            Self::Broken(error) if Fault::of(error) == Fault::Protocol => Reason::ProtocolError,
            Self::Broken(_) => Reason::ClientReset,
        }
    }
}

/// Waits until the client leaves. Does not consume any data from `stream`: see
/// [`Stream::poll_ahead`].
///
/// Completes immediately after a reset, and 200 ms after an orderly close. If the client has sent
/// data, an orderly close is ignored: the client may have closed only its sending direction and be
/// waiting for the response. In a `select!`, poll this future last, so that it costs nothing if
/// another branch is ready.
///
/// # Cancel safety
/// Cancel safe.
pub async fn departed<S: Stream>(stream: &mut S) -> Departed {
    if let Some(socket) = stream.as_tcp()
        && let Err(error) = closing_or_data(socket).await
    {
        return Departed::Broken(error);
    }
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

/// Whether the TCP connection is still open although the protocol has ended (with TLS, after
/// `close_notify`). Waits for a FIN, and returns `true` if data arrives instead.
async fn is_half_open(socket: Option<&TcpStream>) -> bool {
    match socket {
        Some(socket) => matches!(socket.peek(&mut [0]).await, Ok(1..)),
        None => false,
    }
}

/// Waits until the peer has sent a FIN or the connection has failed. May return earlier, but on
/// Linux, data does not end the wait: looking for data would cost a system call per connection.
async fn closing_or_data(socket: &TcpStream) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    // For Tokio, `PRIORITY` includes the end of the peer's data.
    socket.ready(Interest::PRIORITY | Interest::ERROR).await?;
    #[cfg(not(target_os = "linux"))]
    let _ = socket;
    Ok(())
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
