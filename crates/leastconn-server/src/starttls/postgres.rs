//! PostgreSQL: a client sends `SSLRequest`, and starts the TLS handshake after it has received `S`.
//! Before that, it may request GSSAPI encryption, and gets the answer `N`.
//!
//! See "SSL Session Encryption" in the chapter "Frontend/Backend Protocol" of the
//! PostgreSQL documentation. As with PostgreSQL, a client may also start with the
//! ClientHello (`sslnegotiation=direct`, PostgreSQL 17).

use std::io;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::StartTlsError;
use leastconn_tls::foreign_protocol::ForeignProtocol;

const SSL_REQUEST: u32 = 80_877_103;
const GSSENC_REQUEST: u32 = 80_877_104;
const CANCEL_REQUEST: u32 = 80_877_102;

/// Length and code of a request without a body.
const REQUEST: usize = 8;

/// Maximum number of requests on a connection: one request for each kind of encryption.
const MAX_REQUESTS: usize = 2;

/// First byte of a TLS handshake record.
const TLS_HANDSHAKE: u8 = 0x16;

/// The client's request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Request {
    /// TLS: the client starts the handshake after the answer.
    Ssl,
    /// GSSAPI encryption.
    GssEnc,
    /// A TLS handshake without a request.
    Direct,
    /// A connection without encryption.
    Startup,
    /// Cancellation of a query without encryption. PostgreSQL never answers it.
    Cancel,
    /// Another protocol.
    Other,
}

/// Decodes the first bytes of a request. Returns `None` if more bytes are needed.
fn request(bytes: &[u8]) -> Option<Request> {
    if bytes.first() == Some(&TLS_HANDSHAKE) {
        return Some(Request::Direct);
    }
    // No message before authentication is longer than 10,000 bytes, so the length starts with two
    // zero bytes.
    let starts_with = |at: usize, expected: u8| bytes.get(at).is_none_or(|byte| *byte == expected);
    if !starts_with(0, 0) || !starts_with(1, 0) {
        return Some(Request::Other);
    }
    let (length, rest) = bytes.split_first_chunk()?;
    let (code, _) = rest.split_first_chunk()?;
    let (length, code) = (u32::from_be_bytes(*length), u32::from_be_bytes(*code));
    Some(match (length, code) {
        (8, SSL_REQUEST) => Request::Ssl,
        (8, GSSENC_REQUEST) => Request::GssEnc,
        (12.., CANCEL_REQUEST) => Request::Cancel,
        // Protocol 2 and 3; the lower half is the minor version.
        (8..=10_000, code) if matches!(code >> 16, 2 | 3) => Request::Startup,
        _ => Request::Other,
    })
}

/// Answers requests until the client starts the TLS handshake. No byte of the handshake is
/// read from the socket.
///
/// `received` gets the bytes of the last request, even if the future is dropped.
///
/// # Errors
/// If the client does not request TLS. An error message may have been sent: close the
/// connection gracefully, so that the client can read it.
///
/// # Cancel safety
/// Not cancel safe: close the socket.
pub async fn negotiate(
    socket: &mut TcpStream,
    received: &mut Vec<u8>,
) -> Result<(), StartTlsError> {
    for _ in 0..=MAX_REQUESTS {
        received.clear();
        match next_request(socket, received).await? {
            Request::Direct => return Ok(()),
            Request::Ssl => {
                reject_pipelined(socket)?;
                socket.write_all(b"S").await?;
                return Ok(());
            }
            Request::GssEnc => {
                reject_pipelined(socket)?;
                socket.write_all(b"N").await?;
            }
            Request::Startup => {
                socket.write_all(&error_response()).await?;
                return Err(StartTlsError::NotTls(
                    "the PostgreSQL client did not request TLS (StartupMessage): it needs \
                     sslmode=require or stricter"
                        .to_owned(),
                ));
            }
            Request::Cancel => {
                return Err(StartTlsError::NotTls(
                    "query cancellation (CancelRequest) without TLS: PostgreSQL clients need \
                     libpq 17 or newer to use TLS for it"
                        .to_owned(),
                ));
            }
            Request::Other => {
                return Err(StartTlsError::NotTls(
                    ForeignProtocol::of(received).to_string(),
                ));
            }
        }
    }
    Err(StartTlsError::NotTls(
        "too many encryption requests".to_owned(),
    ))
}

