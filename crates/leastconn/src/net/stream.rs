//! What can be relayed: a byte stream that can also be broken off.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpStream, UnixStream},
};

/// A byte stream in both directions.
///
/// Reading must tell an orderly end (`Ok(0)`) from a broken one (`Err`): for
/// TLS, an end without `close_notify` is an error. The error's kind tells how
/// the stream broke: see [`Fault`]. Bytes that were received before the error
/// are returned first. Shutting down must end the sending direction only.
///
/// After a [`Fault::Protocol`], flushing must send what the protocol still has
/// to tell the peer (for TLS, the alert).
pub trait Stream: AsyncRead + AsyncWrite + Unpin {
    /// Makes the close that follows visible to the peer as a failure, not as
    /// an orderly end: for TCP, a reset. May be called more than once.
    fn abort(&mut self);

    /// Ends the sending direction of a stream whose peer has ended its own, and
    /// which is dropped next. What dropping does by itself, and in order, need
    /// not be done here: for TCP, a system call less.
    fn poll_finish(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_shutdown(cx)
    }

    /// The stream itself if it is a TCP connection as it is, whose bytes the
    /// system may move without our reading them.
    fn as_tcp(&self) -> Option<&TcpStream> {
        None
    }

    /// Polls for what comes next without taking it: `true` once there is data to read,
    /// `false` at the orderly end of the stream. An error, or the end, may be consumed:
    /// the stream is dropped then. [`departed`](super::departed) uses it while a server is
    /// dialled. Streams that cannot tell stay pending, as the default does.
    ///
    /// # Errors
    /// As reading: see [`Fault`].
    fn poll_ahead(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        let _ = cx;
        Poll::Pending
    }

    /// The TCP connection that it writes to, whatever it makes of the bytes before:
    /// for the socket's options. `None`: there is none.
    fn socket(&self) -> Option<&TcpStream> {
        self.as_tcp()
    }
}

/// How a stream broke, told by the error that reading or writing it returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// [`io::ErrorKind::UnexpectedEof`]: the transport ended in order, without the
    /// protocol's own end. For TLS, a FIN without `close_notify`.
    Truncated,
    /// [`io::ErrorKind::InvalidData`]: the peer broke the protocol or reported
    /// that we did, or a limit of the protocol was reached. The error within says
    /// which.
    Protocol,
    /// Any other error: the connection was reset or timed out.
    Reset,
}

impl Fault {
    /// The fault that `error` reports.
    pub fn of(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => Self::Truncated,
            io::ErrorKind::InvalidData => Self::Protocol,
            _ => Self::Reset,
        }
    }
}

impl Stream for TcpStream {
    fn abort(&mut self) {
        // Fails only for a socket that is already gone.
        let _ = self.set_zero_linger();
    }

    /// Nothing: closing a socket of which everything was read ends it in order.
    fn poll_finish(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_ahead(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        let mut byte = [0];
        self.poll_peek(cx, &mut ReadBuf::new(&mut byte))
            .map_ok(|count| count > 0)
    }

    fn as_tcp(&self) -> Option<&TcpStream> {
        Some(self)
    }
}

impl Stream for UnixStream {
    /// UNIX sockets have no reset: the peer sees an orderly end.
    fn abort(&mut self) {}
}

impl<S: Stream + ?Sized> Stream for &mut S {
    fn abort(&mut self) {
        (**self).abort();
    }

    fn poll_finish(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut **self.get_mut()).poll_finish(cx)
    }

    fn poll_ahead(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        Pin::new(&mut **self.get_mut()).poll_ahead(cx)
    }

    fn as_tcp(&self) -> Option<&TcpStream> {
        (**self).as_tcp()
    }

    fn socket(&self) -> Option<&TcpStream> {
        (**self).socket()
    }
}

impl<S: Stream + ?Sized> Stream for Box<S> {
    fn abort(&mut self) {
        (**self).abort();
    }

    fn poll_finish(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut **self.get_mut()).poll_finish(cx)
    }

    fn poll_ahead(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        Pin::new(&mut **self.get_mut()).poll_ahead(cx)
    }

    fn as_tcp(&self) -> Option<&TcpStream> {
        (**self).as_tcp()
    }

    fn socket(&self) -> Option<&TcpStream> {
        (**self).socket()
    }
}
