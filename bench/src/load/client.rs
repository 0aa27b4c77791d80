//! One connection to the balancer, with or without TLS.

use std::{
    cell::Cell,
    io,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use rustls::{
    ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::{
        Resumption, WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf},
    net::{TcpSocket, TcpStream},
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::LoadError;
use crate::protocol::Request;

/// Time limit of each step.
pub(super) const TIMEOUT: Duration = Duration::from_secs(10);

/// Range of source ports for [`Target::from`].
const FIRST_PORT: u16 = 10_000;
const LAST_PORT: u16 = 60_000;

/// A client's certificate and key.
#[derive(Debug)]
pub struct Identity {
    /// The leaf, followed by intermediates.
    pub chain: Vec<CertificateDer<'static>>,
    pub key: PrivateKeyDer<'static>,
}

#[derive(Debug)]
pub struct TlsOptions {
    /// CAs trusted to issue the balancer's certificate.
    pub authorities: Vec<CertificateDer<'static>>,
    /// Client certificates, used in turn.
    pub identities: Vec<Identity>,
    /// Name in the balancer's certificate.
    pub server_name: String,
    /// Use TLS 1.2 instead of 1.3.
    pub tls12: bool,
    /// Use the post-quantum key exchange X25519MLKEM768 instead of X25519.
    pub post_quantum: bool,
    pub resume: bool,
    /// Do not verify the balancer's certificate, to save CPU time in the load generator.
    pub trusting: bool,
    /// Number of clients per identity. Each client stores its own TLS sessions.
    pub clients: usize,
}

#[derive(Clone, Debug)]
pub struct Tls {
    configs: Vec<Arc<ClientConfig>>,
    server_name: ServerName<'static>,
}

impl TlsOptions {
    /// Builds the TLS client configurations.
    ///
    /// # Errors
    /// If rustls rejects a setting.
    pub fn build(self) -> Result<Tls, LoadError> {
        let mut roots = RootCertStore::empty();
        for authority in self.authorities {
            roots.add(authority)?;
        }
        let roots = Arc::new(roots);
        // Offer a single group, so that all balancers do the same work. The default group is
        // not post-quantum, because some balancers do not support post-quantum groups.
        let group = if self.post_quantum {
            aws_lc_rs::kx_group::X25519MLKEM768
        } else {
            aws_lc_rs::kx_group::X25519
        };
        let provider = Arc::new(CryptoProvider {
            kx_groups: vec![group],
            ..aws_lc_rs::default_provider()
        });
        let version = if self.tls12 {
            &rustls::version::TLS12
        } else {
            &rustls::version::TLS13
        };
        let verifier: Arc<dyn ServerCertVerifier> = if self.trusting {
            Arc::new(NoVerification(Arc::clone(&provider)))
        } else {
            WebPkiServerVerifier::builder_with_provider(roots, Arc::clone(&provider)).build()?
        };
        let builder = || {
            let builder = ClientConfig::builder_with_provider(Arc::clone(&provider));
            Ok::<_, rustls::Error>(
                builder
                    .with_protocol_versions(&[version])?
                    .dangerous()
                    .with_custom_certificate_verifier(Arc::clone(&verifier)),
            )
        };
        let finish = |mut config: ClientConfig| {
            if !self.resume {
                config.resumption = Resumption::disabled();
            }
            Arc::new(config)
        };
        let mut configs = Vec::new();
        for Identity { chain, key } in self.identities {
            for _ in 0..self.clients {
                let (chain, key) = (chain.clone(), key.clone_key());
                configs.push(finish(builder()?.with_client_auth_cert(chain, key)?));
            }
        }
        if configs.is_empty() {
            configs.push(finish(builder()?.with_no_client_auth()));
        }
        let server_name = ServerName::try_from(self.server_name)
            .map_err(|_| LoadError::Usage("--server-name is not a name"))?;
        Ok(Tls {
            configs,
            server_name,
        })
    }
}

/// State of Nagle's algorithm. While it is on, the kernel delays small segments until earlier data
/// is acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nagle {
    /// Nagle's algorithm is on, as it is for sockets by default.
    On,
    /// `TCP_NODELAY`.
    Off,
}

/// The balancer's address, and how to connect to it.
#[derive(Clone, Debug)]
pub struct Target {
    pub address: SocketAddr,
    pub tls: Option<Tls>,
    /// Whether to start with a [`Request`], which `leastconn-bench servers` needs.
    pub announce: bool,
    pub from: Option<IpAddr>,
}

/// A verifier that accepts any certificate. The load contains no confidential data, so
/// verification is not needed.
#[derive(Debug)]
struct NoVerification(Arc<CryptoProvider>);

impl ServerCertVerifier for NoVerification {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

thread_local! {
    static NEXT_IDENTITY: Cell<usize> = const { Cell::new(0) };
    static NEXT_PORT: Cell<u16> = const { Cell::new(FIRST_PORT) };
}

impl Target {
    /// Connects, and performs the TLS handshake.
    ///
    /// # Errors
    /// The [`Failure`] contains the step that failed.
    pub async fn connect(&self) -> Result<Connection, Failure> {
        self.connect_with(Nagle::Off).await
    }

    /// Like [`Self::connect`], with or without Nagle's algorithm.
    ///
    /// # Errors
    /// The [`Failure`] contains the step that failed.
    pub async fn connect_with(&self, nagle: Nagle) -> Result<Connection, Failure> {
        let socket = bounded(Step::Connect, self.dial()).await?;
        socket
            .set_nodelay(nagle == Nagle::Off)
            .map_err(Failure::at(Step::Connect))?;
        let Some(tls) = &self.tls else {
            return Ok(Connection::Plain(socket));
        };
        let number = NEXT_IDENTITY.replace(NEXT_IDENTITY.get().wrapping_add(1));
        let config = Arc::clone(&tls.configs[number % tls.configs.len()]);
        let connecting = TlsConnector::from(config).connect(tls.server_name.clone(), socket);
        let stream = bounded(Step::Handshake, connecting).await?;
        Ok(Connection::Tls(Box::new(stream)))
    }

    async fn dial(&self) -> io::Result<TcpStream> {
        let Some(from) = self.from else {
            return TcpStream::connect(self.address).await;
        };
        // Bind to an explicit port. With SO_REUSEADDR, an explicit port can be reused while it
        // is in TIME_WAIT. With port 0, the kernel does not reuse ports in TIME_WAIT, and soon
        // has no free port.
        loop {
            let port = NEXT_PORT.replace(match NEXT_PORT.get() {
                LAST_PORT.. => FIRST_PORT,
                port => port + 1,
            });
            let socket = match from {
                IpAddr::V4(_) => TcpSocket::new_v4()?,
                IpAddr::V6(_) => TcpSocket::new_v6()?,
            };
            socket.set_reuseaddr(true)?;
            let taken = |error: &io::Error| {
                use io::ErrorKind::{AddrInUse, AddrNotAvailable};
                matches!(error.kind(), AddrInUse | AddrNotAvailable)
            };
            match socket.bind(SocketAddr::new(from, port)) {
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => continue,
                bound => bound?,
            }
            match socket.connect(self.address).await {
                Err(error) if taken(&error) => {}
                connected => return connected,
            }
        }
    }

    /// Connects and sends only a ClientHello.
    ///
    /// # Errors
    /// The [`Failure`] contains the step that failed.
    pub async fn stall(&self) -> Result<TcpStream, Failure> {
        let mut socket = bounded(Step::Connect, self.dial()).await?;
        if let Some(tls) = &self.tls {
            let config = Arc::clone(&tls.configs[0]);
            let sent = async {
                let name = tls.server_name.clone();
                let mut session =
                    rustls::ClientConnection::new(config, name).map_err(io::Error::other)?;
                let mut hello = Vec::new();
                session.write_tls(&mut hello)?;
                socket.write_all(&hello).await
            };
            bounded(Step::Handshake, sent).await?;
        }
        Ok(socket)
    }

    /// Connects with TLS and waits until the balancer refuses the client.
    ///
    /// # Errors
    /// If connecting fails, or the balancer accepts the client.
    pub async fn expect_refusal(&self) -> Result<(), Failure> {
        match self.connect().await {
            Err(failure) if failure.step == Step::Handshake => Ok(()),
            Err(failure) => Err(failure),
            // In TLS 1.3 the client's handshake completes before the refusal arrives.
            Ok(mut connection) => {
                let mut first = [0];
                bounded(Step::Handshake, async {
                    match connection.read(&mut first).await {
                        Ok(1..) => Err(io::Error::other("client was accepted")),
                        _ => Ok(()),
                    }
                })
                .await
            }
        }
    }

    /// Connects and echoes once. The echo proves that the balancer has connected to a
    /// server.
    ///
    /// # Errors
    /// The [`Failure`] contains the step that failed.
    pub async fn connect_and_echo(&self, payload: &[u8]) -> Result<Connection, Failure> {
        let mut connection = self.connect().await?;
        self.echo_first(&mut connection, payload).await?;
        Ok(connection)
    }

    /// Performs the first echo on a new connection.
    ///
    /// # Errors
    /// The [`Failure`] contains the step that failed.
    pub async fn echo_first(
        &self,
        connection: &mut Connection,
        payload: &[u8],
    ) -> Result<(), Failure> {
        let mut first = if self.announce {
            Request::Echo.encode()
        } else {
            Vec::new()
        };
        first.extend_from_slice(payload);
        echo(connection, &first, payload).await
    }
}

/// Sends `message`, and expects `response`.
///
/// # Errors
/// If something else is received.
pub async fn echo(
    connection: &mut Connection,
    message: &[u8],
    response: &[u8],
) -> Result<(), Failure> {
    bounded(Step::Echo, async {
        connection.write_all(message).await?;
        connection.flush().await?;
        let mut got = [0; 1024];
        let mut left = response;
        while !left.is_empty() {
            let want = left.len().min(got.len());
            let count = connection.read(&mut got[..want]).await?;
            if count == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            if got[..count] != left[..count] {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "wrong bytes"));
            }
            left = &left[count..];
        }
        Ok(())
    })
    .await
}

