//! TLS connections to servers: configuration, verification of the server, and the stream.
//!
//! This side always uses rustls' record layer, whatever `tls_records` says. A server may send
//! session tickets at any time, which this crate's record layer does not parse. Connections to a
//! few nearby servers would gain little from that layer.
//!
//! Session resumption is off. rustls does not verify the chain of a resumed session, so a
//! revoked server could continue to resume its session.

mod expected;
mod self_signed;

use std::{
    error::Error,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use rustls::{
    ClientConfig, ClientConnection, ProtocolVersion,
    client::Resumption,
    pki_types::{CertificateDer, ServerName},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

use expected::Expected;
use self_signed::Verifier;

use super::{
    buffered::Buffered,
    handshake_error::HandshakeError,
    provider::{provider, versions},
    rejected,
    tls_error::TlsError,
    trust::{ChainVerifier, Usage},
};
use crate::{
    crl::CrlStore,
    error_text,
    permit::Unscheduled,
    settings::{ClientSettings, RecordLayer},
};

/// The rustls configuration for connections to the servers of an upstream.
///
/// # Errors
/// If rustls rejects the settings.
pub fn client_config(tls: &ClientSettings) -> Result<Arc<ClientConfig>, TlsError> {
    let provider = Arc::new(provider(&tls.algorithms, RecordLayer::Rustls));
    let material = &tls.material;
    let algorithms = provider.signature_verification_algorithms;
    let verifier = |ca: &[CertificateDer<'static>], crls: Arc<CrlStore>| {
        ChainVerifier::new(ca, crls, algorithms, Usage::Server)
    };
    let authorities = verifier(&material.ca, Arc::clone(&material.crls))?;
    // These verifiers get no CRLs: a CRL cannot cover certificates that no CA issued.
    let self_signed = material.self_signed.iter();
    let self_signed = self_signed.map(|own| {
        let only = verifier(std::slice::from_ref(own), Arc::default())?;
        Ok((own.clone(), only))
    });
    let verifier = Verifier {
        expected: Expected::of(tls),
        authorities,
        self_signed: self_signed.collect::<Result<_, TlsError>>()?,
    };
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&versions(tls.min_version, &provider))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    let mut config = match &material.own {
        Some(own) => builder.with_client_auth_cert(own.cert_chain.clone(), own.key.clone_key())?,
        None => builder.with_no_client_auth(),
    };
    config.resumption = Resumption::disabled();
    config.alpn_protocols = tls.alpn.protocols();
    Ok(Arc::new(config))
}

/// The text of a TLS error, as the inner error of an [`io::Error`].
#[derive(Debug, thiserror::Error)]
#[error("TLS: {0}")]
pub struct Failure(String);

/// Whether TLS failed, and not the TCP connection below it.
pub fn is_failure(error: &io::Error) -> bool {
    let is_explained = error
        .get_ref()
        .is_some_and(<dyn Error + Send + Sync>::is::<Failure>);
    error.kind() == io::ErrorKind::InvalidData && is_explained
}

/// An established TLS connection to a server.
///
/// Reading distinguishes an orderly end (`close_notify`) from a broken stream. For an error caused
/// by TLS, the inner error is a [`Failure`]. If the TCP stream ended without `close_notify`, the
/// kind of the error is [`io::ErrorKind::UnexpectedEof`].
pub struct ClientStream(Buffered);

/// Performs the handshake with a server, whose certificate must be valid for `name`. If `alpn` is
/// `Some`, only this application protocol is offered. Otherwise the protocols of `config` are
/// offered.
///
/// # Errors
/// TLS errors have a [`Failure`] as inner error. Socket I/O errors are returned unchanged.
///
/// # Cancel safety
/// Dropping the future closes the connection.
pub async fn connect(
    socket: TcpStream,
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
    alpn: Option<&str>,
) -> io::Result<ClientStream> {
    let protocols = match alpn {
        Some(only) => vec![only.as_bytes().to_vec()],
        None => config.alpn_protocols.clone(),
    };
    let session =
        ClientConnection::new_with_alpn(config, name, protocols).map_err(|error| failed(&error))?;
    let mut stream = Buffered::new(socket, session);
    let handshake = async {
        (
            stream.handshake(&[], &Unscheduled, None).await,
            rejected::take(),
        )
    };
    let (done, rejected) = rejected::with_slot(handshake).await;
    match done {
        Ok(_) => Ok(ClientStream(stream)),
        Err(HandshakeError::Tls(error)) => Err(match rejected.and_then(|one| one.detail) {
            Some(detail) => io::Error::new(io::ErrorKind::InvalidData, Failure(detail)),
            None => failed(&error),
        }),
        Err(HandshakeError::Closed) => Err(io::Error::new(
            io::ErrorKind::UnexpectedEof,
            Failure(
                "the server closed the connection before the handshake was complete".to_owned(),
            ),
        )),
        Err(HandshakeError::Io(error)) => Err(error),
        // This error cannot occur: `Unscheduled` never evicts a handshake.
        Err(error @ HandshakeError::Evicted(_)) => Err(io::Error::other(error)),
    }
}

fn failed(error: &rustls::Error) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        Failure(error_text::server_error(error)),
    )
}

impl ClientStream {
    /// Whether the server may still refuse our certificate. In TLS 1.3 the client completes
    /// its handshake before the server has verified the client's certificate.
    pub fn may_still_be_refused(&self) -> bool {
        self.0.session().protocol_version() == Some(ProtocolVersion::TLSv1_3)
    }
}

/// Adds explanations to rustls errors.
fn explained(error: io::Error) -> io::Error {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref());
    match (error.kind(), inner) {
        (_, Some(tls)) => failed(tls),
        (io::ErrorKind::UnexpectedEof, None) => io::Error::new(
            io::ErrorKind::UnexpectedEof,
            Failure("the server ended the connection without close_notify".to_owned()),
        ),
        _ => error,
    }
}

impl AsyncRead for ClientStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().0)
            .poll_read(cx, buffer)
            .map_err(explained)
    }
}

macro_rules! inner {
    ($this:expr, $stream:ident => $do:expr) => {{
        let $stream = &mut $this.0;
        $do
    }};
}

impl AsyncWrite for ClientStream {
    delegate_write!(inner);
}

impl leastconn::net::Stream for ClientStream {
    delegate_end!(inner);

    fn socket(&self) -> Option<&TcpStream> {
        self.0.socket()
    }
}
