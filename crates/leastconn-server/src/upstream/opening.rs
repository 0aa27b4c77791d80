//! What becomes of a fresh TCP connection to a server: TLS, if the upstream has it.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use leastconn::{
    Server, ServerId, UpstreamId,
    net::{Check, Prepare, Probe, Stream},
};
use rustls::ClientConfig;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf},
    net::TcpStream,
    time::timeout,
};

use super::troubles::{Phase, Troubles};
use leastconn_tls::settings::ClientSettings;

use crate::{
    config::UpstreamTls,
    tls::{self, TlsError, client::ClientStream},
};

/// A connection to a server.
pub enum ServerStream {
    /// As it is.
    Plain(TcpStream),
    /// Boxed: tasks hold and move streams.
    Tls(Box<Secured>),
}

/// TLS with the servers of one upstream.
#[derive(Debug)]
pub(super) struct Secure {
    upstream: UpstreamId,
    names: ClientSettings,
    config: Arc<ClientConfig>,
    troubles: Troubles,
}

impl Secure {
    pub(super) fn new(upstream: UpstreamId, tls: &UpstreamTls) -> Result<Self, TlsError> {
        Ok(Self {
            upstream,
            config: tls::client::client_config(&tls.settings)?,
            names: tls.settings.clone(),
            troubles: Troubles::default(),
        })
    }

    async fn shake_hands(
        self: &Arc<Self>,
        socket: TcpStream,
        server: &Server,
        alpn: Option<&str>,
    ) -> io::Result<Secured> {
        let name = self.names.name_of(server.address()).ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::InvalidInput,
                "no certificate can be for its host",
            )
        })?;
        let at = At {
            server: server.id().clone(),
            // A UNIX socket has none.
            port: socket.peer_addr().map_or(0, |address| address.port()),
        };
        match tls::client::connect(socket, Arc::clone(&self.config), name, alpn).await {
            Ok(stream) => {
                self.over(&at, Phase::Handshake);
                Ok(Secured {
                    stream,
                    secure: Arc::clone(self),
                    at,
                    heard: false,
                })
            }
            Err(error) => {
                self.trouble(&at, Phase::Handshake, &error);
                Err(error)
            }
        }
    }

    /// Says so, unless it was the last thing that was said of the server. What is not
    /// TLS' doing is for those to say who count it.
    fn trouble(&self, at: &At, phase: Phase, error: &io::Error) {
        if tls::client::is_failure(error) && self.troubles.begin(at, phase, error.to_string()) {
            let At { server, port } = at;
            tracing::warn!(upstream = %self.upstream, %server, port, %error, "TLS with the server fails");
        }
    }

    fn over(&self, at: &At, phase: Phase) {
        if self.troubles.end(at, phase) {
            let At { server, port } = at;
            tracing::info!(upstream = %self.upstream, %server, port, "TLS with the server works again");
        }
    }
}

/// What may have a certificate of its own: a server, or what its health is asked of.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct At {
    pub(super) server: ServerId,
    pub(super) port: u16,
}

/// TLS to a server, with what is to be said when it breaks.
pub struct Secured {
    stream: ClientStream,
    secure: Arc<Secure>,
    at: At,
    /// The server has sent something, and so has taken our certificate.
    heard: bool,
}

impl Secured {
    fn note(&mut self, error: &io::Error) {
        if !self.heard {
            self.secure.trouble(&self.at, Phase::Refused, error);
        }
    }

    /// Ends our side, and waits whether the server says that it refuses us: it may do
    /// so only after the handshake. A server that says nothing, or not in time, does not.
    async fn part(&mut self, patience: Duration) -> io::Result<()> {
        if !self.stream.may_yet_be_refused() {
            return Ok(());
        }
        let parting = timeout(patience, async {
            let _ = self.shutdown().await;
            self.read(&mut [0; 64]).await
        });
        match parting.await {
            Ok(Err(error)) if tls::client::is_failure(&error) => Err(error),
            _ => Ok(()),
        }
    }
}

