//! The handshake for a connection whose records become our own: rustls works on
//! buffers of ours, and at the end gives out the keys. After it there is no rustls
//! connection any more, only its key schedule ([`KernelConnection`]).
//!
//! Not by `ServerConnection::dangerous_extract_secrets`: that gives keys out
//! without the schedule, so that no key update could follow, and it may have
//! opened records already that came behind the handshake.
//!
//! All that is left of rustls' API for this purpose is in this file, because it
//! changes: rustls 0.24 has no `rustls::unbuffered`. There `ServerHandshake`
//! takes the place of `Acceptor` and `UnbufferedServerConnection`: `start()`,
//! `NeedsInput::process` on a `SliceInput` of our buffer, `Accepted::choose_config`
//! with what it has to answer appended to a `Vec`, and at its end a
//! `SplitConnection`, whose `dangerous_into_kernel_connection` gives what [`finish`]
//! takes apart. The ClientHello, now parsed by [`read_hello`](super::read_hello) and
//! again here, is then parsed once.

use std::{
    future::poll_fn,
    pin::Pin,
    task::{Context, Poll},
};

use rustls::{
    Error, HandshakeKind,
    server::UnbufferedServerConnection,
    unbuffered::{ConnectionState, EncodeError, EncodeTlsData, UnbufferedStatus},
};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::{
    client_hello::may_be_record,
    diagnostics::{Diagnostics, Failed},
    direct::KernelSecrets,
    handshake_error::HandshakeError,
    last_flight::LastFlight,
    negotiated::{Negotiated, to_owned},
    permit::Permit,
    record::{HEADER, MAX_PLAINTEXT},
    server::Terms,
};

/// What the client may have sent and rustls not used up: a handshake message of
/// the greatest length that rustls takes, and the records that it came in.
const ENOUGH: usize = 128 * 1024;

/// The longest payload of a record in any version.
const MAX_CIPHERTEXT: usize = MAX_PLAINTEXT + 2048;

/// Read at once: more than any flight but one with a long chain.
const CHUNK: usize = 4 * 1024;

/// All that outlives a handshake.
pub(super) struct Done {
    pub(super) secrets: KernelSecrets,
    pub(super) negotiated: Negotiated,
    /// What came behind it.
    pub(super) unopened: Vec<u8>,
    pub(super) last: LastFlight,
}

pub(super) async fn shake_hands<S: AsyncRead + AsyncWrite + Unpin>(
    socket: &mut S,
    received: Vec<u8>,
    terms: Terms,
    permit: &impl Permit,
) -> Result<Done, Box<Failed>> {
    let (session, unopened, last) = handshake(socket, received, terms, permit).await?;
    let (secrets, negotiated) = finish(session)?;
    Ok(Done {
        secrets,
        negotiated,
        unopened,
        last,
    })
}

/// How far rustls came with what there is.
enum Progress {
    Blocked,
    Done,
}

/// Returns the session, what came behind the handshake, and who sent its last flight.
async fn handshake<S: AsyncRead + AsyncWrite + Unpin>(
    socket: &mut S,
    mut received: Vec<u8>,
    terms: Terms,
    permit: &impl Permit,
) -> Result<(UnbufferedServerConnection, Vec<u8>, LastFlight), Box<Failed>> {
    let mut session = UnbufferedServerConnection::new(terms.config)?;
    let mut answer = Vec::new();
    // So much at most can be left behind the last record of the handshake: not
    // more than the stream's own buffer has room for.
    let mut chunk = [0; CHUNK];
    // Given to rustls so far. One record at a time: what follows the handshake
    // is ours, and must not have been opened by rustls.
    let mut given = 0;
    loop {
        let progress = if is_next_complete(&received, given) {
            let _turn = permit.time_slice().await;
            advance(&mut session, &mut received, &mut given, &mut answer)
        } else {
            Ok(Progress::Blocked)
        };
        let progress = match progress {
            Ok(progress) => progress,
            Err(mut failed) => {
                failed.diagnostics.saw_sent(&answer);
                try_write(socket, &answer).await;
                return Err(failed);
            }
        };
        if let (Progress::Done, Some(visit)) = (&progress, &terms.visit) {
            // Before the client can have heard of it.
            visit.over(&session);
        }
        let last = if answer.is_empty() {
            LastFlight::Received
        } else {
            permit.wait_for_client(socket.write_all(&answer)).await??;
            answer.clear();
            LastFlight::Sent
        };
        if matches!(progress, Progress::Done) {
            return Ok((session, received, last));
        }
        if is_next_complete(&received, given) {
            continue;
        }
        if received.len() > ENOUGH {
            return Err(Error::General("too long a handshake message".into()).into());
        }
        let count = permit.wait_for_client(socket.read(&mut chunk)).await??;
        if count == 0 {
            return Err(HandshakeError::Closed.into());
        }
        received.extend_from_slice(&chunk[..count]);
    }
}

