//! Protocol violations and the alerts that the RFCs require, with both record layers.

use rustls::{AlertDescription, ExtractedSecrets, ProtocolVersion};

use super::*;
use crate::record::{Cipher, HEADER, MAX_OVERHEAD, MAX_PLAINTEXT, content};

/// A client after the handshake that can send any record.
struct Client {
    sealer: (Cipher, u64),
    opener: (Cipher, u64),
}

impl Client {
    fn new(suite: SupportedCipherSuite, secrets: ExtractedSecrets) -> Self {
        let version = suite.version().version;
        let cipher = |(number, secrets)| (Cipher::new(version, &secrets).unwrap(), number);
        Self {
            sealer: cipher(secrets.tx),
            opener: cipher(secrets.rx),
        }
    }

    fn seal(&mut self, kind: u8, plaintext: &[u8]) -> Vec<u8> {
        let mut record = vec![0; plaintext.len() + MAX_OVERHEAD];
        let (cipher, number) = &mut self.sealer;
        let length = cipher.seal(*number, kind, plaintext, &mut record).unwrap();
        *number += 1;
        record.truncate(length);
        record
    }

    /// Content type and plaintext of the records in `bytes`.
    fn open(&mut self, mut bytes: &[u8]) -> Vec<(u8, Vec<u8>)> {
        let mut opened = Vec::new();
        while let Some(header) = bytes.first_chunk::<HEADER>() {
            let length = HEADER + usize::from(u16::from_be_bytes([header[3], header[4]]));
            let mut out = vec![0; length];
            let (cipher, number) = &mut self.opener;
            let (kind, count) = cipher.open(*number, &bytes[..length], &mut out).unwrap();
            *number += 1;
            out.truncate(count);
            opened.push((kind, out));
            bytes = &bytes[length..];
        }
        opened
    }
}

/// The server's answer to records of a client, and the error of its stream.
async fn answer(
    own: bool,
    suite: SupportedCipherSuite,
    records: impl Fn(&mut Client) -> Vec<u8>,
) -> (Vec<(u8, Vec<u8>)>, String) {
    let (mut server, client) = pair(own, suite, None).await;
    let (mut socket, session) = client.into_inner();
    let mut client = Client::new(suite, session.dangerous_extract_secrets().unwrap());
    let bytes = records(&mut client);
    within(LIMIT, "an alert", async {
        socket.write_all(&bytes).await.unwrap();
        let error = loop {
            match server.read(&mut [0; 100_000]).await {
                Ok(0) => panic!("the stream ended without an error"),
                Ok(_) => {}
                Err(error) => break error,
            }
        };
        assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{error}");
        drop(server);
        let mut answer = Vec::new();
        // If the server left data unread, a TCP reset follows the alert.
        let _ = socket.read_to_end(&mut answer).await;
        (client.open(&answer), error.to_string())
    })
    .await
}

type Records = fn(&mut Client) -> Vec<u8>;

/// The name of each violation, the records that the client sends, and the expected alert.
const BOTH_VERSIONS: [(&str, Records, AlertDescription); 9] = [
    (
        "change_cipher_spec",
        |_| vec![20, 3, 3, 0, 1, 1],
        AlertDescription::UnexpectedMessage,
    ),
    (
        "unknown content type",
        |_| [&[99, 3, 3, 0, 32][..], &[0; 32]].concat(),
        AlertDescription::UnexpectedMessage,
    ),
    (
        "something that is not TLS",
        |_| b"GET / HTTP/1.1\r\n\r\n".to_vec(),
        AlertDescription::UnexpectedMessage,
    ),
    (
        "ciphertext too long",
        |_| vec![23, 3, 3, 0x48, 0x01],
        AlertDescription::RecordOverflow,
    ),
    (
        "plaintext too long",
        |client| client.seal(content::DATA, &[1; MAX_PLAINTEXT + 1]),
        AlertDescription::RecordOverflow,
    ),
    (
        "bad MAC",
        |client| {
            let mut record = client.seal(content::DATA, b"some");
            *record.last_mut().unwrap() ^= 1;
            record
        },
        AlertDescription::BadRecordMac,
    ),
    (
        "shorter than a tag",
        |_| vec![23, 3, 3, 0, 3, 0, 0, 0],
        AlertDescription::BadRecordMac,
    ),
    (
        "empty alert",
        |client| client.seal(content::ALERT, b""),
        AlertDescription::UnexpectedMessage,
    ),
    (
        "31 empty records",
        |client| {
            (0..31)
                .flat_map(|_| client.seal(content::DATA, b""))
                .collect()
        },
        AlertDescription::UnexpectedMessage,
    ),
];

