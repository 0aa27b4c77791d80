//! Our stream against rustls' own client, over real sockets, with either record
//! layer.

use std::sync::Arc;

use leastconn_testkit::{TestCa, data::pattern, within};
use rustls::{
    ClientConfig, RootCertStore, ServerConfig, SupportedCipherSuite, crypto::aws_lc_rs,
    pki_types::ServerName, server::NoServerSessionStorage,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::{TlsConnector, client};

use super::super::{accept, read_hello};

/// Whether records are our own.
const BOTH: [bool; 2] = [false, true];
use super::*;

const LIMIT: std::time::Duration = leastconn_testkit::DEADLINE;

/// A server's and a client's end of one connection.
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
    let provider = Arc::new(aws_lc_rs::default_provider());
    let mut server = ServerConfig::builder_with_provider(provider)
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
        let hello = read_hello(&mut socket).await.unwrap();
        accept(socket, hello, Arc::new(server))
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

fn any_suite() -> SupportedCipherSuite {
    aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256
}

/// Reads what the other side sends until it ends, checking every byte.
async fn expect(stream: &mut (impl AsyncRead + Unpin), count: usize) {
    let mut seen = 0;
    // An odd size, so that reads end anywhere within records.
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
async fn every_suite_of_both_versions_carries_bytes_both_ways() {
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
async fn a_reader_with_little_room_gets_everything() {
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
async fn key_updates_are_followed_and_answered() {
    for own in BOTH {
        let (mut server, mut client) = pair(own, any_suite(), None).await;
        within(LIMIT, "a conversation", async {
            for round in 0..20_u8 {
                // New keys for the client's direction, and a request for the server's.
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

#[tokio::test]
async fn an_end_without_close_notify_is_no_end() {
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
async fn a_forged_record_is_an_error_and_answered_by_an_alert() {
    for own in BOTH {
        let (mut server, client) = pair(own, any_suite(), None).await;
        within(LIMIT, "a forgery", async {
            let (mut socket, _session) = client.into_inner();
            // Application data that nobody encrypted.
            socket.write_all(&[23, 3, 3, 0, 32]).await.unwrap();
            socket.write_all(&[7; 32]).await.unwrap();
            let error = server.read(&mut [0; 10]).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData);
            drop(server);
            let mut answer = Vec::new();
            socket.read_to_end(&mut answer).await.unwrap();
            // An encrypted record: 5 of header, 2 of alert, 1 of type, 16 of tag.
            assert_eq!(answer.len(), 24, "{answer:?}");
        })
        .await;
    }
}

#[tokio::test]
async fn half_closed_the_other_direction_goes_on() {
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
async fn a_reader_that_does_not_read_makes_the_writer_wait() {
    for own in BOTH {
        let (mut server, client) = pair(own, any_suite(), None).await;
        // Until it takes no more for a moment; the kernel's buffers are some MiB.
        let megabyte = vec![0; 1 << 20];
        let mut written = 0;
        while let Ok(count) = tokio::time::timeout(
            std::time::Duration::from_millis(300),
            server.write(&megabyte),
        )
        .await
        {
            written += count.unwrap();
            assert!(written < 64 << 20, "the stream buffers without a bound");
        }
        drop(client);
    }
}
