//! The stream against a rustls client over real sockets, with both record layers.

use std::sync::Arc;

use leastconn_testkit::{TestCa, data::pattern, within};
use rustls::{
    ClientConfig, RootCertStore, ServerConfig, SupportedCipherSuite,
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::ServerName,
    server::NoServerSessionStorage,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::{TlsConnector, client};

use super::super::{HandshakeError, HandshakeErrorKind, accept, read_hello};
use crate::{algorithms::Algorithms, permit::Unscheduled, settings::RecordLayer};

/// Whether a connection uses this crate's record layer (`true`) or rustls' (`false`).
const BOTH: [bool; 2] = [false, true];
use super::*;
use std::io::Write;

const LIMIT: std::time::Duration = leastconn_testkit::DEADLINE;

/// The server's and the client's end of a connection.
async fn pair(
    own: bool,
    suite: SupportedCipherSuite,
    fragment: Option<usize>,
) -> (TlsStream, client::TlsStream<TcpStream>) {
    let ca = TestCa::new("stream tests");
    let mut cert = ca.leaf("server").dns("localhost");
    if format!("{suite:?}").contains("_ECDHE_RSA_") {
        cert = cert.rsa();
    }
    let cert = cert.build();
    let mut server = ServerConfig::builder_with_provider(provider(own))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(cert.chain_der.clone(), cert.key_der.clone_key())
        .unwrap();
    server.session_storage = Arc::new(NoServerSessionStorage {});
    server.send_tls13_tickets = 0;
    server.enable_secret_extraction = own;

    let mut roots = RootCertStore::empty();
    roots.add(ca.cert().der().clone()).unwrap();
    let mut provider = aws_lc_rs::default_provider();
    provider.cipher_suites = vec![suite];
    let mut client = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    client.max_fragment_size = fragment;
    client.enable_secret_extraction = true;

    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let connecting = async {
        let socket = TcpStream::connect(address).await.unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        TlsConnector::from(Arc::new(client))
            .connect(name, socket)
            .await
            .unwrap()
    };
    let accepting = async {
        let (mut socket, _) = listener.accept().await.unwrap();
        let hello = read_hello(&mut socket, &mut Vec::new()).await.unwrap();
        accept(socket, hello, &Arc::new(server).into(), &Unscheduled)
            .await
            .map_err(|(error, _)| error)
            .unwrap()
    };
    let (client, server) = within(LIMIT, "a handshake", async {
        tokio::join!(connecting, accepting)
    })
    .await;
    (server, client)
}

fn provider(own: bool) -> Arc<CryptoProvider> {
    let records = if own {
        RecordLayer::Direct
    } else {
        RecordLayer::Rustls
    };
    Arc::new(crate::provider::provider(&Algorithms::default(), records))
}

fn any_suite() -> SupportedCipherSuite {
    aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256
}

/// Reads until the peer closes, and checks every byte.
async fn expect(stream: &mut (impl AsyncRead + Unpin), count: usize) {
    let mut seen = 0;
    // This size makes reads end at varying positions within records.
    let mut buffer = vec![0; 10_007];
    loop {
        let read = stream.read(&mut buffer).await.unwrap();
        if read == 0 {
            break;
        }
        assert!(
            buffer[..read] == pattern(seen as u64, read),
            "wrong bytes after {seen}"
        );
        seen += read;
    }
    assert_eq!(seen, count);
}

#[tokio::test]
async fn every_suite_transfers_data_in_both_directions() {
    for own in BOTH {
        const COUNT: usize = 300_000;
        for &suite in aws_lc_rs::ALL_CIPHER_SUITES {
            let (server, client) = pair(own, suite, None).await;
            let (mut server_reads, mut server_writes) = tokio::io::split(server);
            let (mut client_reads, mut client_writes) = tokio::io::split(client);
            let data = pattern(0, COUNT);
            within(LIMIT, "a transfer", async {
                tokio::join!(
                    async {
                        server_writes.write_all(&data).await.unwrap();
                        server_writes.shutdown().await.unwrap();
                    },
                    async {
                        client_writes.write_all(&data).await.unwrap();
                        client_writes.shutdown().await.unwrap();
                    },
                    expect(&mut server_reads, COUNT),
                    expect(&mut client_reads, COUNT),
                )
            })
            .await;
        }
    }
}

#[tokio::test]
async fn tiny_records_arrive_whole() {
    for own in BOTH {
        let (mut server, mut client) = pair(own, any_suite(), Some(32)).await;
        within(LIMIT, "a transfer", async {
            tokio::join!(
                async {
                    client.write_all(&pattern(0, 50_000)).await.unwrap();
                    client.shutdown().await.unwrap();
                },
                expect(&mut server, 50_000)
            )
        })
        .await;
    }
}

#[tokio::test]
async fn small_read_buffers_receive_everything() {
    for own in BOTH {
        let (mut server, mut client) = pair(own, any_suite(), None).await;
        let sending = async {
            client.write_all(&pattern(0, 100_000)).await.unwrap();
            client.shutdown().await.unwrap();
        };
        let reading = async {
            let mut seen = Vec::new();
            let mut little = [0; 7];
            loop {
                match server.read(&mut little).await.unwrap() {
                    0 => return seen,
                    count => seen.extend_from_slice(&little[..count]),
                }
            }
        };
        let ((), seen) = within(LIMIT, "a transfer", async {
            tokio::join!(sending, reading)
        })
        .await;
        assert!(seen == pattern(0, 100_000));
    }
}

#[tokio::test]
async fn key_updates_are_processed_and_answered() {
    for own in BOTH {
        let (mut server, mut client) = pair(own, any_suite(), None).await;
        within(LIMIT, "a conversation", async {
            for round in 0..20_u8 {
                // Update the client's keys, and request an update of the server's keys.
                client.get_mut().1.refresh_traffic_keys().unwrap();
                client.write_all(&[round; 1000]).await.unwrap();
                client.flush().await.unwrap();
                let mut seen = [0; 1000];
                server.read_exact(&mut seen).await.unwrap();
                assert_eq!(seen, [round; 1000]);
                server.write_all(&seen).await.unwrap();
                client.read_exact(&mut seen).await.unwrap();
                assert_eq!(seen, [round; 1000]);
            }
        })
        .await;
    }
}

/// Data from the client between key updates must not refill the limit.
#[tokio::test]
async fn too_many_key_updates_end_the_connection() {
    for own in BOTH {
        let (mut server, mut client) = pair(own, any_suite(), None).await;
        let flooding = async {
            for _ in 0..100_000 {
                client.get_mut().1.refresh_traffic_keys().unwrap();
                if client.write_all(b"x").await.is_err() || client.flush().await.is_err() {
                    return;
                }
            }
            panic!("the server accepted 100,000 key updates");
        };
        // Move `server` into this future: dropping the server closes its socket.
        let reading = async move {
            let mut seen = 0;
            let mut buffer = [0; 100];
            loop {
                match server.read(&mut buffer).await {
                    Ok(0) => panic!("the stream ended without an error"),
                    Ok(count) => seen += count,
                    Err(error) => break (seen, error),
                }
            }
        };
        let both = async { tokio::join!(flooding, reading) };
        let ((), (seen, error)) = within(LIMIT, "the end", both).await;
        assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{error}");
        // The server reads one byte after each accepted key update. The number varies: bytes in
        // the same read as the refused key update are lost, and delays add tokens.
        assert!((50..10_000).contains(&seen), "{seen}");
    }
}

#[tokio::test]
async fn fin_without_close_notify_is_an_error() {
    for own in BOTH {
        let (mut server, mut client) = pair(own, any_suite(), None).await;
        within(LIMIT, "a truncation", async {
            client.write_all(b"half a sen").await.unwrap();
            client.flush().await.unwrap();
            let (mut socket, _session) = client.into_inner();
            socket.shutdown().await.unwrap();
            let mut seen = [0; 10];
            server.read_exact(&mut seen).await.unwrap();
            let error = server.read(&mut seen).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        })
        .await;
    }
}

#[tokio::test]
async fn forged_record_is_answered_by_an_alert() {
    for own in BOTH {
        let (mut server, client) = pair(own, any_suite(), None).await;
        within(LIMIT, "a forgery", async {
            let (mut socket, _session) = client.into_inner();
            // Send unencrypted application data.
            socket.write_all(&[23, 3, 3, 0, 32]).await.unwrap();
            socket.write_all(&[7; 32]).await.unwrap();
            let error = server.read(&mut [0; 10]).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData);
            drop(server);
            let mut answer = Vec::new();
            socket.read_to_end(&mut answer).await.unwrap();
            // An encrypted record: 5 bytes of header, 2 of alert, 1 of type, 16 of tag.
            assert_eq!(answer.len(), 24, "{answer:?}");
        })
        .await;
    }
}

