//! MySQL health check: a login without a password.
//!
//! If a connection is closed before the client has answered the greeting, the server counts a
//! connection error. After `max_connect_errors` such errors, it blocks the client's host. A
//! rejected login is not a connection error.

use tokio::io::AsyncWriteExt;

use super::{Excerpt, ProbeError, Stream, drain, read_until};

/// Capability flags `PROTOCOL_41`, `SECURE_CONNECTION` and `PLUGIN_AUTH`.
const CAPABILITIES: u32 = 0x0000_0200 | 0x0000_8000 | 0x0008_0000;

/// Maximum packet size that the client announces in its login.
const MAX_PACKET: u32 = 1 << 24;

/// Character set `utf8_general_ci`.
const CHARSET: u8 = 33;

const OK: u8 = 0x00;
const ERROR: u8 = 0xff;
const AUTH_SWITCH: u8 = 0xfe;
const COM_QUIT: &[u8] = &[0x01];

/// The `SQLSTATE` of a rejected login.
const ACCESS_DENIED: &[u8] = b"28000";

pub(super) async fn check<S: Stream>(
    stream: &mut S,
    user: &str,
    answer: &mut Vec<u8>,
) -> Result<(), ProbeError> {
    let (mut sequence, greeting) = packet(stream, answer).await?;
    if let Some(error) = error_of(&greeting) {
        return Err(error);
    }
    let mut reply = login(user);
    loop {
        send(stream, sequence.wrapping_add(1), &reply).await?;
        let response;
        (sequence, response) = packet(stream, answer).await?;
        match response.first() {
            Some(&OK) => {
                send(stream, 0, COM_QUIT).await?;
                drain(stream).await;
                return Ok(());
            }
            Some(&ERROR) if is_access_denied(&response) => return Ok(()),
            Some(&ERROR) => {
                let error = error_of(&response);
                return Err(error.unwrap_or_else(|| ProbeError::Unexpected(Excerpt::of(&response))));
            }
            // The server requests another authentication method or more data. Send an empty
            // password.
            Some(&AUTH_SWITCH | &0x01) => reply = Vec::new(),
            _ => return Err(ProbeError::Unexpected(Excerpt::of(&response))),
        }
    }
}

/// Encodes `HandshakeResponse41` for `user`, without a password.
fn login(user: &str) -> Vec<u8> {
    let mut login = Vec::new();
    login.extend(CAPABILITIES.to_le_bytes());
    login.extend(MAX_PACKET.to_le_bytes());
    login.push(CHARSET);
    login.extend([0; 23]);
    login.extend(user.bytes().chain([0]));
    // The length of the authentication response, which is empty.
    login.push(0);
    login.extend(b"mysql_native_password\0");
    login
}

async fn send<S: Stream>(stream: &mut S, sequence: u8, payload: &[u8]) -> Result<(), ProbeError> {
    let length = u32::try_from(payload.len())
        .unwrap_or_default()
        .to_le_bytes();
    let mut packet = vec![length[0], length[1], length[2], sequence];
    packet.extend(payload);
    stream.write_all(&packet).await?;
    Ok(stream.flush().await?)
}

/// Reads the next packet. Returns its sequence number and payload.
async fn packet<S: Stream>(
    stream: &mut S,
    answer: &mut Vec<u8>,
) -> Result<(u8, Vec<u8>), ProbeError> {
    let whole = |answer: &[u8]| {
        let (header, rest) = answer.split_first_chunk::<4>()?;
        let [a, b, c, sequence] = *header;
        let length = usize::try_from(u32::from_le_bytes([a, b, c, 0])).ok()?;
        Some((sequence, rest.get(..length)?.to_vec()))
    };
    let packet = match whole(answer) {
        Some(packet) => Some(packet),
        None => read_until(stream, answer, whole).await?,
    };
    let packet = packet.ok_or_else(|| ProbeError::Unexpected(Excerpt::of(answer)))?;
    answer.drain(..4 + packet.1.len());
    Ok(packet)
}

/// Returns `None` for a valid greeting, and an error for any other packet. If it is an error
/// packet, the error contains its text.
fn error_of(packet: &[u8]) -> Option<ProbeError> {
    match packet {
        // The greeting has protocol version 10.
        [10, ..] => None,
        [ERROR, _, _, text @ ..] => Some(ProbeError::server(text)),
        other => Some(ProbeError::Unexpected(Excerpt::of(other))),
    }
}

/// Whether the server rejected the login, which shows that the server works.
fn is_access_denied(packet: &[u8]) -> bool {
    packet.get(3) == Some(&b'#') && packet.get(4..9) == Some(ACCESS_DENIED)
}
