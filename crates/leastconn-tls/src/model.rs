//! A stream against a rustls client in memory, for property tests and fuzzing. The model is a
//! sequence of bytes in each direction, which ends with `close_notify` or with a truncation.

use std::{
    io::{self, Read, Write},
    pin::{Pin, pin},
    sync::{Arc, LazyLock},
    task::Poll,
};

use aws_lc_rs::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair},
};
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, Error, ServerConfig, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::aws_lc_rs::{self as provider, cipher_suite},
    pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName, UnixTime},
    server::NoServerSessionStorage,
    sign::{CertifiedKey, SingleCertAndKey},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    runtime::Runtime,
};

use crate::{
    algorithms::Algorithms,
    direct::{
        DirectStream,
        drive::{RUNTIME, counted},
        into_direct,
        memory::{Socket, context},
    },
    permit::Unscheduled,
    settings::RecordLayer,
    unbuffered::handshake_for_direct,
};

/// Accepts any certificate and signature: the handshake itself is not tested here.
#[derive(Debug)]
struct AcceptAny;

impl ServerCertVerifier for AcceptAny {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ECDSA_NISTP256_SHA256]
    }
}

fn server() -> Option<Arc<ServerConfig>> {
    let random = SystemRandom::new();
    let key = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &random).ok()?;
    let key = PrivatePkcs8KeyDer::from(key.as_ref().to_vec());
    let key = provider::sign::any_supported_type(&key.into()).ok()?;
    // The client does not parse the certificate.
    let certified = CertifiedKey::new(vec![CertificateDer::from(vec![0x30, 0])], key);
    let ours = crate::provider::provider(&Algorithms::default(), RecordLayer::Direct);
    let mut config = ServerConfig::builder_with_provider(Arc::new(ours))
        .with_safe_default_protocol_versions()
        .ok()?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(certified)));
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.enable_secret_extraction = true;
    Some(Arc::new(config))
}

fn client(suite: rustls::SupportedCipherSuite) -> Option<Arc<ClientConfig>> {
    let mut provider = provider::default_provider();
    provider.cipher_suites = vec![suite];
    // The other groups are slower.
    provider.kx_groups = vec![provider::kx_group::X25519];
    let config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_safe_default_protocol_versions()
        .ok()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AcceptAny))
        .with_no_client_auth();
    Some(Arc::new(config))
}

static SERVER: LazyLock<Option<Arc<ServerConfig>>> = LazyLock::new(server);

/// A client for each of the suites that `setting` selects.
static CLIENTS: LazyLock<[Option<Arc<ClientConfig>>; 4]> = LazyLock::new(|| {
    [
        cipher_suite::TLS13_AES_128_GCM_SHA256,
        cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
        cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
        cipher_suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
    ]
    .map(client)
});

/// A client and a stream after the handshake.
fn connect(setting: u8) -> Option<(ClientConnection, Socket, DirectStream<Socket>)> {
    let config = CLIENTS[usize::from(setting & 3)].clone()?;
    let mut client = ClientConnection::new(config, "localhost".try_into().ok()?).ok()?;
    client.set_buffer_limit(None);
    let wire = Socket::default();
    wire.0.borrow_mut().readable = usize::MAX / 2;
    wire.0.borrow_mut().writable = usize::MAX / 2;
    let mut socket = wire.clone();
    let done = {
        let server = SERVER.clone()?;
        let mut handshake = pin!(handshake_for_direct(
            &mut socket,
            Vec::new(),
            server.into(),
            &Unscheduled
        ));
        // A handshake has at most three flights of each side.
        let mut done = None;
        for _ in 0..8 {
            send(&mut client, &wire);
            if let Poll::Ready(result) = handshake.as_mut().poll(&mut context()) {
                done = Some(result.ok()?);
            }
            receive(&mut client, &wire, usize::MAX, &mut Vec::new()).ok()?;
            if done.is_some() && !client.is_handshaking() {
                break;
            }
        }
        done?
    };
    wire.0.borrow_mut().readable = 0;
    wire.0.borrow_mut().writable = 0;
    let stream = into_direct(socket, done.secrets, &done.unopened);
    let stream = stream.map_err(|(violation, _)| violation).ok()?;
    Some((client, wire, stream))
}

/// Moves everything that the client has to send to the wire.
fn send(client: &mut ClientConnection, wire: &Socket) {
    let mut records = Vec::new();
    while client.wants_write() {
        // Writing to memory does not fail.
        let _ = client.write_tls(&mut records);
    }
    wire.0.borrow_mut().inbound.extend(records);
}

/// Passes up to `count` bytes to the client, and appends what it decrypts to `received`. Returns
/// whether `close_notify` has arrived.
fn receive(
    client: &mut ClientConnection,
    wire: &Socket,
    count: usize,
    received: &mut Vec<u8>,
) -> Result<bool, Error> {
    let mut wire = wire.0.borrow_mut();
    let count = count.min(wire.outbound.len());
    let taken: Vec<u8> = wire.outbound.drain(..count).collect();
    let mut left = &taken[..];
    while !left.is_empty() {
        let _ = client.read_tls(&mut left);
        let processed = client.process_new_packets();
        // The client accepts nothing more while it holds too much plaintext. Data before an alert
        // counts, too.
        plaintext(client, received);
        processed?;
    }
    Ok(plaintext(client, received))
}

