//! The stream of an established connection with a client, over one of two record layers.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use rustls::{CipherSuite, HandshakeKind, pki_types::CertificateDer};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

use super::{
    buffered::Buffered,
    direct::DirectStream,
    negotiated::{Negotiated, to_owned, version_name},
};

/// Maximum bytes of plaintext that are read in advance, while the server is being dialled.
const AHEAD: usize = 4 * 1024;

/// The server's side of an established TLS connection.
///
/// Reading distinguishes an orderly end (`close_notify`) from a truncation: if the TCP
/// stream ends without `close_notify`, reading fails with [`io::ErrorKind::UnexpectedEof`].
pub struct TlsStream {
    records: Records,
    /// Bytes that were read in advance: see [`leastconn::net::departed`].
    ahead: Option<Box<[u8]>>,
    /// Boxed, so that a stream is small and cheap to move.
    negotiated: Box<Negotiated>,
}

/// The record layer that the listener is configured with.
enum Records {
    Direct(DirectStream<TcpStream>),
    Rustls(Box<Buffered>),
}

impl TlsStream {
    pub(super) fn rustls(stream: Buffered) -> Self {
        let session = stream.session();
        let suite = session.negotiated_cipher_suite();
        let peer = session.peer_certificates();
        Self {
            negotiated: Box::new(Negotiated {
                version: session.protocol_version(),
                suite: suite.map(|suite| suite.suite()),
                peer: peer.map(to_owned),
                resumed: session.handshake_kind() == Some(HandshakeKind::Resumed),
                alpn: session.alpn_protocol().map(Box::from),
            }),
            records: Records::Rustls(Box::new(stream)),
            ahead: None,
        }
    }

    pub(super) fn direct(stream: DirectStream<TcpStream>, negotiated: Negotiated) -> Self {
        Self {
            records: Records::Direct(stream),
            ahead: None,
            negotiated: Box::new(negotiated),
        }
    }

    pub(super) fn negotiated(&self) -> &Negotiated {
        &self.negotiated
    }

    /// Whether the client resumed a session of an earlier connection.
    pub fn is_resumed(&self) -> bool {
        self.negotiated.resumed
    }

    /// The application protocol negotiated by ALPN.
    pub fn alpn(&self) -> Option<&str> {
        let name = self.negotiated.alpn.as_deref();
        name.and_then(|name| str::from_utf8(name).ok())
    }

    /// Takes the client's certificate and intermediates out of the stream. Returns `None` if
    /// the client presented no certificate. The chain was verified, and the client has proven
    /// possession of the key.
    pub fn take_peer_chain(&mut self) -> Option<Vec<CertificateDer<'static>>> {
        self.negotiated.peer.take()
    }

    /// Moves bytes that were read in advance into `buffer`.
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

    /// Drops the TLS state and returns the socket, to be closed.
    pub fn into_socket(self) -> TcpStream {
        match self.records {
            Records::Direct(stream) => stream.into_socket(),
            Records::Rustls(stream) => stream.into_socket(),
        }
    }
}

/// Evaluates an expression with the record layer of a [`TlsStream`].
macro_rules! records {
    ($this:expr, $stream:ident => $do:expr) => {
        match &mut $this.records {
            Records::Direct($stream) => $do,
            Records::Rustls(boxed) => {
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
        records!(self.get_mut(), stream => Pin::new(stream).poll_read(cx, buffer))
    }
}

impl AsyncWrite for TlsStream {
    delegate_write!(records);
}

impl leastconn::net::Stream for TlsStream {
    delegate_end!(records);

    /// Reads up to [`AHEAD`] bytes, which the next read returns.
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
            Records::Direct(stream) => stream.socket(),
            Records::Rustls(stream) => stream.socket(),
        }
    }
}

/// TLS version and cipher suite of an established connection, for the access log.
pub fn negotiated(stream: &TlsStream) -> (&'static str, &'static str) {
    let version = stream.negotiated().version;
    let version = version.map_or("unknown", version_name);
    let cipher = match stream.negotiated().suite {
        // rustls calls these suites `TLS13_…`, and IANA calls them `TLS_…`.
        Some(CipherSuite::TLS13_AES_128_GCM_SHA256) => "TLS_AES_128_GCM_SHA256",
        Some(CipherSuite::TLS13_AES_256_GCM_SHA384) => "TLS_AES_256_GCM_SHA384",
        Some(CipherSuite::TLS13_CHACHA20_POLY1305_SHA256) => "TLS_CHACHA20_POLY1305_SHA256",
        Some(other) => other.as_str().unwrap_or("unknown"),
        None => "unknown",
    };
    (version, cipher)
}

#[cfg(test)]
mod tests;
