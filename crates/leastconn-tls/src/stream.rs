//! The stream of an established connection, by one of two record layers.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use rustls::{CipherSuite, HandshakeKind, ProtocolVersion, pki_types::CertificateDer};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

use super::{buffered::Buffered, direct::Direct};

/// Plaintext that is read at once, and kept, while a server is being dialled.
const AHEAD: usize = 4 * 1024;

/// The server's side of an established TLS connection.
///
/// Reading tells an orderly end (`close_notify`) from a broken one: an end of
/// the TCP stream without it is [`io::ErrorKind::UnexpectedEof`].
pub struct TlsStream {
    records: Layer,
    /// Read while the server was being dialled: see [`leastconn::net::departed`].
    ahead: Option<Box<[u8]>>,
    /// Boxed, like the layers' own state: tasks hold and move streams.
    about: Box<About>,
}

/// What was negotiated, and with whom.
pub(super) struct About {
    pub(super) version: Option<ProtocolVersion>,
    pub(super) suite: Option<CipherSuite>,
    /// The leaf, then what came with it.
    pub(super) peer: Option<Vec<CertificateDer<'static>>>,
    /// Without a certificate or a proof of its key, by a session of before.
    pub(super) resumed: bool,
    /// The application protocol that was agreed on.
    pub(super) alpn: Option<Box<[u8]>>,
}

enum Layer {
    Direct(Direct<TcpStream>),
    Rustls(Box<Buffered>),
}

impl TlsStream {
    pub(super) fn rustls(stream: Buffered) -> Self {
        let session = stream.session();
        let suite = session.negotiated_cipher_suite();
        let peer = session.peer_certificates();
        Self {
            about: Box::new(About {
                version: session.protocol_version(),
                suite: suite.map(|suite| suite.suite()),
                peer: peer.map(owned),
                resumed: session.handshake_kind() == Some(HandshakeKind::Resumed),
                alpn: session.alpn_protocol().map(Box::from),
            }),
            records: Layer::Rustls(Box::new(stream)),
            ahead: None,
        }
    }

    pub(super) fn direct(stream: Direct<TcpStream>, about: About) -> Self {
        Self {
            records: Layer::Direct(stream),
            ahead: None,
            about: Box::new(about),
        }
    }

    pub(super) fn about(&self) -> &About {
        &self.about
    }

    /// Whether it goes on with a session of an earlier connection.
    pub fn is_resumed(&self) -> bool {
        self.about.resumed
    }

    /// The application protocol that was agreed on by ALPN, one of those configured.
    pub fn alpn(&self) -> Option<&str> {
        let name = self.about.alpn.as_deref();
        name.and_then(|name| str::from_utf8(name).ok())
    }

    /// The client's certificate and what came with it, if it has shown one:
    /// verified, and its own. Only once, so that nobody keeps it who does not need it.
    pub fn take_peer_chain(&mut self) -> Option<Vec<CertificateDer<'static>>> {
        self.about.peer.take()
    }

    /// Hands out what was read ahead.
    fn take_ahead(&mut self, buffer: &mut ReadBuf<'_>) {
        let Some(bytes) = self.ahead.take() else {
            return;
        };
        let (now, later) = bytes.split_at(bytes.len().min(buffer.remaining()));
        buffer.put_slice(now);
        if !later.is_empty() {
            self.ahead = Some(later.into());
        }
    }

    /// Gives up TLS, for closing.
    pub fn into_socket(self) -> TcpStream {
        match self.records {
            Layer::Direct(stream) => stream.into_socket(),
            Layer::Rustls(stream) => stream.into_socket(),
        }
    }
}

/// A copy of what rustls has.
pub(super) fn owned(chain: &[CertificateDer<'_>]) -> Vec<CertificateDer<'static>> {
    let owned = |der: &CertificateDer<'_>| der.clone().into_owned();
    chain.iter().map(owned).collect()
}

macro_rules! either {
    ($self:expr, $stream:ident => $do:expr) => {
        match &mut $self.get_mut().records {
            Layer::Direct($stream) => $do,
            Layer::Rustls(boxed) => {
                let $stream = &mut **boxed;
                $do
            }
        }
    };
}

impl AsyncRead for TlsStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.ahead.is_some() {
            self.get_mut().take_ahead(buffer);
            return Poll::Ready(Ok(()));
        }
        either!(self, stream => Pin::new(stream).poll_read(cx, buffer))
    }
}

impl AsyncWrite for TlsStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        either!(self, stream => Pin::new(stream).poll_write(cx, bytes))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, stream => Pin::new(stream).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, stream => Pin::new(stream).poll_shutdown(cx))
    }
}

impl leastconn::net::Stream for TlsStream {
    fn abort(&mut self) {
        match &mut self.records {
            Layer::Direct(stream) => stream.abort(),
            Layer::Rustls(stream) => stream.abort(),
        }
    }

    fn poll_finish(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, stream => Pin::new(stream).poll_finish(cx))
    }

    /// Reads, and keeps what it has read.
    fn poll_ahead(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        let this = self.get_mut();
        if this.ahead.is_some() {
            return Poll::Ready(Ok(true));
        }
        let mut bytes = [0; AHEAD];
        let mut buffer = ReadBuf::new(&mut bytes);
        ready!(Pin::new(&mut *this).poll_read(cx, &mut buffer))?;
        let read = buffer.filled();
        if !read.is_empty() {
            this.ahead = Some(read.into());
        }
        Poll::Ready(Ok(!read.is_empty()))
    }

    fn socket(&self) -> Option<&TcpStream> {
        match &self.records {
            Layer::Direct(stream) => stream.socket(),
            Layer::Rustls(stream) => stream.socket(),
        }
    }
}

#[cfg(test)]
mod tests;