/// Reads the plaintext that the client has decrypted. Returns whether `close_notify` has arrived.
fn plaintext(client: &mut ClientConnection, received: &mut Vec<u8>) -> bool {
    let mut part = [0; 4096];
    loop {
        match client.reader().read(&mut part) {
            Ok(0) => return true,
            Ok(count) => received.extend_from_slice(&part[..count]),
            Err(_) => return false,
        }
    }
}

/// How the stream ended for its reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Orderly,
    Failed(io::ErrorKind),
}

/// Performs the operations that `data` encodes. Each side must receive exactly what the other side
/// has sent, and the end must be the one that was sent. If bytes were changed on the wire, the
/// stream must deliver a prefix.
pub(crate) fn drive(data: &[u8]) {
    let Some((&setting, mut data)) = data.split_first() else {
        return;
    };
    let _entered = RUNTIME.as_ref().map(Runtime::enter);
    let Some((mut client, wire, mut stream)) = connect(setting) else {
        panic!("the handshake failed");
    };
    wire.0.borrow_mut().piece = usize::from(setting >> 2) * 61;
    let is_tls13 = setting & 2 == 0;
    let (mut sent, mut read, mut end) = (0, Vec::new(), None);
    let (mut written, mut received) = (0, Vec::new());
    let (mut closed, mut shut, mut forged) = (false, false, false);
    // A higher number of key updates pauses the stream.
    let mut updates = 20;
    while let [op, length, rest @ ..] = data {
        data = rest;
        let many = usize::from(*length) * (1 + usize::from(op >> 4) * 16);
        match op & 15 {
            0..=2 if !closed => {
                let _ = client.writer().write_all(&counted(sent, many));
                sent += many;
                send(&mut client, &wire);
            }
            3 if is_tls13 && !closed && updates > 0 => {
                updates -= 1;
                let _ = client.refresh_traffic_keys();
                send(&mut client, &wire);
            }
            4 if !closed => {
                closed = true;
                client.send_close_notify();
                send(&mut client, &wire);
            }
            5 => {
                let mut wire = wire.0.borrow_mut();
                if let Some(byte) = wire.inbound.get_mut(many) {
                    *byte ^= 1 << (op >> 4 & 7);
                    forged = true;
                }
            }
            6 | 7 => wire.0.borrow_mut().readable += many,
            8 => wire.0.borrow_mut().writable += many,
            9 => {
                if receive(&mut client, &wire, many, &mut received).is_err() && !forged {
                    panic!("the client cannot read what the stream has sent");
                }
                // The client may answer a key update.
                send(&mut client, &wire);
            }
            10 | 11 if end.is_none() => poll_read(&mut stream, many, &mut read, &mut end),
            12 | 13 if !shut => {
                let bytes = counted(written, many);
                if let Poll::Ready(Ok(count)) =
                    Pin::new(&mut stream).poll_write(&mut context(), &bytes)
                {
                    written += count;
                }
            }
            14 => {
                let _ = Pin::new(&mut stream).poll_flush(&mut context());
            }
            15 => {
                shut = true;
                let _ = Pin::new(&mut stream).poll_shutdown(&mut context());
            }
            _ => {}
        }
    }
    {
        let mut wire = wire.0.borrow_mut();
        wire.readable = usize::MAX / 2;
        wire.writable = usize::MAX / 2;
        wire.ended = true;
    }
    while end.is_none() {
        let before = read.len();
        poll_read(&mut stream, 1 << 15, &mut read, &mut end);
        assert!(
            end.is_some() || read.len() > before,
            "the stream waits although everything has arrived"
        );
    }
    let expected = counted(0, sent);
    if forged {
        assert!(expected.starts_with(&read), "forged bytes were delivered");
    } else {
        assert!(read == expected, "bytes of the client differ");
        let truncated = End::Failed(io::ErrorKind::UnexpectedEof);
        let expected = if closed { End::Orderly } else { truncated };
        assert_eq!(end, Some(expected));
    }
    let done = Pin::new(&mut stream).poll_shutdown(&mut context());
    assert!(matches!(done, Poll::Ready(Ok(()))));
    // The alert that answers a violation ends the connection for the client.
    let ended = receive(&mut client, &wire, usize::MAX, &mut received);
    assert!(
        received == counted(0, written),
        "bytes for the client differ: {} of {written}, {ended:?}, forged {forged}",
        received.len()
    );
    assert!(ended == Ok(true) || forged, "no close_notify: {ended:?}");
}

fn poll_read(
    stream: &mut DirectStream<Socket>,
    space: usize,
    read: &mut Vec<u8>,
    end: &mut Option<End>,
) {
    if space == 0 {
        return;
    }
    let mut space = vec![0; space];
    let mut buffer = ReadBuf::new(&mut space);
    match Pin::new(stream).poll_read(&mut context(), &mut buffer) {
        Poll::Ready(Ok(())) if buffer.filled().is_empty() => *end = Some(End::Orderly),
        Poll::Ready(Ok(())) => read.extend_from_slice(buffer.filled()),
        Poll::Ready(Err(error)) => *end = Some(End::Failed(error.kind())),
        Poll::Pending => {}
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn stream_agrees_with_a_rustls_client(data in prop::collection::vec(any::<u8>(), 0..120)) {
            drive(&data);
        }
    }
}
