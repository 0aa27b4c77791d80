//! The handshake, in two steps: reading the ClientHello, which costs nothing,
//! and the rest, which costs signatures. Between them the caller can make the
//! client wait for its turn; a silent socket never takes one.

use std::{
    future::poll_fn,
    io::{self, Read, Write},
    task::Poll,
};

use leastconn::Reason;
use rustls::{
    Error, ServerConnection,
    server::{Accepted, AcceptedAlert, Acceptor},
};
use tokio::net::TcpStream;

use crate::{instead::Instead, turns::Place};

use super::{
    Clues, Failed, Server,
    buffered::{Buffered, Polled},
    chain::certificate_reason,
    offer::Offer,
    rejected,
    stream::TlsStream,
    unbuffered, words,
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

    /// Whether sessions of this client may be kept.
    pub(super) fn may_resume(&self) -> bool {
        Offer::parse(&self.bytes).is_some_and(|offer| offer.may_resume())
    }
}

/// The handshake failed. The alert that says so to the client was sent, as far
/// as the socket took it at once.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// TLS says no.
    #[error("{}", words::error(.0))]
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

/// Who sent the last flight of a handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LastFlight {
    /// Ours carried the acknowledgement of what the client had sent.
    Sent,
    /// The client's, which the kernel acknowledges when it likes.
    Received,
}

/// Sends the pending TCP acknowledgement of the client's last flight now. The kernel
/// would delay it by 40 ms, and a client with Nagle's algorithm (no `TCP_NODELAY`)
/// holds its first message back until then.
///
/// `TCP_QUICKACK` is not sticky: the kernel returns to delayed acknowledgements.
pub(super) fn acknowledge(socket: &TcpStream) {
    // Only latency depends on it: not worth a connection.
    let _ = rustix::net::sockopt::set_tcp_quickack(socket, true);
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

/// Reads the client's first message. `bytes`, empty at first, gets what was read, for a
/// caller that gives up.
///
/// # Errors
/// If it is not a ClientHello, or the client goes away.
///
/// # Cancel safety
/// What was read is lost: close the socket.
pub async fn read_hello(socket: &mut TcpStream, bytes: &mut Vec<u8>) -> Result<Hello, Box<Failed>> {
    let mut acceptor = Acceptor::default();
    poll_fn(|cx| {
        loop {
            match acceptor.accept() {
                Ok(Some(accepted)) => {
                    let bytes = std::mem::take(bytes);
                    return Poll::Ready(Ok(Hello { accepted, bytes }));
                }
                Ok(None) => {}
                Err((error, alert)) => {
                    let mut failed: Box<Failed> = error.clone().into();
                    failed.clues.saw_hello(bytes, &error);
                    if matches!(error, Error::InvalidMessage(_)) {
                        failed.clues.instead = Instead::unless_tls(bytes);
                    }
                    send(&mut failed, alert, &mut Polled { socket, cx });
                    return Poll::Ready(Err(failed));
                }
            }
            let socket = Polled {
                socket: &mut *socket,
                cx: &mut *cx,
            };
            match acceptor.read_tls(&mut Kept { socket, bytes }) {
                Ok(0) => {
                    let mut failed: Box<Failed> = HandshakeError::Closed.into();
                    if !bytes.is_empty() {
                        failed.clues.instead = Instead::unless_tls(bytes);
                    }
                    return Poll::Ready(Err(failed));
                }
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
    socket: TcpStream,
    hello: Hello,
    server: &Server,
    place: &Place,
) -> Result<TlsStream, (Box<Failed>, TcpStream)> {
    rejected::with_slot(finish(socket, hello, server, place)).await
}

async fn finish(
    mut socket: TcpStream,
    hello: Hello,
    server: &Server,
    place: &Place,
) -> Result<TlsStream, (Box<Failed>, TcpStream)> {
    let terms = server.terms(&hello);
    if server.is_direct() {
        // It is not needed any more, and handshakes may take long.
        drop(hello.accepted);
        return unbuffered::accept(socket, hello.bytes, terms, place).await;
    }
    // The answer to the ClientHello is made here, signature and all.
    let turn = place.turn().await;
    let session = hello.accepted.into_connection(terms.config);
    drop(turn);
    let session: ServerConnection = match session {
        Ok(session) => session,
        Err((error, alert)) => {
            let mut failed: Box<Failed> = error.clone().into();
            failed.clues.saw_hello(&hello.bytes, &error);
            let mut alert = Some(alert);
            poll_fn(|cx| {
                let socket = &mut socket;
                if let Some(alert) = alert.take() {
                    send(&mut failed, alert, &mut Polled { socket, cx });
                }
                Poll::Ready(())
            })
            .await;
            return Err((failed, socket));
        }
    };
    let mut stream = Buffered::new(socket, session);
    stream.was_given(&hello.bytes);
    match stream.handshake(Some(place), terms.visit.as_deref()).await {
        Ok(last) => {
            if last == LastFlight::Received {
                acknowledge(stream.tcp());
            }
            Ok(TlsStream::rustls(stream))
        }
        Err(error) => {
            let clues = match &error {
                HandshakeError::Tls(error) => Clues::gather(error, Some(stream.session())),
                _ => Clues::default(),
            };
            let failed = Box::new(Failed { error, clues });
            Err((failed, stream.into_socket()))
        }
    }
}

/// Sends the alert, as far as the socket takes it now, and keeps in mind which
/// one it is.
fn send(failed: &mut Failed, mut alert: AcceptedAlert, socket: &mut impl Write) {
    let mut bytes = Vec::new();
    // Into memory: this does not fail.
    let _ = alert.write_all(&mut bytes);
    failed.clues.saw_sent(&bytes);
    let _ = socket.write_all(&bytes);
}
