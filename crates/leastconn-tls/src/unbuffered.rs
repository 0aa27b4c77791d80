//! The handshake of a connection that continues with this crate's record layer. rustls works on the
//! buffers of this module. At the end, it returns the keys and the key schedule
//! (`KernelConnection`).
//!
//! `ServerConnection::dangerous_extract_secrets` is not an alternative. It returns the keys without
//! the key schedule, which would make key updates impossible. In addition, a `ServerConnection` may
//! already have decrypted records that followed the handshake.
//!
//! All uses of this rustls API are in this file, because rustls 0.24 changes the API:
//!
//! - `ServerHandshake` replaces `Acceptor` and `UnbufferedServerConnection`. It begins with
//!   `start()`, and takes input with `NeedsInput::process` on a `SliceInput`.
//! - `Accepted::choose_config` appends the answer to a `Vec`.
//! - The handshake ends with a `SplitConnection`, whose `dangerous_into_kernel_connection`
//!   returns what [`finish`] needs.
//! - The ClientHello is parsed only once. With rustls 0.23, it is parsed by
//!   [`read_hello`](super::read_hello) and again here.

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
    record::{HEADER, MAX_CIPHERTEXT},
    server::ConnectionConfig,
};

/// Maximum number of received bytes that rustls has not consumed: the size of the largest
/// handshake message that rustls accepts, with the headers of its records.
const MAX_PENDING: usize = 128 * 1024;

/// Size of a read in bytes: larger than any flight without a long certificate chain.
const CHUNK: usize = 4 * 1024;

pub(super) struct Handshaken {
    pub(super) secrets: KernelSecrets,
    pub(super) negotiated: Negotiated,
    /// The bytes that were received after the handshake, still encrypted.
    pub(super) unopened: Vec<u8>,
    pub(super) last: LastFlight,
}

pub(super) async fn handshake_for_direct<S: AsyncRead + AsyncWrite + Unpin>(
    socket: &mut S,
    received: Vec<u8>,
    config: ConnectionConfig,
    permit: &impl Permit,
) -> Result<Handshaken, Box<Failed>> {
    let (session, unopened, last) = run(socket, received, config, permit).await?;
    let (secrets, negotiated) = finish(session)?;
    Ok(Handshaken {
        secrets,
        negotiated,
        unopened,
        last,
    })
}

/// How far rustls has processed the received bytes.
enum Progress {
    Blocked,
    Done,
}

/// Performs the handshake. Returns the session, the bytes that were received after the handshake,
/// and which side sent the last flight.
async fn run<S: AsyncRead + AsyncWrite + Unpin>(
    socket: &mut S,
    mut received: Vec<u8>,
    config: ConnectionConfig,
    permit: &impl Permit,
) -> Result<(UnbufferedServerConnection, Vec<u8>, LastFlight), Box<Failed>> {
    let mut session = UnbufferedServerConnection::new(config.config)?;
    let mut answer = Vec::new();
    // At most this many bytes can follow the last record of the handshake. They must fit into
    // the receive buffer of the stream.
    let mut chunk = vec![0; CHUNK];
    // Number of bytes that were passed to rustls. Records are passed one at a time, because
    // rustls must not open records that follow the handshake.
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
        if let (Progress::Done, Some(sessions)) = (&progress, &config.sessions) {
            // Make the sessions resumable before the last flight is sent: a client that has
            // received that flight may resume immediately.
            sessions.complete(&session);
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
        if received.len() > MAX_PENDING {
            return Err(Error::General("the handshake message is too long".into()).into());
        }
        let count = permit.wait_for_client(socket.read(&mut chunk)).await??;
        if count == 0 {
            return Err(HandshakeError::Closed.into());
        }
        received.extend_from_slice(&chunk[..count]);
    }
}

/// Passes records to rustls one at a time, until rustls has an answer or needs more data.
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

/// Whether a complete record follows the first `given` bytes.
fn is_next_complete(received: &[u8], given: usize) -> bool {
    record_length(&received[given..]).is_some_and(|length| given + length <= received.len())
}

/// Writes the alert, if the socket accepts it now.
async fn try_write<S: AsyncWrite + Unpin>(socket: &mut S, alert: &[u8]) {
    poll_fn(|cx: &mut Context<'_>| {
        let _ = Pin::new(&mut *socket).poll_write(cx, alert);
        Poll::Ready(())
    })
    .await;
}

/// The length of a record, or only of its header if rustls will refuse the record.
fn record_length(bytes: &[u8]) -> Option<usize> {
    let header = bytes.first_chunk::<HEADER>()?;
    let payload = usize::from(u16::from_be_bytes([header[3], header[4]]));
    let is_record = may_be_record(header) && payload <= MAX_CIPHERTEXT;
    Some(HEADER + if is_record { payload } else { 0 })
}

/// Lets rustls process the first `given` bytes of `received`, and collects its answer.
/// Removes the bytes that rustls has consumed.
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
            // These states cannot occur: early data is disabled, and records that follow the
            // handshake are not passed to rustls.
            Ok(_) => return Err(Error::HandshakeNotComplete.into()),
        };
        received.drain(..discard);
        *given -= discard;
        match failed.take() {
            // Continue until the alert is encoded. rustls returns the same error again.
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
