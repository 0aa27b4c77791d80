//! TLS towards servers: whom they must be, the handshake, and the stream.
//!
//! The records are rustls' own, whatever `[process] tls_records` says: a server may
//! send session tickets at any time, which our record layer does not read, and there
//! are fewer bytes to save per connection where the servers are few and near.
//!
//! Session resumption is off here too: a resumed session is not verified again, so a
//! server whose certificate was revoked would go on with the session it has.

mod alone;
mod expected;
mod why;

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

use alone::Verifier;
use expected::Expected;

use super::{
    buffered::Buffered,
    chain::ChainVerifier,
    handshake_error::HandshakeError,
    provider::{TlsError, provider, versions},
    rejected,
    usage::Usage,
};
use crate::{
    crl::CrlStore,
    permit::Unscheduled,
    settings::{ClientSettings, RecordLayer},
};

/// What an upstream's servers are spoken to with: its authorities and no others, and
/// the certificate that they are shown, if there is one.
///
/// # Errors
/// If rustls refuses any part of it.
pub fn client_config(tls: &ClientSettings) -> Result<Arc<ClientConfig>, TlsError> {
    let provider = Arc::new(provider(&tls.algorithms, RecordLayer::Rustls));
    let material = &tls.material;
    let algorithms = provider.signature_verification_algorithms;
    let verifier = |ca: &[CertificateDer<'static>], crls: Arc<CrlStore>| {
        ChainVerifier::new(ca, crls, algorithms, Usage::Server)
    };
    let authorities = verifier(&material.ca, Arc::clone(&material.crls))?;
    // No list revokes these: they are taken out of `ca`.
    let alone = material.alone.iter();
    let alone = alone.map(|own| {
        let only = verifier(std::slice::from_ref(own), Arc::default())?;
        Ok((own.clone(), only))
    });
    let verifier = Verifier {
        expected: Expected::of(tls),
        authorities,
        alone: alone.collect::<Result<_, TlsError>>()?,
        algorithms,
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

/// TLS with a server failed, in words for those who have to mend it. It is the source
/// of an [`io::Error`].
#[derive(Debug, thiserror::Error)]
#[error("TLS: {0}")]
pub struct Failure(String);

/// Whether TLS itself failed, and not the connection below it.
pub fn is_failure(error: &io::Error) -> bool {
    let is_explained = error
        .get_ref()
        .is_some_and(<dyn Error + Send + Sync>::is::<Failure>);
    error.kind() == io::ErrorKind::InvalidData && is_explained
}

/// The client's side of an established TLS connection.
///
/// Reading tells an orderly end (`close_notify`) from a broken one, and what broke it:
/// the error is a [`Failure`] where TLS says so, and [`io::ErrorKind::UnexpectedEof`]
/// where the TCP stream ended without `close_notify`.
pub struct ClientStream(Buffered);

/// Does the handshake with a server, whose certificate must be for `name`. `alpn`: the
/// only application protocol to offer; `None`: those of `config`.
///
/// # Errors
/// A [`Failure`] within, unless the socket itself broke: that keeps its code.
///
/// # Cancel safety
/// The connection is lost.
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
            Failure("the server closed the connection before the handshake was over".to_owned()),
        )),
        Err(HandshakeError::Io(error)) => Err(error),
        // Only handshakes with clients share places.
        Err(error @ HandshakeError::Evicted(_)) => Err(io::Error::other(error)),
    }
}

fn failed(error: &rustls::Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, Failure(why::why(error)))
}

impl ClientStream {
    /// Whether the server may still refuse our certificate: in TLS 1.3 it looks at it
    /// when the handshake is over for us.
    pub fn may_yet_be_refused(&self) -> bool {
        self.0.session().protocol_version() == Some(ProtocolVersion::TLSv1_3)
    }
}

/// Rustls' errors in words.
fn worded(error: io::Error) -> io::Error {
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
            .map_err(worded)
    }
}

impl AsyncWrite for ClientStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().0).poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().0).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().0).poll_shutdown(cx)
    }
}

impl leastconn::net::Stream for ClientStream {
    fn abort(&mut self) {
        self.0.abort();
    }

    fn poll_finish(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().0).poll_finish(cx)
    }

    fn socket(&self) -> Option<&TcpStream> {
        self.0.socket()
    }
}