/// Lets rustls work on one record after the other, until it has something to say or
/// needs more.
fn advance(
    session: &mut UnbufferedServerConnection,
    received: &mut Vec<u8>,
    given: &mut usize,
    answer: &mut Vec<u8>,
) -> Result<Progress, Box<Failed>> {
    while let Some(length) = record_length(&received[*given..]) {
        if *given + length > received.len() {
            break;
        }
        *given += length;
        let progress = work(session, received, given, answer)?;
        if matches!(progress, Progress::Done) || !answer.is_empty() {
            return Ok(progress);
        }
    }
    Ok(Progress::Blocked)
}

/// Whether a whole record lies behind the `given` first bytes.
fn is_next_complete(received: &[u8], given: usize) -> bool {
    record_length(&received[given..]).is_some_and(|length| given + length <= received.len())
}

/// Writes the alert, as far as the socket takes it now.
async fn try_write<S: AsyncWrite + Unpin>(socket: &mut S, alert: &[u8]) {
    poll_fn(|cx: &mut Context<'_>| {
        let _ = Pin::new(&mut *socket).poll_write(cx, alert);
        Poll::Ready(())
    })
    .await;
}

/// The length of a record by its header; of the header alone, if rustls refuses it: then
/// there is nothing to wait for.
fn record_length(bytes: &[u8]) -> Option<usize> {
    let header = bytes.first_chunk::<HEADER>()?;
    let payload = usize::from(u16::from_be_bytes([header[3], header[4]]));
    let is_record = may_be_record(header) && payload <= MAX_CIPHERTEXT;
    Some(HEADER + if is_record { payload } else { 0 })
}

/// Lets rustls work on the `given` first bytes of `received`, and collects what
/// it wants to send. Removes what it has used up.
fn work(
    session: &mut UnbufferedServerConnection,
    received: &mut Vec<u8>,
    given: &mut usize,
    answer: &mut Vec<u8>,
) -> Result<Progress, Box<Failed>> {
    let mut failed: Option<Box<Failed>> = None;
    loop {
        let UnbufferedStatus { discard, state } =
            session.process_tls_records(&mut received[..*given]);
        let more = match state {
            Ok(ConnectionState::EncodeTlsData(data)) => {
                encode(data, answer)?;
                true
            }
            Ok(ConnectionState::TransmitTlsData(data)) => {
                data.done();
                true
            }
            Ok(ConnectionState::WriteTraffic(_) | ConnectionState::BlockedHandshake) => false,
            Err(error) => {
                if failed.is_none() {
                    let mut diagnostics = Diagnostics::gather(&error, Some(session));
                    diagnostics.saw_hello(&received[..*given], &error);
                    let error = error.into();
                    failed = Some(Box::new(Failed { error, diagnostics }));
                }
                false
            }
            // Early data, which is off, or what came behind the handshake, which
            // was not given.
            Ok(_) => return Err(Error::HandshakeNotComplete.into()),
        };
        received.drain(..discard);
        *given -= discard;
        match failed.take() {
            // Only as long as there is something to send, the alert: rustls would
            // go on, and come to the same error again.
            Some(why) if !session.wants_write() => return Err(why),
            None if !more && session.is_handshaking() => return Ok(Progress::Blocked),
            None if !more => return Ok(Progress::Done),
            still => failed = still,
        }
    }
}

fn encode(mut data: EncodeTlsData<'_, impl Sized>, answer: &mut Vec<u8>) -> Result<(), Error> {
    let start = answer.len();
    let mut size = 0;
    loop {
        answer.resize(start + size, 0);
        match data.encode(&mut answer[start..]) {
            Ok(length) => {
                answer.truncate(start + length);
                return Ok(());
            }
            Err(EncodeError::InsufficientSize(needed)) if size == 0 => {
                size = needed.required_size;
            }
            Err(error) => return Err(Error::General(error.to_string())),
        }
    }
}

fn finish(
    session: UnbufferedServerConnection,
) -> Result<(KernelSecrets, Negotiated), HandshakeError> {
    let version = session.protocol_version();
    let peer = session.peer_certificates().map(to_owned);
    let resumed = session.handshake_kind() == Some(HandshakeKind::Resumed);
    let alpn = session.alpn_protocol().map(Box::from);
    let secrets = KernelSecrets::new(session.dangerous_into_kernel_connection()?);
    let negotiated = Negotiated {
        version,
        suite: Some(secrets.suite().suite()),
        peer,
        resumed,
        alpn,
    };
    Ok((secrets, negotiated))
}
