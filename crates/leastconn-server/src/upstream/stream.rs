//! The stream to a server, plain or with TLS.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use leastconn::net::Stream;
use leastconn_tls::client::ClientStream;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf},
    net::TcpStream,
    time::timeout,
};

use super::tls_failures::{Endpoint, Phase, TlsFailures};

/// A prepared connection to a server.
pub enum ServerStream {
    Plain(TcpStream),
    /// Boxed to keep streams small, because tasks hold and move them.
    Tls(Box<TlsStream>),
}

/// A TLS connection to a server. Logs when the server rejects the client certificate.
pub struct TlsStream {
    stream: ClientStream,
    failures: Arc<TlsFailures>,
    endpoint: Endpoint,
    /// The server has sent data, so it has accepted the client certificate.
    has_received: bool,
}

impl TlsStream {
    pub(super) const fn new(
        stream: ClientStream,
        failures: Arc<TlsFailures>,
        endpoint: Endpoint,
    ) -> Self {
        Self {
            stream,
            failures,
            endpoint,
            has_received: false,
        }
    }

    fn log_error(&self, error: &io::Error) {
        if !self.has_received {
            self.failures
                .log_failure(&self.endpoint, Phase::AfterHandshake, error);
        }
    }

    /// Closes the write side and waits up to `limit` for the server to reject the client
    /// certificate, which it may do only after the handshake. A server that sends nothing in
    /// time is assumed to have accepted the certificate.
    pub(super) async fn check_rejection(&mut self, limit: Duration) -> io::Result<()> {
        if !self.stream.may_still_be_refused() {
            return Ok(());
        }
        let response = timeout(limit, async {
            let _ = self.shutdown().await;
            self.read(&mut [0; 64]).await
        });
        match response.await {
            Ok(Err(error)) if leastconn_tls::client::is_failure(&error) => Err(error),
            _ => Ok(()),
        }
    }
}

impl AsyncRead for TlsStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let result = ready!(Pin::new(&mut this.stream).poll_read(cx, buffer));
        match &result {
            Ok(()) if this.has_received => {}
            Ok(()) => {
                this.has_received = true;
                this.failures
                    .log_success(&this.endpoint, Phase::AfterHandshake);
            }
            Err(error) => this.log_error(error),
        }
        Poll::Ready(result)
    }
}

impl AsyncWrite for TlsStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

macro_rules! delegate {
    ($self:expr, $stream:ident => $call:expr) => {
        match $self.get_mut() {
            Self::Plain(plain) => {
                let $stream = Pin::new(plain);
                $call
            }
            Self::Tls(tls) => {
                let $stream = Pin::new(&mut **tls);
                $call
            }
        }
    };
}

impl AsyncRead for ServerStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        delegate!(self, stream => stream.poll_read(cx, buffer))
    }
}

impl AsyncWrite for ServerStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        delegate!(self, stream => stream.poll_write(cx, bytes))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        delegate!(self, stream => stream.poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        delegate!(self, stream => stream.poll_shutdown(cx))
    }
}

impl Stream for ServerStream {
    fn abort(&mut self) {
        match self {
            Self::Plain(plain) => plain.abort(),
            Self::Tls(tls) => tls.stream.abort(),
        }
    }

    fn poll_finish(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(plain) => Pin::new(plain).poll_finish(cx),
            Self::Tls(tls) => Pin::new(&mut tls.stream).poll_finish(cx),
        }
    }

    fn as_tcp(&self) -> Option<&TcpStream> {
        match self {
            Self::Plain(plain) => Some(plain),
            Self::Tls(_) => None,
        }
    }

    fn socket(&self) -> Option<&TcpStream> {
        match self {
            Self::Plain(plain) => Some(plain),
            Self::Tls(tls) => tls.stream.socket(),
        }
    }
}
