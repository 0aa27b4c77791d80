//! The handshake, in two steps: reading the ClientHello, which costs nothing,
//! and the rest, which costs signatures. Between them the caller can make the
//! client wait for its turn; a silent socket never takes one.

use std::{
    future::poll_fn,
    io::{self, Read},
    sync::Arc,
    task::Poll,
};

use leastconn::Reason;
use rustls::{
    CertificateError, Error, ServerConfig, ServerConnection,
    server::{Accepted, Acceptor},
};
use tokio::net::TcpStream;

use crate::turns::Place;

use super::{
    buffered::{Buffered, Polled},
    stream::TlsStream,
    unbuffered,
};

/// A complete ClientHello.
pub struct Hello {
    accepted: Accepted,
    /// All that was read, for whoever does the rest without `accepted`.
    bytes: Vec<u8>,
}

impl Hello {
    /// The server name that the client asks for, lower case.
    pub fn server_name(&self) -> Option<String> {
        self.accepted
            .client_hello()
            .server_name()
            .map(str::to_ascii_lowercase)
    }
}

/// The handshake failed. The alert that says so to the client was sent, as far
/// as the socket took it at once.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// TLS says no.
    #[error("{}", words(.0))]
    Tls(#[from] Error),
    /// The socket broke.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// The client closed in the middle.
    #[error("the client closed the connection before the handshake was over")]
    Closed,
}

impl HandshakeError {
    /// The stable code.
    pub const fn reason(&self) -> Reason {
        match self {
            Self::Tls(Error::NoCertificatesPresented) => Reason::NoCertificate,
            Self::Tls(Error::InvalidCertificate(error)) => certificate_reason(error),
            _ => Reason::HandshakeFailed,
        }
    }
}

/// What rustls says, where it says enough.
fn words(error: &Error) -> String {
    // Of webpki's own errors rustls passes on the name.
    let constrained = |other: &rustls::OtherError| other.0.to_string() == "NameConstraintViolation";
    match error {
        Error::InvalidCertificate(CertificateError::Other(other)) if constrained(other) => {
            "invalid peer certificate: name constraints of an authority above it do not allow \
             its names, or are constraints for URIs, which cannot be checked and refuse every \
             certificate with a URI"
                .to_owned()
        }
        error => error.to_string(),
    }
}

/// The stable code for a certificate that is not good.
pub const fn certificate_reason(error: &CertificateError) -> Reason {
    match error {
        CertificateError::Expired
        | CertificateError::ExpiredContext { .. }
        | CertificateError::NotValidYet
        | CertificateError::NotValidYetContext { .. } => Reason::ExpiredCertificate,
        CertificateError::Revoked => Reason::RevokedCertificate,
        _ => Reason::UntrustedCertificate,
    }
}

/// Keeps a copy of what is read.
struct Kept<'a, 'cx> {
    socket: Polled<'a, 'cx>,
    bytes: &'a mut Vec<u8>,
}

impl Read for Kept<'_, '_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.socket.read(buffer)?;
        self.bytes.extend_from_slice(&buffer[..count]);
        Ok(count)
    }
}

/// Reads the client's first message.
///
/// # Errors
/// If it is not a ClientHello, or the client goes away.
///
/// # Cancel safety
/// What was read is lost: close the socket.
pub async fn read_hello(socket: &mut TcpStream) -> Result<Hello, HandshakeError> {
    let mut acceptor = Acceptor::default();
    let mut bytes = Vec::new();
    poll_fn(|cx| {
        loop {
            match acceptor.accept() {
                Ok(Some(accepted)) => {
                    let bytes = std::mem::take(&mut bytes);
                    return Poll::Ready(Ok(Hello { accepted, bytes }));
                }
                Ok(None) => {}
                Err((error, mut alert)) => {
                    let _ = alert.write_all(&mut Polled { socket, cx });
                    return Poll::Ready(Err(error.into()));
                }
            }
            let socket = Polled {
                socket: &mut *socket,
                cx: &mut *cx,
            };
            match acceptor.read_tls(&mut Kept {
                socket,
                bytes: &mut bytes,
            }) {
                Ok(0) => return Poll::Ready(Err(HandshakeError::Closed)),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Poll::Pending,
                Err(error) => return Poll::Ready(Err(error.into())),
            }
        }
    })
    .await
}

/// Does the rest: keys, certificates, signatures, each step in a turn of `place`.
/// On success the client has proven that the certificate is its own, and that it is
/// trusted.
///
/// # Errors
/// With the socket, on which the alert was sent if there was one: leave the
/// client time to read it before closing.
///
/// # Cancel safety
/// The connection is lost.
pub async fn accept(
    mut socket: TcpStream,
    hello: Hello,
    config: Arc<ServerConfig>,
    place: &Place,
) -> Result<TlsStream, (HandshakeError, TcpStream)> {
    if config.enable_secret_extraction {
        // It is not needed any more, and handshakes may take long.
        drop(hello.accepted);
        return unbuffered::accept(socket, hello.bytes, config, place).await;
    }
    // The answer to the ClientHello is made here, signature and all.
    let turn = place.turn().await;
    let session = hello.accepted.into_connection(config);
    drop(turn);
    let session: ServerConnection = match session {
        Ok(session) => session,
        Err((error, mut alert)) => {
            let _ = poll_fn(|cx| {
                Poll::Ready(alert.write_all(&mut Polled {
                    socket: &mut socket,
                    cx,
                }))
            })
            .await;
            return Err((error.into(), socket));
        }
    };
    let mut stream = Buffered::new(socket, session);
    match stream.handshake(Some(place)).await {
        Ok(()) => Ok(TlsStream::rustls(stream)),
        Err(error) => Err((error, stream.into_socket())),
    }
}
