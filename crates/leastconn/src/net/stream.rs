//! What can be relayed: a byte stream that can also be broken off.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, UnixStream},
};

/// A byte stream in both directions.
///
/// Reading must tell an orderly end (`Ok(0)`) from a broken one (`Err`): for
/// TLS, an end without `close_notify` is an error. Shutting down must end the
/// sending direction only.
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

    /// The TCP connection that it writes to, whatever it makes of the bytes before:
    /// for the socket's options. `None`: there is none.
    fn socket(&self) -> Option<&TcpStream> {
        self.as_tcp()
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

    fn as_tcp(&self) -> Option<&TcpStream> {
        (**self).as_tcp()
    }

    fn socket(&self) -> Option<&TcpStream> {
        (**self).socket()
    }
}