/// Closes the client's side, and waits for the balancer to close its side, so that the
/// measurement includes the cost of closing.
///
/// # Errors
/// If the balancer does not close within the time limit. A missing `close_notify` is not an
/// error, because not all balancers send it.
pub async fn close(mut connection: Connection) -> Result<(), Failure> {
    bounded(Step::Close, async {
        let _ = connection.shutdown().await;
        let mut rest = [0; 256];
        while let Ok(1..) = connection.read(&mut rest).await {}
        Ok(())
    })
    .await
}

/// The step at which a connection failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    Connect,
    Handshake,
    Echo,
    Stream,
    Close,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Failure {
    step: Step,
    kind: String,
}

impl Failure {
    /// Returns a function that converts an I/O error into a failure of `step`.
    pub fn at(step: Step) -> impl Fn(io::Error) -> Self {
        move |error| {
            let tls = error
                .get_ref()
                .and_then(|inner| inner.downcast_ref::<rustls::Error>());
            let kind = match tls {
                Some(tls) => tls.to_string(),
                None => error.kind().to_string(),
            };
            Self { step, kind }
        }
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let step = match self.step {
            Step::Connect => "connect",
            Step::Handshake => "handshake",
            Step::Echo => "echo",
            Step::Stream => "stream",
            Step::Close => "close",
        };
        write!(f, "{step}: {}", self.kind)
    }
}