/// The step from a TCP connection to what is relayed.
#[derive(Clone, Debug)]
pub struct Opening {
    secure: Option<Arc<Secure>>,
    /// The only application protocol that servers are offered.
    alpn: Option<Box<str>>,
}

impl Opening {
    pub(super) const fn new(secure: Option<Arc<Secure>>) -> Self {
        Self { secure, alpn: None }
    }

    /// The same for a client that agreed on the application protocol `alpn`. Where it is
    /// one that servers are offered, no other is: client and server must speak the same.
    pub fn for_client(&self, alpn: Option<&str>) -> Self {
        let secure = self.secure.clone();
        let offered = secure.as_ref().map(|secure| &secure.names.alpn);
        let alpn = alpn.filter(|alpn| offered.is_some_and(|offered| offered.contains(alpn)));
        Self {
            secure,
            alpn: alpn.map(Box::from),
        }
    }
}

impl Prepare for Opening {
    type Stream = ServerStream;

    async fn prepare(&self, socket: TcpStream, server: &Server) -> io::Result<ServerStream> {
        match &self.secure {
            None => Ok(ServerStream::Plain(socket)),
            Some(secure) => {
                let secured =
                    Box::pin(secure.shake_hands(socket, server, self.alpn.as_deref())).await?;
                Ok(ServerStream::Tls(Box::new(secured)))
            }
        }
    }
}

/// The same for a probe.
#[derive(Clone, Debug)]
pub(super) struct Probing {
    opening: Opening,
    /// Where nothing is asked of the server, how long it has to refuse us.
    patience: Option<Duration>,
}

impl Probing {
    pub(super) fn new(opening: Opening, check: &Check) -> Self {
        let asks_nothing = matches!(
            check.probe,
            Probe::Tcp {
                send: None,
                expect: None
            }
        );
        Self {
            opening,
            // The handshake needs time of the probe's as well.
            patience: asks_nothing.then(|| check.timeout / 4),
        }
    }
}

impl Prepare for Probing {
    type Stream = ServerStream;

    async fn prepare(&self, socket: TcpStream, server: &Server) -> io::Result<ServerStream> {
        let mut stream = self.opening.prepare(socket, server).await?;
        if let (Some(patience), ServerStream::Tls(secured)) = (self.patience, &mut stream) {
            secured.part(patience).await?;
        }
        Ok(stream)
    }
}

impl AsyncRead for Secured {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let result = ready!(Pin::new(&mut this.stream).poll_read(cx, buffer));
        match &result {
            Ok(()) if this.heard => {}
            Ok(()) => {
                this.heard = true;
                this.secure.over(&this.at, Phase::Refused);
            }
            Err(error) => this.note(error),
        }
        Poll::Ready(result)
    }
}

impl AsyncWrite for Secured {
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

macro_rules! either {
    ($self:expr, $stream:ident => $do:expr) => {
        match $self.get_mut() {
            Self::Plain(plain) => {
                let $stream = Pin::new(plain);
                $do
            }
            Self::Tls(secured) => {
                let $stream = Pin::new(&mut **secured);
                $do
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
        either!(self, stream => stream.poll_read(cx, buffer))
    }
}

impl AsyncWrite for ServerStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        either!(self, stream => stream.poll_write(cx, bytes))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, stream => stream.poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, stream => stream.poll_shutdown(cx))
    }
}

impl Stream for ServerStream {
    fn abort(&mut self) {
        match self {
            Self::Plain(plain) => plain.abort(),
            Self::Tls(secured) => secured.stream.abort(),
        }
    }

    fn poll_finish(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(plain) => Pin::new(plain).poll_finish(cx),
            Self::Tls(secured) => Pin::new(&mut secured.stream).poll_finish(cx),
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
            Self::Tls(secured) => secured.stream.socket(),
        }
    }
}