#[tokio::test]
async fn other_direction_works_after_half_close() {
    for own in BOTH {
        let (mut server, mut client) = pair(own, any_suite(), None).await;
        within(LIMIT, "a conversation", async {
            client.shutdown().await.unwrap();
            assert_eq!(server.read(&mut [0; 10]).await.unwrap(), 0);
            server.write_all(b"still here").await.unwrap();
            server.shutdown().await.unwrap();
            let mut seen = String::new();
            client.read_to_string(&mut seen).await.unwrap();
            assert_eq!(seen, "still here");
        })
        .await;
    }
}

#[tokio::test]
async fn writer_waits_for_the_reader() {
    for own in BOTH {
        let (mut server, client) = pair(own, any_suite(), None).await;
        // Write until the socket is full. The kernel's buffers hold a few MiB.
        let megabyte = vec![0; 1 << 20];
        let mut written = 0;
        while let Ok(count) = tokio::time::timeout(
            std::time::Duration::from_millis(300),
            server.write(&megabyte),
        )
        .await
        {
            written += count.unwrap();
            assert!(written < 64 << 20, "the stream buffers without a limit");
        }
        drop(client);
    }
}

/// Performs a handshake with `script` as the client. Returns the error of `server` and the result
/// of `script`.
async fn refused(
    server: ServerConfig,
    script: impl AsyncFnOnce(TcpStream) -> Vec<u8>,
) -> (HandshakeError, Vec<u8>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let accepting = async {
        let (mut socket, _) = listener.accept().await.unwrap();
        let hello = match read_hello(&mut socket, &mut Vec::new()).await {
            Ok(hello) => hello,
            Err(error) => {
                socket.shutdown().await.unwrap();
                return error.error;
            }
        };
        match accept(socket, hello, &Arc::new(server).into(), &Unscheduled).await {
            Ok(_) => panic!("the handshake succeeded"),
            Err((error, mut socket)) => {
                socket.shutdown().await.unwrap();
                let _ = socket.read_to_end(&mut Vec::new()).await;
                error.error
            }
        }
    };
    let connecting = async { script(TcpStream::connect(address).await.unwrap()).await };
    within(LIMIT, "a refusal", async {
        tokio::join!(accepting, connecting)
    })
    .await
}

