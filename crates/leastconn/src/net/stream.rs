//! The stream trait of the relay: a bidirectional byte stream that can also be aborted.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpStream, UnixStream},
};

/// A bidirectional byte stream.
///
/// Reads must distinguish an orderly end (`Ok(0)`) from a failure (`Err`). With TLS, an end without
/// `close_notify` is a failure. The error's kind determines the [`Fault`]. Bytes that were received
/// before an error must be returned before the error. A shutdown must end only the sending
/// direction.
///
/// After a [`Fault::Protocol`], a flush must send the data that the protocol has queued for the
/// peer (with TLS, the alert).
///
/// # Protocol errors
///
/// A stream reports errors of its protocol, such as an invalid TLS record, through the
/// [`io::Error`] that a read or write returns. This error should wrap the protocol's error.
/// [`relay`](super::relay()) keeps the first error of each stream and returns it in
/// [`RelayOutcome::client_error`] or [`RelayOutcome::server_error`]:
///
/// ```
/// use leastconn::net::RelayOutcome;
///
/// /// The error of the client's protocol, for a log line.
/// fn protocol_error(outcome: &RelayOutcome) -> Option<String> {
///     let error = outcome.client_error.as_ref()?.get_ref()?;
///     Some(error.to_string())
/// }
/// ```
///
/// [`RelayOutcome::client_error`]: super::RelayOutcome::client_error
/// [`RelayOutcome::server_error`]: super::RelayOutcome::server_error
pub trait Stream: AsyncRead + AsyncWrite + Unpin {
    /// Makes the peer see the subsequent close as a failure instead of an orderly end. On TCP, this
    /// resets the connection. May be called more than once.
    fn abort(&mut self);

    /// Ends the sending direction of a stream whose peer has already ended its own. The stream is
    /// dropped right afterwards, so the implementation may omit steps that the drop performs
    /// anyway. For TCP, this saves a system call.
    fn poll_finish(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_shutdown(cx)
    }

    /// Returns the underlying TCP connection if its bytes are relayed unchanged, so that the kernel
    /// may splice them. Otherwise returns `None`.
    fn as_tcp(&self) -> Option<&TcpStream> {
        None
    }

    /// Waits for data or for the end of the stream without consuming data. Returns `true` once
    /// there is data to read, and `false` at the orderly end of the stream. An error or the end may
    /// be consumed, because the stream is dropped afterwards. [`departed`](super::departed) uses
    /// this method while a server is being dialled. The default implementation, for streams without
    /// support, stays pending forever.
    ///
    /// # Errors
    /// The same errors as for a read: see [`Fault`].
    fn poll_ahead(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        let _ = cx;
        Poll::Pending
    }

    /// Returns the TCP socket underneath this stream, for setting socket options. The stream may
    /// transform the bytes, as TLS does. Returns `None` if there is no TCP socket.
    fn socket(&self) -> Option<&TcpStream> {
        self.as_tcp()
    }
}

/// How a stream failed, derived from the kind of the I/O error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// [`io::ErrorKind::UnexpectedEof`]: the transport ended cleanly, but without the protocol's
    /// end marker. With TLS, this is a FIN without `close_notify`.
    Truncated,
    /// [`io::ErrorKind::InvalidData`]: a protocol violation, an alert from the peer, or an exceeded
    /// protocol limit. The inner error contains the details.
    Protocol,
    /// Any other error: the connection was reset or timed out.
    Reset,
}

impl Fault {
    /// Classifies `error` by its kind.
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
        // This fails only if the socket is already closed.
        let _ = self.set_zero_linger();
    }

    /// Does nothing, because closing a socket that has no unread data sends a FIN.
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
    /// UNIX sockets cannot be reset: the peer sees an orderly end.
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