async fn bounded<T>(step: Step, future: impl Future<Output = io::Result<T>>) -> Result<T, Failure> {
    match timeout(TIMEOUT, future).await {
        Ok(result) => result.map_err(Failure::at(step)),
        Err(_) => Err(Failure {
            step,
            kind: format!("timed out after {TIMEOUT:?}"),
        }),
    }
}

#[derive(Debug)]
pub enum Connection {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Connection {
    /// Whether the TLS session was resumed.
    pub fn is_resumed(&self) -> bool {
        match self {
            Self::Plain(_) => false,
            Self::Tls(stream) => {
                stream.get_ref().1.handshake_kind() == Some(rustls::HandshakeKind::Resumed)
            }
        }
    }

    /// The negotiated TLS version and cipher suite: `TLSv1_3 TLS13_AES_128_GCM_SHA256`.
    pub fn negotiated(&self) -> String {
        match self {
            Self::Plain(_) => "plain".to_owned(),
            Self::Tls(stream) => {
                let session = stream.get_ref().1;
                let version = session.protocol_version().and_then(|v| v.as_str());
                let suite = session.negotiated_cipher_suite();
                let suite = suite.and_then(|suite| suite.suite().as_str());
                format!("{} {}", version.unwrap_or("?"), suite.unwrap_or("?"))
            }
        }
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