fn with_clients(own: bool) -> (ServerConfig, ClientConfig) {
    let ca = TestCa::new("stream tests");
    let cert = ca.server(&["localhost"]);
    let mut roots = RootCertStore::empty();
    roots.add(ca.cert().der().clone()).unwrap();
    let provider = provider(own);
    let verifier = rustls::server::WebPkiClientVerifier::builder_with_provider(
        roots.clone().into(),
        Arc::clone(&provider),
    );
    let mut server = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier.build().unwrap())
        .with_single_cert(cert.chain_der.clone(), cert.key_der.clone_key())
        .unwrap();
    server.enable_secret_extraction = own;
    let client = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    (server, client)
}

#[tokio::test]
async fn client_without_certificate_gets_an_alert() {
    for own in BOTH {
        let (server, client) = with_clients(own);
        let (error, said) = refused(server, async |socket| {
            let name = ServerName::try_from("localhost").unwrap();
            let connected = TlsConnector::from(Arc::new(client)).connect(name, socket);
            // In TLS 1.3, the client can complete its handshake before the server refuses it.
            let error = match connected.await {
                Ok(mut stream) => stream.read(&mut [0; 1]).await.unwrap_err(),
                Err(error) => error,
            };
            error.to_string().into_bytes()
        })
        .await;
        assert_eq!(error.kind(), HandshakeErrorKind::NoCertificate);
        let said = String::from_utf8(said).unwrap();
        assert!(said.contains("CertificateRequired"), "{said}");
    }
}

