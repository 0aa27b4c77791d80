//! A TLS connection over a TCP socket: rustls for the protocol, this for when
//! to read and write.

use std::{
    io::{self, IoSlice, Read, Write},
    pin::Pin,
    task::{Context, Poll, ready},
};

use rustls::ServerConnection;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

use super::HandshakeError;

/// Plaintext that rustls may hold for a socket that takes no more, beyond which
/// writing waits.
const SEND_BUFFER: usize = 64 * 1024;

/// A socket as rustls wants it: reads and writes that say "would block".
pub(super) struct NonBlocking<'a>(pub(super) &'a TcpStream);

impl Read for NonBlocking<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.try_read(buffer)
    }
}

impl Write for NonBlocking<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.try_write(bytes)
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        self.0.try_write_vectored(slices)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The server's side of an established TLS connection.
///
/// Reading tells an orderly end (`close_notify`) from a broken one: an end of
/// the TCP stream without it is [`io::ErrorKind::UnexpectedEof`].
pub struct TlsStream {
    socket: TcpStream,
    session: Box<ServerConnection>,
    close_notify_sent: bool,
}

impl TlsStream {
    pub(super) fn new(socket: TcpStream, mut session: ServerConnection) -> Self {
        session.set_buffer_limit(Some(SEND_BUFFER));
        Self {
            socket,
            session: Box::new(session),
            close_notify_sent: false,
        }
    }

    /// What was negotiated, and with whom.
    pub fn session(&self) -> &ServerConnection {
        &self.session
    }

    /// Gives up TLS, for closing.
    pub fn into_socket(self) -> TcpStream {
        self.socket
    }

    pub(super) fn poll_handshake(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), HandshakeError>> {
        loop {
            ready!(self.poll_send(cx))?;
            if !self.session.is_handshaking() {
                return Poll::Ready(Ok(()));
            }
            if ready!(self.poll_receive(cx))? == 0 && self.session.is_handshaking() {
                return Poll::Ready(Err(HandshakeError::Closed));
            }
        }
    }

    /// Reads once from the socket and lets rustls digest it.
    fn poll_receive(&mut self, cx: &mut Context<'_>) -> Poll<Result<usize, HandshakeError>> {
        let count = loop {
            ready!(self.socket.poll_read_ready(cx))?;
            match self.session.read_tls(&mut NonBlocking(&self.socket)) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => break result?,
            }
        };
        if let Err(error) = self.session.process_new_packets() {
            // The alert that rustls has ready, as far as the socket takes it now.
            let _ = self.session.write_tls(&mut NonBlocking(&self.socket));
            return Poll::Ready(Err(error.into()));
        }
        Poll::Ready(Ok(count))
    }

    /// Writes out all that rustls has ready.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.session.wants_write() {
            match self.session.write_tls(&mut NonBlocking(&self.socket)) {
                Ok(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    ready!(self.socket.poll_write_ready(cx))?;
                }
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for TlsStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            match this.session.reader().read(buffer.initialize_unfilled()) {
                // Zero is `close_notify`.
                Ok(count) => {
                    buffer.advance(count);
                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
            ready!(this.poll_receive(cx)).map_err(HandshakeError::into_io)?;
            if this.session.wants_write() {
                // An answer of the protocol's own, to a key update for instance.
                // If the socket is full it goes out with the next write.
                let _ = this.poll_send(cx)?;
            }
        }
    }
}

impl AsyncWrite for TlsStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        loop {
            let count = this.session.writer().write(bytes)?;
            // Out at once: there is nothing to wait for.
            let sent = this.poll_send(cx)?;
            if count > 0 || bytes.is_empty() {
                return Poll::Ready(Ok(count));
            }
            // The buffer is full: wait until the socket has taken some.
            ready!(sent);
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().poll_send(cx)
    }

    /// `close_notify`, then the TCP half-close: the client may go on sending.
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.close_notify_sent {
            this.session.send_close_notify();
            this.close_notify_sent = true;
        }
        ready!(this.poll_send(cx))?;
        Pin::new(&mut this.socket).poll_shutdown(cx)
    }
}

impl leastconn::net::Stream for TlsStream {
    fn abort(&mut self) {
        self.socket.abort();
    }
}

impl HandshakeError {
    fn into_io(self) -> io::Error {
        match self {
            Self::Io(error) => error,
            Self::Closed => io::ErrorKind::UnexpectedEof.into(),
            Self::Tls(error) => io::Error::new(io::ErrorKind::InvalidData, error),
        }
    }
}
