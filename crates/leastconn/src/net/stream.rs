//! What can be relayed: a byte stream that can also be broken off.

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
}

impl Stream for TcpStream {
    fn abort(&mut self) {
        // Fails only for a socket that is already gone.
        let _ = self.set_zero_linger();
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
}

impl<S: Stream + ?Sized> Stream for Box<S> {
    fn abort(&mut self) {
        (**self).abort();
    }
}
