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

use super::Trouble;

/// Somebody with a certificate.
#[derive(Clone)]
pub(super) struct Client {
    connector: TlsConnector,
    balancer: SocketAddr,
}

/// A connection, as the client sees it.
pub(super) struct Call {
    /// The client's own address, by which the access log knows it.
    pub(super) source: SocketAddr,
    /// The server that greeted, if one did.
    pub(super) server: Option<String>,
    stream: Option<BufReader<TlsStream<TcpStream>>>,
}

impl Call {
    /// Says good-bye, and waits for the other side to do the same.
    pub(super) async fn hang_up(self) {
        let Some(mut stream) = self.stream else {
            return;
        };
        if stream.shutdown().await.is_ok() {
            let _ = timeout(Duration::from_secs(1), stream.read_to_end(&mut Vec::new())).await;
        }
    }
}

/// Hangs up all of them.
pub(super) async fn hang_up(calls: impl IntoIterator<Item = Call>) {
    let mut calls: JoinSet<()> = calls.into_iter().map(Call::hang_up).collect();
    while calls.join_next().await.is_some() {}
}

impl Client {
    /// A client with the certificate `name` in `dir`, that trusts `trusted`.
    pub(super) fn new(
        name: &'static str,
        dir: &Path,
        trusted: &Path,
        balancer: SocketAddr,
    ) -> Result<Self, Trouble> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(trusted)?)?;
        let certificate = CertificateDer::from_pem_file(dir.join(format!("{name}.crt")))?;
        let key = PrivateKeyDer::from_pem_file(dir.join(format!("{name}.key")))?;
        let mut provider = rustls::crypto::aws_lc_rs::default_provider();
        // First the group that the balancer prefers, which saves a round trip.
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

    /// Connects and waits for a server's greeting, or for being turned away.
    pub(super) async fn call(&self) -> io::Result<Call> {
        let socket = TcpStream::connect(self.balancer).await?;
        let source = socket.local_addr()?;
        let refused = Call {
            source,
            server: None,
            stream: None,
        };
        // "localhost" is a valid name.
        let Ok(name) = ServerName::try_from("localhost") else {
            return Ok(refused);
        };
        let Ok(stream) = self.connector.connect(name, socket).await else {
            return Ok(refused);
        };
        let mut stream = BufReader::with_capacity(256, stream);
        let mut greeting = String::new();
        match stream.read_line(&mut greeting).await {
            Ok(count) if count > 0 => Ok(Call {
                source,
                server: Some(greeting.trim_end().to_owned()),
                stream: Some(stream),
            }),
            _ => Ok(refused),
        }
    }
}
