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
    AlertDescription, Error, InvalidMessage, NamedGroup, PeerMisbehaved, ServerConnection,
    server::{Accepted, AcceptedAlert, Acceptor},
};
use tokio::net::TcpStream;

use crate::{
    instead::Instead,
    permit::{Evicted, Permit},
};

use super::{
    Clues, Failed, Server,
    buffered::{Buffered, Polled},
    chain::certificate_reason,
    hello::{Found, MAX_BYTES, Progress, may_be_record},
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
    /// Bytes of it that the ClientHello takes. What follows is not parsed yet.
    length: usize,
}

impl Hello {
    /// The server name that the client asks for, lower case.
    pub fn server_name(&self) -> Option<String> {
        self.accepted
            .client_hello()
            .server_name()
            .map(str::to_ascii_lowercase)
    }

    /// The first of `ours`, preferred first, that the client offers, unless rustls would
    /// choose it by itself: it takes the client's first.
    pub(super) fn preferred_group(
        &self,
        ours: impl Iterator<Item = NamedGroup> + Clone,
    ) -> Option<NamedGroup> {
        let hello = self.accepted.client_hello();
        let theirs = hello.named_groups()?;
        let preferred = ours.clone().find(|group| theirs.contains(group))?;
        let chosen = theirs
            .iter()
            .find(|group| ours.clone().any(|our| our == **group))?;
        if *chosen == preferred {
            return None;
        }
        // TLS 1.2 has none of those that are post-quantum.
        let offer = Offer::parse(&self.bytes)?;
        let usable = |group: &NamedGroup| {
            offer.has_tls13()
                || !matches!(
                    group,
                    NamedGroup::X25519MLKEM768 | NamedGroup::secp256r1MLKEM768
                )
        };
        ours.clone()
            .find(|group| theirs.contains(group) && usable(group))
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
    /// Too many handshakes wait for their clients, and this one did for longest.
    #[error(transparent)]
    Evicted(#[from] Evicted),
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
            Self::Evicted(_) => Reason::Overloaded,
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

/// Read at once: more than most ClientHellos.
const CHUNK: usize = 4 * 1024;

/// Reads the client's first message. `bytes`, empty at first, gets what was read, for a
/// caller that gives up.
///
/// # Errors
/// If it is not a ClientHello, or something follows it that cannot be TLS, or the client
/// goes away.
///
/// # Cancel safety
/// What was read is lost: close the socket.
pub async fn read_hello(socket: &mut TcpStream, bytes: &mut Vec<u8>) -> Result<Hello, Box<Failed>> {
    let mut progress = Progress::default();
    poll_fn(|cx| {
        loop {
            let mut chunk = [0; CHUNK];
            let size = CHUNK.min(MAX_BYTES - bytes.len());
            let mut polled = Polled { socket, cx };
            let count = match polled.read(&mut chunk[..size]) {
                Ok(0) => {
                    let mut failed: Box<Failed> = HandshakeError::Closed.into();
                    failed.clues.instead = match &bytes[..] {
                        [] => Some(Instead::Closed),
                        some => Instead::unless_tls(some),
                    };
                    return Poll::Ready(Err(failed));
                }
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Poll::Pending,
                Err(error) => return Poll::Ready(Err(error.into())),
            };
            // Never twice as much as there is: this is held for clients that nobody knows.
            bytes.reserve_exact(count);
            bytes.extend_from_slice(&chunk[..count]);
            let parsed = match progress.follow(bytes) {
                Found::Incomplete => {
                    // At once: growing step by step leaves holes in the heap.
                    bytes.reserve_exact(progress.missing().min(MAX_BYTES - bytes.len()));
                    continue;
                }
                Found::Malformed => parse(bytes, bytes.len()),
                Found::Complete(length, is_aligned) => {
                    if is_aligned && may_be_record(&bytes[length..]) {
                        parse(bytes, length)
                    } else {
                        Err((UNEXPECTED, None))
                    }
                }
            };
            return Poll::Ready(parsed.map_err(|(error, alert)| {
                let mut failed: Box<Failed> = error.clone().into();
                failed.clues.saw_hello(bytes, &error);
                if matches!(error, Error::InvalidMessage(_)) {
                    failed.clues.instead = Instead::unless_tls(bytes);
                }
                match alert {
                    Some(alert) => send(&mut failed, alert, &mut polled),
                    None => {
                        let description = if error == TOO_LONG {
                            AlertDescription::DecodeError
                        } else {
                            AlertDescription::UnexpectedMessage
                        };
                        let alert = [21, 3, 3, 0, 2, 2, u8::from(description)];
                        send_bytes(&mut failed, &alert, &mut polled);
                    }
                }
                failed
            }));
        }
    })
    .await
}

/// Something behind the ClientHello, in its record or after it, that cannot be there.
const UNEXPECTED: Error = Error::PeerMisbehaved(PeerMisbehaved::KeyEpochWithPendingFragment);

/// A ClientHello that rustls would go on reading.
const TOO_LONG: Error = Error::InvalidMessage(InvalidMessage::HandshakePayloadTooLarge);

/// Lets rustls parse a ClientHello of this length at the front of `bytes`, which are taken
/// if it is one.
fn parse(bytes: &mut Vec<u8>, length: usize) -> Result<Hello, (Error, Option<AcceptedAlert>)> {
    let mut acceptor = Acceptor::default();
    let mut rest = bytes.get(..length).unwrap_or_default();
    loop {
        match acceptor.accept() {
            Ok(Some(accepted)) => {
                return Ok(Hello {
                    accepted,
                    bytes: std::mem::take(bytes),
                    length,
                });
            }
            Ok(None) if rest.is_empty() => return Err((TOO_LONG, None)),
            Ok(None) => {}
            Err((error, alert)) => return Err((error, Some(alert))),
        }
        if acceptor.read_tls(&mut rest).is_err() {
            // Its buffer is full.
            return Err((TOO_LONG, None));
        }
    }
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
    permit: &impl Permit,
) -> Result<TlsStream, (Box<Failed>, TcpStream)> {
    rejected::with_slot(finish(socket, hello, server, permit)).await
}

async fn finish(
    mut socket: TcpStream,
    hello: Hello,
    server: &Server,
    permit: &impl Permit,
) -> Result<TlsStream, (Box<Failed>, TcpStream)> {
    let terms = server.terms(&hello);
    if server.is_direct() {
        // It is not needed any more, and handshakes may take long.
        drop(hello.accepted);
        return unbuffered::accept(socket, hello.bytes, terms, permit).await;
    }
    // The answer to the ClientHello is made here, signature and all.
    let turn = permit.time_slice().await;
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
    let (given, early) = hello.bytes.split_at(hello.length);
    stream.was_given(given);
    let handshake = stream.handshake(early, permit, terms.visit.as_deref());
    match handshake.await {
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
    send_bytes(failed, &bytes, socket);
}

fn send_bytes(failed: &mut Failed, alert: &[u8], socket: &mut impl Write) {
    failed.clues.saw_sent(alert);
    let _ = socket.write_all(alert);
}
