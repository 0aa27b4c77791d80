//! Reads the ClientHello. This part of the handshake needs no signatures.

mod framing;

use std::{
    future::poll_fn,
    io::{self, Read, Write},
    task::Poll,
};

use rustls::{
    AlertDescription, Error, InvalidMessage, NamedGroup, PeerMisbehaved,
    server::{Accepted, AcceptedAlert, Acceptor},
};
use tokio::net::TcpStream;

use crate::{
    diagnostics::Failed, foreign_protocol::ForeignProtocol, handshake_error::HandshakeError,
    offer::Offer, polled_socket::Polled,
};

pub(super) use framing::may_be_record;
use framing::{Found, HelloFraming, MAX_BYTES};

/// A complete ClientHello.
pub struct Hello {
    pub(super) accepted: Box<Accepted>,
    /// All received bytes. Handshakes that do not use `accepted` parse them again.
    pub(super) bytes: Vec<u8>,
    /// Length of the ClientHello in `bytes`. The bytes after it are not parsed yet.
    pub(super) length: usize,
}

impl Hello {
    /// The server name that the client requests (SNI), in lower case.
    pub fn server_name(&self) -> Option<String> {
        self.accepted
            .client_hello()
            .server_name()
            .map(str::to_ascii_lowercase)
    }

    /// Returns the first group in `ours` that the client offers. Returns `None` if rustls,
    /// which follows the client's order, would choose the same group.
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
        // A post-quantum group cannot be used in TLS 1.2.
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

    /// Whether sessions of this client may be stored.
    pub(super) fn may_resume(&self) -> bool {
        Offer::parse(&self.bytes).is_some_and(|offer| offer.may_resume())
    }
}

/// Size of a read in bytes. Most ClientHellos are shorter.
const CHUNK: usize = 4 * 1024;

/// Reads the ClientHello. Appends the received bytes to `bytes`, which must be empty. After a
/// timeout, the caller can examine these bytes.
///
/// # Errors
/// If the received bytes are not a ClientHello, if the data after the ClientHello cannot be
/// TLS, or if the client closes the connection.
///
/// # Cancel safety
/// After dropping the future, close the socket: part of the ClientHello was read from it.
pub async fn read_hello(socket: &mut TcpStream, bytes: &mut Vec<u8>) -> Result<Hello, Box<Failed>> {
    let mut framing = HelloFraming::default();
    poll_fn(|cx| {
        loop {
            let mut chunk = [0; CHUNK];
            let size = CHUNK.min(MAX_BYTES - bytes.len());
            let mut polled = Polled { socket, cx };
            let count = match polled.read(&mut chunk[..size]) {
                Ok(0) => {
                    let mut failed: Box<Failed> = HandshakeError::Closed.into();
                    failed.diagnostics.foreign_protocol = match &bytes[..] {
                        [] => Some(ForeignProtocol::Closed),
                        some => ForeignProtocol::unless_tls(some),
                    };
                    return Poll::Ready(Err(failed));
                }
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Poll::Pending,
                Err(error) => return Poll::Ready(Err(error.into())),
            };
            // Reserve only what is needed, never double the capacity: unauthenticated
            // clients hold this buffer.
            bytes.reserve_exact(count);
            bytes.extend_from_slice(&chunk[..count]);
            let parsed = match framing.advance(bytes) {
                Found::Incomplete => {
                    // Reserve all missing bytes in one step: repeated growth would fragment the
                    // heap.
                    bytes.reserve_exact(framing.missing().min(MAX_BYTES - bytes.len()));
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
                failed.diagnostics.saw_hello(bytes, &error);
                if matches!(error, Error::InvalidMessage(_)) {
                    failed.diagnostics.foreign_protocol = ForeignProtocol::unless_tls(bytes);
                }
                match alert {
                    Some(alert) => send_alert(&mut failed, alert, &mut polled),
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

/// The error for data that cannot follow a ClientHello.
const UNEXPECTED: Error = Error::PeerMisbehaved(PeerMisbehaved::KeyEpochWithPendingFragment);

/// The error for a ClientHello that exceeds this crate's limit, but not rustls' limit.
const TOO_LONG: Error = Error::InvalidMessage(InvalidMessage::HandshakePayloadTooLarge);

/// Parses the ClientHello in the first `length` bytes with rustls. Takes `bytes` on
/// success.
fn parse(bytes: &mut Vec<u8>, length: usize) -> Result<Hello, (Error, Option<AcceptedAlert>)> {
    let mut acceptor = Acceptor::default();
    let mut rest = bytes.get(..length).unwrap_or_default();
    loop {
        match acceptor.accept() {
            Ok(Some(accepted)) => {
                return Ok(Hello {
                    accepted: Box::new(accepted),
                    bytes: std::mem::take(bytes),
                    length,
                });
            }
            Ok(None) if rest.is_empty() => return Err((TOO_LONG, None)),
            Ok(None) => {}
            Err((error, alert)) => return Err((error, Some(alert))),
        }
        if acceptor.read_tls(&mut rest).is_err() {
            // rustls' buffer is full.
            return Err((TOO_LONG, None));
        }
    }
}

/// Sends the alert, if the socket accepts it now, and records it in the diagnostics.
pub(super) fn send_alert(failed: &mut Failed, mut alert: AcceptedAlert, socket: &mut impl Write) {
    let mut bytes = Vec::new();
    // A write to memory does not fail.
    let _ = alert.write_all(&mut bytes);
    send_bytes(failed, &bytes, socket);
}

fn send_bytes(failed: &mut Failed, alert: &[u8], socket: &mut impl Write) {
    failed.diagnostics.saw_sent(alert);
    let _ = socket.write_all(alert);
}
