//! PostgreSQL: a client sends `SSLRequest` and begins the handshake once it was
//! answered `S`. It may ask for GSSAPI encryption before that, which is answered `N`.
//!
//! See "SSL Session Encryption" in the chapter "Frontend/Backend Protocol" of
//! PostgreSQL's documentation. A client that begins with a ClientHello
//! (`sslnegotiation=direct`, PostgreSQL 17) is served as well, as PostgreSQL does.

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

/// Requests of one connection: one for each kind of encryption. More is no client that
/// PostgreSQL knows.
const MAX_REQUESTS: usize = 2;

/// The first byte of a TLS record of the handshake.
const TLS_HANDSHAKE: u8 = 0x16;

/// What a client's first bytes ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Request {
    /// TLS, to begin once it was answered.
    Ssl,
    /// GSSAPI encryption.
    GssEnc,
    /// The handshake itself has begun.
    Direct,
    /// A connection without encryption.
    Startup,
    /// That a query ends, without encryption. Such a request is never answered.
    Cancel,
    /// It is another protocol.
    Other,
}

/// `None`: more bytes are needed.
fn request(bytes: &[u8]) -> Option<Request> {
    if bytes.first() == Some(&TLS_HANDSHAKE) {
        return Some(Request::Direct);
    }
    // No message before authentication is longer than 10,000 bytes.
    let begins = |at: usize, expected: u8| bytes.get(at).is_none_or(|byte| *byte == expected);
    if !begins(0, 0) || !begins(1, 0) {
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

/// Answers requests until the client begins with the handshake: not one byte of it is
/// taken from the socket.
///
/// `received` gets what was taken, for a caller that gives up.
///
/// # Errors
/// If the client does not ask for TLS. What explains this to the client was sent;
/// leave it time to read that before closing.
///
/// # Cancel safety
/// Close the socket.
pub async fn negotiate(
    socket: &mut TcpStream,
    received: &mut Vec<u8>,
) -> Result<(), StartTlsError> {
    for _ in 0..=MAX_REQUESTS {
        received.clear();
        match next_request(socket, received).await? {
            Request::Direct => return Ok(()),
            Request::Ssl => {
                nothing_follows(socket)?;
                socket.write_all(b"S").await?;
                return Ok(());
            }
            Request::GssEnc => {
                nothing_follows(socket)?;
                socket.write_all(b"N").await?;
            }
            Request::Startup => {
                socket.write_all(&error_response()).await?;
                return Err(StartTlsError::NotTls(
                    "the PostgreSQL client did not ask for TLS (StartupMessage): it needs \
                     sslmode=require or stricter"
                        .to_owned(),
                ));
            }
            Request::Cancel => {
                return Err(StartTlsError::NotTls(
                    "the PostgreSQL client wants to cancel a query (CancelRequest) without TLS: \
                     clients with libpq 17 or newer use TLS for that"
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
        "the client repeats its requests for encryption".to_owned(),
    ))
}

/// Takes one request from the socket. Of a handshake, and of anything that is longer,
/// nothing more than its first bytes.
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
        // They are there: this does not wait.
        socket.read_exact(&mut seen[..count]).await?;
        match request {
            Some(request) => return Ok(request),
            None if received.len() >= REQUEST => return Ok(Request::Other),
            None => {}
        }
    }
}

/// A client waits for the answer to its request. What is there before it was written
/// may come from somebody between client and balancer, and must not be taken for the
/// client's, although it came in the same connection: CVE-2021-23222.
fn nothing_follows(socket: &TcpStream) -> Result<(), StartTlsError> {
    match socket.try_read(&mut [0; 1]) {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
        Ok(0) => Err(StartTlsError::Closed),
        Ok(_) => Err(StartTlsError::Pipelined),
        Err(error) => Err(error.into()),
    }
}

/// What PostgreSQL's clients show to their user.
fn error_response() -> Vec<u8> {
    const FIELDS: [(u8, &str); 5] = [
        (b'S', "FATAL"),
        (b'V', "FATAL"),
        // invalid_authorization_specification: what PostgreSQL answers to a client
        // without TLS where it takes only clients with TLS.
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
    fn requests_are_told_apart() {
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
    fn the_error_is_well_formed() {
        let response = error_response();
        let length = u32::from_be_bytes(response[1..5].try_into().unwrap());
        assert_eq!(length as usize + 1, response.len());
        assert!(response.ends_with(b"\0\0"));
    }

    proptest! {
        #[test]
        fn more_bytes_never_undo_a_decision(bytes: [u8; REQUEST], cut in 0..REQUEST) {
            let whole = request(&bytes);
            prop_assert!(whole.is_some());
            if let Some(early) = request(&bytes[..cut]) {
                prop_assert_eq!(Some(early), whole);
            }
        }
    }
}
