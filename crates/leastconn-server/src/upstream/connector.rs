//! Prepares a new TCP connection to a server: with TLS, if the upstream is configured for it.

use std::{io, sync::Arc, time::Duration};

use leastconn::{
    Server, UpstreamId,
    net::{Check, Prepare, Probe},
};
use leastconn_config::UpstreamTls;
use leastconn_tls::TlsError;
use leastconn_tls::settings::ClientSettings;
use rustls::ClientConfig;
use tokio::net::TcpStream;

use super::{
    stream::{ServerStream, TlsStream},
    tls_failures::{Endpoint, Phase, TlsFailures},
};

/// Establishes TLS to the servers of one upstream.
#[derive(Debug)]
pub(super) struct TlsConnector {
    settings: ClientSettings,
    config: Arc<ClientConfig>,
    failures: Arc<TlsFailures>,
}

impl TlsConnector {
    pub(super) fn new(upstream: UpstreamId, tls: &UpstreamTls) -> Result<Self, TlsError> {
        Ok(Self {
            config: leastconn_tls::client::client_config(&tls.settings)?,
            settings: tls.settings.clone(),
            failures: Arc::new(TlsFailures::new(upstream)),
        })
    }

    async fn connect(
        &self,
        socket: TcpStream,
        server: &Server,
        alpn: Option<&str>,
    ) -> io::Result<TlsStream> {
        let name = self.settings.name_of(server.address()).ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::InvalidInput,
                "the server's host is not a name or address that a certificate can contain",
            )
        })?;
        let endpoint = Endpoint {
            server: server.id().clone(),
            // UNIX sockets have no port.
            port: socket.peer_addr().map_or(0, |address| address.port()),
        };
        match leastconn_tls::client::connect(socket, Arc::clone(&self.config), name, alpn).await {
            Ok(stream) => {
                self.failures.log_success(&endpoint, Phase::Handshake);
                Ok(TlsStream::new(stream, Arc::clone(&self.failures), endpoint))
            }
            Err(error) => {
                self.failures
                    .log_failure(&endpoint, Phase::Handshake, &error);
                Err(error)
            }
        }
    }
}

/// Turns a TCP connection to a server into the stream that is relayed.
#[derive(Clone, Debug)]
pub struct UpstreamConnector {
    tls: Option<Arc<TlsConnector>>,
    /// The only application protocol to offer to the server. `None` means that the configured
    /// protocols are offered.
    alpn: Option<Box<str>>,
}

impl UpstreamConnector {
    pub(super) const fn new(tls: Option<Arc<TlsConnector>>) -> Self {
        Self { tls, alpn: None }
    }

    /// Returns the connector for a client that negotiated the application protocol `alpn`. If the
    /// upstream is configured to offer this protocol, the connector offers no other, because client
    /// and server must speak the same protocol.
    pub fn for_client(&self, alpn: Option<&str>) -> Self {
        let tls = self.tls.clone();
        let offered = tls.as_ref().map(|tls| &tls.settings.alpn);
        let alpn = alpn.filter(|alpn| offered.is_some_and(|offered| offered.contains(alpn)));
        Self {
            tls,
            alpn: alpn.map(Box::from),
        }
    }
}

impl Prepare for UpstreamConnector {
    type Stream = ServerStream;

    async fn prepare(&self, socket: TcpStream, server: &Server) -> io::Result<ServerStream> {
        match &self.tls {
            None => Ok(ServerStream::Plain(socket)),
            Some(tls) => {
                let stream = Box::pin(tls.connect(socket, server, self.alpn.as_deref())).await?;
                Ok(ServerStream::Tls(Box::new(stream)))
            }
        }
    }
}

/// The connector for health checks.
#[derive(Clone, Debug)]
pub(super) struct ProbeConnector {
    connector: UpstreamConnector,
    /// How long to wait for the server to reject the client certificate. `None` if the probe
    /// exchanges data, which also shows whether the server has accepted the certificate.
    rejection_timeout: Option<Duration>,
}

impl ProbeConnector {
    pub(super) fn new(connector: UpstreamConnector, check: &Check) -> Self {
        let exchanges_no_data = matches!(
            check.probe,
            Probe::Tcp {
                send: None,
                expect: None
            }
        );
        Self {
            connector,
            // Leave most of the probe's timeout to the handshake.
            rejection_timeout: exchanges_no_data.then(|| check.timeout / 4),
        }
    }
}

impl Prepare for ProbeConnector {
    type Stream = ServerStream;

    async fn prepare(&self, socket: TcpStream, server: &Server) -> io::Result<ServerStream> {
        let mut stream = self.connector.prepare(socket, server).await?;
        if let (Some(limit), ServerStream::Tls(tls)) = (self.rejection_timeout, &mut stream) {
            tls.check_rejection(limit).await?;
        }
        Ok(stream)
    }
}