/// Reads one request from the socket. Reads only the first bytes of a longer message, and no bytes
/// of a TLS handshake.
async fn next_request(
    socket: &mut TcpStream,
    received: &mut Vec<u8>,
) -> Result<Request, StartTlsError> {
    let mut seen = [0; REQUEST];
    loop {
        let missing = REQUEST - received.len();
        let count = socket.peek(&mut seen[..missing]).await?;
        if count == 0 {
            return Err(StartTlsError::Closed);
        }
        let before = received.len();
        received.extend_from_slice(&seen[..count]);
        let request = request(received);
        if request == Some(Request::Direct) && before == 0 {
            return Ok(Request::Direct);
        }
        // The peeked bytes are in the receive buffer, so `read_exact` does not wait.
        socket.read_exact(&mut seen[..count]).await?;
        match request {
            Some(request) => return Ok(request),
            None if received.len() >= REQUEST => return Ok(Request::Other),
            None => {}
        }
    }
}

/// Fails if bytes follow a request before it is answered. A client waits for the answer, so such
/// bytes may have been injected by a man in the middle, and must not be treated as data from the
/// authenticated client (CVE-2021-23222).
fn reject_pipelined(socket: &TcpStream) -> Result<(), StartTlsError> {
    match socket.try_read(&mut [0; 1]) {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
        Ok(0) => Err(StartTlsError::Closed),
        Ok(_) => Err(StartTlsError::Pipelined),
        Err(error) => Err(error.into()),
    }
}

/// `ErrorResponse`, which PostgreSQL clients show to the user.
fn error_response() -> Vec<u8> {
    const FIELDS: [(u8, &str); 5] = [
        (b'S', "FATAL"),
        (b'V', "FATAL"),
        // invalid_authorization_specification: PostgreSQL's own answer if TLS is required.
        (b'C', "28000"),
        (b'M', "this server only accepts TLS connections"),
        (
            b'H',
            "Connect with sslmode=verify-full and a client certificate (sslcert, sslkey).",
        ),
    ];
    let mut body = Vec::new();
    for (kind, text) in FIELDS {
        body.push(kind);
        body.extend(text.as_bytes());
        body.push(0);
    }
    body.push(0);
    let length = 4 + body.len() as u32;
    [&b"E"[..], &length.to_be_bytes(), &body].concat()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn message(length: u32, code: u32) -> Vec<u8> {
        [length.to_be_bytes(), code.to_be_bytes()].concat()
    }

    #[test]
    fn requests_are_distinguished() {
        for (bytes, expected) in [
            (message(8, SSL_REQUEST), Request::Ssl),
            (message(8, GSSENC_REQUEST), Request::GssEnc),
            (message(16, CANCEL_REQUEST), Request::Cancel),
            (message(41, 0x0003_0000), Request::Startup),
            (message(41, 0x0003_0002), Request::Startup),
            (message(296, 0x0002_0000), Request::Startup),
            (message(9, SSL_REQUEST), Request::Other),
            (message(7, SSL_REQUEST), Request::Other),
            (message(20_000, 0x0003_0000), Request::Other),
            (
                b"\x16\x03\x01\x02\x00\x01\x00\x01".to_vec(),
                Request::Direct,
            ),
            (b"\x16".to_vec(), Request::Direct),
            (b"G".to_vec(), Request::Other),
            (b"\x00\x01".to_vec(), Request::Other),
        ] {
            assert_eq!(request(&bytes), Some(expected), "{bytes:?}");
        }
        for cut in 0..REQUEST {
            assert_eq!(request(&message(8, SSL_REQUEST)[..cut]), None);
        }
    }

    #[test]
    fn error_response_is_well_formed() {
        let response = error_response();
        let length = u32::from_be_bytes(response[1..5].try_into().unwrap());
        assert_eq!(length as usize + 1, response.len());
        assert!(response.ends_with(b"\0\0"));
    }

    proptest! {
        #[test]
        fn further_bytes_do_not_change_a_result(bytes: [u8; REQUEST], cut in 0..REQUEST) {
            let whole = request(&bytes);
            prop_assert!(whole.is_some());
            if let Some(early) = request(&bytes[..cut]) {
                prop_assert_eq!(Some(early), whole);
            }
        }
    }
}
