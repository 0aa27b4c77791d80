//! The handshake for a connection whose records become our own: rustls works on
//! buffers of ours, and at the end gives out the keys.

use std::{io, sync::Arc};

use rustls::{
    Error, ServerConfig,
    server::UnbufferedServerConnection,
    unbuffered::{ConnectionState, EncodeError, EncodeTlsData, UnbufferedStatus},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::{
    HandshakeError, TlsStream,
    direct::Direct,
    record::{HEADER, Records, Violation},
    stream::About,
};

/// What the client may have sent and rustls not used up: a handshake message of
/// the greatest length that rustls takes, and the records that it came in.
const ENOUGH: usize = 128 * 1024;

/// Read at once: more than any flight but one with a long chain.
const CHUNK: usize = 4 * 1024;

/// Goes on after a ClientHello that `received` begins with.
pub(super) async fn accept(
    mut socket: TcpStream,
    received: Vec<u8>,
    config: Arc<ServerConfig>,
) -> Result<TlsStream, (HandshakeError, TcpStream)> {
    match Box::pin(handshake(&mut socket, received, config)).await {
        Ok((session, unopened)) => match finish(session) {
            Ok(ready) => Ok(ready.into_stream(socket, &unopened)),
            Err(error) => Err((error, socket)),
        },
        Err(error) => Err((error, socket)),
    }
}

/// How far rustls came with what there is.
enum Progress {
    Blocked,
    Done,
}

/// Returns the session, and what came behind the handshake.
async fn handshake(
    socket: &mut TcpStream,
    mut received: Vec<u8>,
    config: Arc<ServerConfig>,
) -> Result<(UnbufferedServerConnection, Vec<u8>), HandshakeError> {
    let mut session = UnbufferedServerConnection::new(config)?;
    let mut answer = Vec::new();
    // So much at most can be left behind the last record of the handshake: not
    // more than the stream's own buffer has room for.
    let mut chunk = [0; CHUNK];
    // Given to rustls so far. One record at a time: what follows the handshake
    // is ours, and must not have been opened by rustls.
    let mut given = 0;
    loop {
        let progress = work(&mut session, &mut received, &mut given, &mut answer);
        if !answer.is_empty() {
            match &progress {
                Ok(_) => socket.write_all(&answer).await?,
                // The alert, as far as the socket takes it now.
                Err(_) => drop(socket.try_write(&answer)),
            }
            answer.clear();
        }
        if matches!(progress?, Progress::Done) {
            return Ok((session, received));
        }
        match record_length(&received[given..]) {
            Some(length) if given + length <= received.len() => given += length,
            _ if received.len() > ENOUGH => {
                return Err(Error::General("too long a handshake message".into()).into());
            }
            _ => {
                let count = socket.read(&mut chunk).await?;
                if count == 0 {
                    return Err(HandshakeError::Closed);
                }
                received.extend_from_slice(&chunk[..count]);
            }
        }
    }
}

/// The length of a record by its header, or of something that rustls refuses by
/// the header.
fn record_length(bytes: &[u8]) -> Option<usize> {
    let header = bytes.first_chunk::<HEADER>()?;
    Some(HEADER + usize::from(u16::from_be_bytes([header[3], header[4]])))
}

/// Lets rustls work on the `given` first bytes of `received`, and collects what
/// it wants to send. Removes what it has used up.
fn work(
    session: &mut UnbufferedServerConnection,
    received: &mut Vec<u8>,
    given: &mut usize,
    answer: &mut Vec<u8>,
) -> Result<Progress, Error> {
    let mut failed: Option<Error> = None;
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
                failed.get_or_insert(error);
                false
            }
            // Early data, which is off, or what came behind the handshake, which
            // was not given.
            Ok(_) => return Err(Error::HandshakeNotComplete),
        };
        received.drain(..discard);
        *given -= discard;
        match &failed {
            // Only as long as there is something to send, the alert: rustls would
            // go on, and come to the same error again.
            Some(error) if !session.wants_write() => return Err(error.clone()),
            None if !more && session.is_handshaking() => return Ok(Progress::Blocked),
            None if !more => return Ok(Progress::Done),
            _ => {}
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

/// All that outlives the handshake.
struct Ready {
    records: Records<super::direct::Keys>,
    about: About,
}

impl Ready {
    fn into_stream(self, socket: TcpStream, unopened: &[u8]) -> TlsStream {
        let stream = Direct::new(socket, self.records, unopened);
        TlsStream::own(stream, self.about)
    }
}

fn finish(session: UnbufferedServerConnection) -> Result<Ready, HandshakeError> {
    let version = session.protocol_version();
    let peer = session.peer_certificates().and_then(<[_]>::first);
    let peer = peer.map(|leaf| leaf.clone().into_owned());
    let (secrets, keys) = session.dangerous_into_kernel_connection()?;
    let suite = keys.negotiated_cipher_suite();
    let records = Records::new(
        suite,
        Box::new(keys),
        (secrets.rx.0, &secrets.rx.1),
        (secrets.tx.0, &secrets.tx.1),
        leastconn::net::now,
    )
    .map_err(|error: Violation| io::Error::other(error))?;
    Ok(Ready {
        records,
        about: About {
            version,
            suite: Some(suite.suite()),
            peer,
        },
    })
}