const TLS13: [(&str, Records, AlertDescription); 10] = [
    (
        "ciphertext too long for TLS 1.3",
        |_| vec![23, 3, 3, 0x41, 0x01],
        AlertDescription::RecordOverflow,
    ),
    (
        "encrypted change_cipher_spec",
        |client| client.seal(content::CHANGE_CIPHER_SPEC, &[1]),
        AlertDescription::UnexpectedMessage,
    ),
    (
        "unknown inner content type",
        |client| client.seal(99, b"some"),
        AlertDescription::UnexpectedMessage,
    ),
    (
        "padding alone",
        |client| client.seal(0, &[0; 20]),
        AlertDescription::UnexpectedMessage,
    ),
    (
        "plaintext handshake message",
        |_| [&[22, 3, 3, 0, 32][..], &[24; 32]].concat(),
        AlertDescription::UnexpectedMessage,
    ),
    (
        "empty handshake record",
        |client| client.seal(content::HANDSHAKE, b""),
        AlertDescription::UnexpectedMessage,
    ),
    (
        "data within a handshake message",
        |client| {
            let first = client.seal(content::HANDSHAKE, &[24, 0, 0]);
            [first, client.seal(content::DATA, b"some")].concat()
        },
        AlertDescription::UnexpectedMessage,
    ),
    (
        "key update of an unknown kind",
        |client| client.seal(content::HANDSHAKE, &[24, 0, 0, 1, 2]),
        AlertDescription::IllegalParameter,
    ),
    (
        "key update of a wrong length",
        |client| client.seal(content::HANDSHAKE, &[24, 0, 0, 2, 0, 0]),
        AlertDescription::DecodeError,
    ),
    (
        "31 warnings",
        |client| {
            (0..31)
                .flat_map(|_| client.seal(content::ALERT, &[1, 90]))
                .collect()
        },
        AlertDescription::UnexpectedMessage,
    ),
];

const TLS12: [(&str, Records, AlertDescription); 2] = [
    (
        "31 warnings",
        |client| {
            (0..31)
                .flat_map(|_| client.seal(content::ALERT, &[1, 41]))
                .collect()
        },
        AlertDescription::UnexpectedMessage,
    ),
    (
        "a second request to renegotiate",
        |client| {
            let hello = hello(with_clients(true).1);
            let first = client.seal(content::HANDSHAKE, &hello[HEADER..]);
            [first, client.seal(content::HANDSHAKE, &hello[HEADER..])].concat()
        },
        AlertDescription::UnexpectedMessage,
    ),
];

#[tokio::test]
async fn violations_are_answered_by_the_required_alert() {
    const FATAL: u8 = 2;
    for suite in [
        aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256,
        aws_lc_rs::cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
        aws_lc_rs::cipher_suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
    ] {
        let is_tls13 = suite.version().version == ProtocolVersion::TLSv1_3;
        let more: &[_] = if is_tls13 { &TLS13 } else { &TLS12 };
        for (name, records, alert) in BOTH_VERSIONS.iter().chain(more) {
            for own in BOTH {
                let (answer, error) = answer(own, suite, records).await;
                let last = answer.last();
                let expected = (content::ALERT, vec![FATAL, u8::from(*alert)]);
                assert_eq!(
                    last,
                    Some(&expected),
                    "{name}, {suite:?}, own {own}: {error}"
                );
            }
        }
    }
}

/// The test pads the fragments as a JDK does.
#[tokio::test]
async fn fragmented_key_updates_are_processed() {
    for own in BOTH {
        let (mut server, client) = pair(own, any_suite(), None).await;
        let (mut socket, session) = client.into_inner();
        let secrets = session.dangerous_extract_secrets().unwrap();
        let mut client = Client::new(any_suite(), secrets);
        let mut bytes = Vec::new();
        // Send only one key update, because this client cannot derive the next keys.
        let pieces = [24, 0, 0, 1];
        for byte in pieces {
            let mut padded = vec![byte, content::HANDSHAKE];
            padded.resize(18, 0);
            bytes.extend(client.seal(0, &padded));
        }
        bytes.extend(client.seal(content::HANDSHAKE, &[1]));
        within(LIMIT, "the answer", async {
            socket.write_all(&bytes).await.unwrap();
            let mut nothing = [0; 10];
            let mut answer = [0; 27];
            tokio::select! {
                read = server.read(&mut nothing) => panic!("{read:?}"),
                read = socket.read_exact(&mut answer) => drop(read.unwrap()),
            }
            let opened = client.open(&answer);
            assert_eq!(opened, [(content::HANDSHAKE, vec![24, 0, 0, 1, 0])]);
        })
        .await;
    }
}

#[tokio::test]
async fn empty_records_up_to_the_limit_are_read() {
    for own in BOTH {
        let (mut server, client) = pair(own, any_suite(), None).await;
        let (mut socket, session) = client.into_inner();
        let secrets = session.dangerous_extract_secrets().unwrap();
        let mut client = Client::new(any_suite(), secrets);
        let mut bytes = Vec::new();
        for _ in 0..3 {
            for _ in 0..30 {
                bytes.extend(client.seal(content::DATA, b""));
            }
            bytes.extend(client.seal(content::DATA, b"x"));
        }
        within(LIMIT, "the data", async {
            socket.write_all(&bytes).await.unwrap();
            let mut seen = [0; 3];
            server.read_exact(&mut seen).await.unwrap();
            assert_eq!(&seen, b"xxx");
        })
        .await;
    }
}
