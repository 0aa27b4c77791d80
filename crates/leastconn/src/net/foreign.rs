//! An adapter for stream types from other crates.

use std::{
    fmt, io,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

use super::Stream;

/// Adapts any `AsyncRead + AsyncWrite` type to [`Stream`], for example another crate's TLS stream.
///
/// The inner stream must report errors as [`Stream`] requires. If the connection was closed without
/// the protocol's end marker, the error must be [`io::ErrorKind::UnexpectedEof`]. A protocol error
/// must be [`io::ErrorKind::InvalidData`]. The streams of `tokio-rustls` meet these requirements.
///
/// [`Stream::poll_ahead`] is not supported, so [`departed`](super::departed) does not notice if the
/// client leaves while a server is being dialled.
///
/// ```
/// use leastconn::net::{Foreign, Stream};
/// use tokio::{io::BufStream, net::TcpStream};
///
/// /// `BufStream` takes the place of a TLS stream over TCP.
/// fn relayed(stream: BufStream<TcpStream>) -> impl Stream {
///     Foreign::over_tcp(stream, |stream| stream.get_ref())
/// }
/// ```
pub struct Foreign<S> {
    stream: S,
    socket: Option<fn(&S) -> &TcpStream>,
}

impl<S> Foreign<S> {
    /// Wraps a stream that has no TCP socket. [`Stream::abort`] then does nothing, so the peer must
    /// recognise the drop of the stream as a failure. This is the case for a TLS stream that is
    /// dropped without `close_notify`.
    pub const fn new(stream: S) -> Self {
        Self {
            stream,
            socket: None,
        }
    }

    /// Wraps a stream over a TCP socket, which `socket` returns. [`Stream::abort`] resets the
    /// connection.
    pub const fn over_tcp(stream: S, socket: fn(&S) -> &TcpStream) -> Self {
        Self {
            stream,
            socket: Some(socket),
        }
    }

    /// Returns a reference to the inner stream.
    pub const fn get_ref(&self) -> &S {
        &self.stream
    }

    /// Consumes the adapter and returns the inner stream.
    pub fn into_inner(self) -> S {
        self.stream
    }
}

impl<S: fmt::Debug> fmt::Debug for Foreign<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Foreign").field(&self.stream).finish()
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Foreign<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Foreign<S> {
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

impl<S: AsyncRead + AsyncWrite + Unpin> Stream for Foreign<S> {
    fn abort(&mut self) {
        if let Some(socket) = self.socket() {
            // This fails only if the socket is already closed.
            let _ = socket.set_zero_linger();
        }
    }

    fn socket(&self) -> Option<&TcpStream> {
        self.socket.map(|socket| socket(&self.stream))
    }
}

#[cfg(test)]
mod tests {
    use leastconn_testkit::tcp_pair;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, BufStream};

    use super::*;
    use crate::{
        Reason,
        net::{RelayPolicy, Traffic, relay},
    };

    #[tokio::test]
    async fn foreign_streams_are_relayed() {
        let (mut client, downstream) = tokio::io::duplex(64);
        let (mut server, upstream) = tokio::io::duplex(64);
        let (mut downstream, mut upstream) = (Foreign::new(downstream), Foreign::new(upstream));
        let (policy, traffic) = (RelayPolicy::default(), Traffic::default());
        let relaying = relay(&mut downstream, &mut upstream, &policy, &traffic);
        let peers = async {
            client.write_all(b"question").await.unwrap();
            client.shutdown().await.unwrap();
            let mut text = String::new();
            server.read_to_string(&mut text).await.unwrap();
            assert_eq!(text, "question");
            server.shutdown().await.unwrap();
        };
        let (outcome, ()) = tokio::join!(relaying, peers);
        assert_eq!(outcome.reason, Reason::Ok);
    }

    /// A stream whose protocol fails at the first read.
    struct Broken;

    #[derive(Debug, thiserror::Error)]
    #[error("bad record")]
    struct BadRecord;

    impl AsyncRead for Broken {
        fn poll_read(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
            _: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, BadRecord)))
        }
    }

    impl AsyncWrite for Broken {
        fn poll_write(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            Poll::Ready(Ok(bytes.len()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[tokio::test]
    async fn relay_returns_the_error_of_the_protocol() {
        let (_server, upstream) = tokio::io::duplex(64);
        let (mut downstream, mut upstream) = (Foreign::new(Broken), Foreign::new(upstream));
        let (policy, traffic) = (RelayPolicy::default(), Traffic::default());
        let outcome = relay(&mut downstream, &mut upstream, &policy, &traffic).await;
        assert_eq!(outcome.reason, Reason::ProtocolError);
        assert!(outcome.server_error.is_none());
        let error = outcome.client_error.unwrap();
        assert!(error.get_ref().unwrap().is::<BadRecord>());
    }

    #[tokio::test]
    async fn abort_resets_the_tcp_connection() {
        let (mut peer, accepted) = tcp_pair().await;
        let stream = BufStream::new(accepted);
        let mut foreign = Foreign::over_tcp(stream, |stream| stream.get_ref());
        foreign.abort();
        drop(foreign);
        let error = peer.read(&mut [0]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    }
}
