//! A TLS client, with or without a certificate.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::ServerName;
use rustls::{AlertDescription, ClientConfig, RootCertStore, SupportedProtocolVersion};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
pub use tokio_rustls::client::TlsStream;

use crate::DEADLINE;
use crate::pki::{Cert, TestCa};

/// A client that trusts one CA. The default server name is `localhost`.
#[derive(Clone)]
pub struct TlsClient {
    roots: Arc<RootCertStore>,
    cert: Option<Cert>,
    versions: Vec<&'static SupportedProtocolVersion>,
    resume: bool,
    alpn: Vec<Vec<u8>>,
    config: Arc<ClientConfig>,
}

impl TlsClient {
    /// Creates a client for TLS 1.2 and 1.3. The client does not resume sessions, so it
    /// presents its certificate in every handshake.
    pub fn new(ca: &TestCa, cert: Option<&Cert>) -> Self {
        let mut roots = RootCertStore::empty();
        roots.add(ca.cert().der().clone()).unwrap();
        let roots = Arc::new(roots);
        let (versions, cert) = (rustls::ALL_VERSIONS.to_vec(), cert.cloned());
        let config = configure(&roots, cert.as_ref(), &versions, false);
        Self {
            roots,
            cert,
            versions,
            resume: false,
            alpn: Vec::new(),
            config,
        }
    }

    fn rebuilt(mut self) -> Self {
        let mut config = ClientConfig::clone(&configure(
            &self.roots,
            self.cert.as_ref(),
            &self.versions,
            self.resume,
        ));
        config.alpn_protocols.clone_from(&self.alpn);
        self.config = Arc::new(config);
        self
    }

    pub fn tls12(mut self) -> Self {
        self.versions = vec![&rustls::version::TLS12];
        self.rebuilt()
    }

    pub fn tls13(mut self) -> Self {
        self.versions = vec![&rustls::version::TLS13];
        self.rebuilt()
    }

    pub fn with_resumption(mut self) -> Self {
        self.resume = true;
        self.rebuilt()
    }

    /// Offers these application protocols (ALPN).
    pub fn alpn(mut self, protocols: &[&str]) -> Self {
        self.alpn = protocols
            .iter()
            .map(|name| name.as_bytes().to_vec())
            .collect();
        self.rebuilt()
    }

    /// Connects to `addr` and completes the client's handshake. In TLS 1.3, the server may
    /// refuse the certificate after the client's handshake. The first read then fails.
    ///
    /// # Errors
    /// If connecting or the handshake fails; see [`alert`].
    pub async fn connect(&self, addr: SocketAddr) -> io::Result<TlsStream<TcpStream>> {
        self.connect_sni(addr, "localhost").await
    }

    /// As [`Self::connect`], with `name` as the server name (SNI).
    ///
    /// # Errors
    /// As [`Self::connect`].
    pub async fn connect_sni(
        &self,
        addr: SocketAddr,
        name: &str,
    ) -> io::Result<TlsStream<TcpStream>> {
        limited(async {
            let tcp = TcpStream::connect(addr).await?;
            tcp.set_nodelay(true)?;
            self.handshake(tcp, name).await
        })
        .await
    }

    /// Performs only the handshake, over any transport.
    ///
    /// # Errors
    /// If the handshake fails.
    pub async fn handshake<S>(&self, transport: S, name: &str) -> io::Result<TlsStream<S>>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let name = ServerName::try_from(name.to_owned()).expect("a DNS name");
        TlsConnector::from(Arc::clone(&self.config))
            .connect(name, transport)
            .await
    }
}

fn configure(
    roots: &Arc<RootCertStore>,
    cert: Option<&Cert>,
    versions: &[&'static SupportedProtocolVersion],
    resume: bool,
) -> Arc<ClientConfig> {
    // Use a fast key exchange. The post-quantum default is slower and needs a larger
    // ClientHello.
    let provider = CryptoProvider {
        kx_groups: vec![aws_lc_rs::kx_group::X25519],
        ..aws_lc_rs::default_provider()
    };
    let builder = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(Arc::clone(roots));
    let mut config = match cert {
        Some(cert) => builder.with_client_cert_resolver(cert.resolver()),
        None => builder.with_no_client_auth(),
    };
    if !resume {
        config.resumption = Resumption::disabled();
    }
    Arc::new(config)
}

async fn limited<T>(future: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    tokio::time::timeout(DEADLINE, future)
        .await
        .unwrap_or_else(|_| {
            Err(io::Error::new(
                io::ErrorKind::TimedOut,
                "the test's deadline",
            ))
        })
}

/// Sends `bytes` and concurrently reads the same number of bytes, so that `bytes` may be
/// larger than all buffers on the path.
///
/// # Errors
/// Errors of either direction; `TimedOut` after [`DEADLINE`].
pub async fn roundtrip<S>(stream: &mut S, bytes: &[u8]) -> io::Result<Vec<u8>>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (mut reader, mut writer) = tokio::io::split(stream);
    let mut response = vec![0; bytes.len()];
    let send = async {
        writer.write_all(bytes).await?;
        writer.flush().await
    };
    limited(async {
        tokio::try_join!(send, reader.read_exact(&mut response))?;
        Ok(())
    })
    .await?;
    Ok(response)
}

/// Reads until the peer closes its side.
///
/// # Errors
/// On an alert, a reset, or an end without `close_notify`; `TimedOut` after [`DEADLINE`].
pub async fn read_to_close<S: AsyncRead + Unpin>(stream: &mut S) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    limited(stream.read_to_end(&mut bytes)).await?;
    Ok(bytes)
}

/// Reads a line, and returns it without the line feed.
///
/// # Errors
/// `UnexpectedEof` if the stream ends first; `TimedOut` after [`DEADLINE`].
pub async fn read_line<S: AsyncRead + Unpin>(stream: &mut S) -> io::Result<String> {
    let mut line = Vec::new();
    limited(async {
        loop {
            // Read byte by byte, because data after the line must stay in the stream.
            match stream.read_u8().await? {
                b'\n' => return Ok(()),
                byte => line.push(byte),
            }
        }
    })
    .await?;
    String::from_utf8(line).map_err(io::Error::other)
}

/// The alert from the peer that caused an error. `None` if the error has another cause.
pub fn alert(error: &io::Error) -> Option<AlertDescription> {
    match error.get_ref()?.downcast_ref()? {
        rustls::Error::AlertReceived(alert) => Some(*alert),
        _ => None,
    }
}