/// A ClientHello sent by rustls.
fn hello(client: ClientConfig) -> Vec<u8> {
    let name = ServerName::try_from("localhost").unwrap();
    let mut session = rustls::ClientConnection::new(Arc::new(client), name).unwrap();
    let mut hello = Vec::new();
    session.write_tls(&mut hello).unwrap();
    hello
}

#[tokio::test]
async fn invalid_handshakes_are_answered_by_alerts() {
    const HANDSHAKE: u8 = 22;
    for own in BOTH {
        // The record that the client sends instead of its Finished.
        let plain_data = [
            23, 3, 3, 0, 20, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0,
        ];
        let (server, client) = with_clients(own);
        let hello = hello(client);
        let fragments = hello[5..]
            .iter()
            .flat_map(|&byte| [HANDSHAKE, 3, 1, 0, 1, byte]);
        let fragments: Vec<u8> = fragments.collect();
        for (sent, all) in [
            (b"GET / HTTP/1.1\r\n\r\n".to_vec(), false),
            (hello, true),
            (fragments, true),
        ] {
            let (error, answer) = refused(server.clone(), async |mut socket| {
                socket.write_all(&sent).await.unwrap();
                let mut answer = Vec::new();
                if all {
                    socket.read_buf(&mut answer).await.unwrap();
                    socket.write_all(&plain_data).await.unwrap();
                }
                let _ = socket.read_to_end(&mut answer).await;
                answer
            })
            .await;
            assert_eq!(error.kind(), HandshakeErrorKind::Other, "{error}");
            // If the ClientHello was complete, the answer contains the server's flight and then
            // the alert.
            assert_eq!(answer.len() > 100, all, "{error}: {answer:?}");
            assert!(!answer.is_empty());
        }
    }
}

#[tokio::test]
async fn data_after_the_handshake_is_not_lost() {
    const MUCH: usize = 300_000;
    for own in BOTH {
        let (mut server, client) = with_clients(own);
        // The client has no certificate, so its last flight is one record.
        let ca = TestCa::new("another");
        let cert = ca.server(&["localhost"]);
        let mut anyone = ServerConfig::builder_with_provider(Arc::clone(server.crypto_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(cert.chain_der.clone(), cert.key_der.clone_key())
            .unwrap();
        anyone.send_tls13_tickets = 0;
        anyone.enable_secret_extraction = own;
        server = anyone;
        let mut client = client;
        let mut roots = RootCertStore::empty();
        roots.add(ca.cert().der().clone()).unwrap();
        client = ClientConfig::builder_with_provider(Arc::clone(client.crypto_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let peer = tokio::task::spawn_blocking(move || {
            let mut socket = std::net::TcpStream::connect(address).unwrap();
            let name = ServerName::try_from("localhost").unwrap();
            let mut session = rustls::ClientConnection::new(Arc::new(client), name).unwrap();
            // rustls buffers this data until the handshake is complete, then sends it with
            // the client's last flight.
            session.set_buffer_limit(None);
            session.writer().write_all(&pattern(0, MUCH)).unwrap();
            session.complete_io(&mut socket).unwrap();
            session.refresh_traffic_keys().unwrap();
            session.writer().write_all(b" bird").unwrap();
            session.send_close_notify();
            while session.wants_write() {
                session.write_tls(&mut socket).unwrap();
            }
            (socket, session)
        });
        let (mut socket, _) = listener.accept().await.unwrap();
        let hello = read_hello(&mut socket, &mut Vec::new()).await.unwrap();
        let accepted = accept(socket, hello, &Arc::new(server).into(), &Unscheduled).await;
        let mut stream = accepted.map_err(|(error, _)| error).unwrap();
        let mut seen = Vec::new();
        within(LIMIT, "what was sent", stream.read_to_end(&mut seen))
            .await
            .unwrap();
        assert!(seen[..MUCH] == pattern(0, MUCH));
        assert_eq!(seen[MUCH..], *b" bird");
        drop(peer.await.unwrap());
    }
}

mod control;
mod openssl;
mod violations;
