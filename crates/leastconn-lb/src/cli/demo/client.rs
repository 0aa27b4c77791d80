//! The demo's clients.

use std::{io, net::SocketAddr, path::Path, sync::Arc, time::Duration};

use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
    task::JoinSet,
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::DemoError;

/// A client with a certificate.
#[derive(Clone)]
pub(super) struct Client {
    connector: TlsConnector,
    balancer: SocketAddr,
}

/// The result of a client's connection attempt.
pub(super) struct Connection {
    /// The client's address as it appears in the access log.
    pub(super) source: SocketAddr,
    /// Name of the server, from its greeting; `None` if the connection was refused.
    pub(super) server: Option<String>,
    stream: Option<BufReader<TlsStream<TcpStream>>>,
}

impl Connection {
    /// Sends close_notify and waits until the balancer closes the connection.
    pub(super) async fn close(self) {
        let Some(mut stream) = self.stream else {
            return;
        };
        if stream.shutdown().await.is_ok() {
            let _ = timeout(Duration::from_secs(1), stream.read_to_end(&mut Vec::new())).await;
        }
    }
}

pub(super) async fn close_all(connections: impl IntoIterator<Item = Connection>) {
    let mut closing: JoinSet<()> = connections.into_iter().map(Connection::close).collect();
    while closing.join_next().await.is_some() {}
}

impl Client {
    /// A client with the certificate `name` in `dir` that trusts the CA file `trusted`.
    pub(super) fn new(
        name: &'static str,
        dir: &Path,
        trusted: &Path,
        balancer: SocketAddr,
    ) -> Result<Self, DemoError> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(trusted)?)?;
        let certificate = CertificateDer::from_pem_file(dir.join(format!("{name}.crt")))?;
        let key = PrivateKeyDer::from_pem_file(dir.join(format!("{name}.key")))?;
        let mut provider = rustls::crypto::aws_lc_rs::default_provider();
        // Put the group that the balancer prefers first, so that it sends no
        // HelloRetryRequest.
        provider
            .kx_groups
            .sort_by_key(|group| group.name() != rustls::NamedGroup::X25519MLKEM768);
        let provider = Arc::new(provider);
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_client_auth_cert(vec![certificate], key)?;
        Ok(Self {
            connector: TlsConnector::from(Arc::new(config)),
            balancer,
        })
    }

    /// Connects and waits for the server's greeting or a refusal.
    pub(super) async fn connect(&self) -> io::Result<Connection> {
        let socket = TcpStream::connect(self.balancer).await?;
        let source = socket.local_addr()?;
        let refused = Connection {
            source,
            server: None,
            stream: None,
        };
        // This never fails: "localhost" is a valid DNS name.
        let Ok(name) = ServerName::try_from("localhost") else {
            return Ok(refused);
        };
        let Ok(stream) = self.connector.connect(name, socket).await else {
            return Ok(refused);
        };
        let mut stream = BufReader::with_capacity(256, stream);
        let mut greeting = String::new();
        match stream.read_line(&mut greeting).await {
            Ok(count) if count > 0 => Ok(Connection {
                source,
                server: Some(greeting.trim_end().to_owned()),
                stream: Some(stream),
            }),
            _ => Ok(refused),
        }
    }
}
