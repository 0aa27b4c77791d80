use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::*;
use crate::client::{TlsClient, alert, read_line, read_to_close, roundtrip};
use crate::data::{pattern, sha256_hex};

async fn connect(upstream: &Upstream) -> TcpStream {
    TcpStream::connect(upstream.addr()).await.unwrap()
}

#[tokio::test]
async fn connections_are_counted() {
    let upstream = Upstream::named("web1").await;
    let mut one = connect(&upstream).await;
    let two = connect(&upstream).await;
    upstream.wait_open(2).await;
    assert_eq!(read_line(&mut one).await.unwrap(), "web1");
    let bytes = pattern(0, 3_000_000);
    assert!(roundtrip(&mut one, &bytes).await.unwrap() == bytes);
    drop((one, two));
    upstream.wait_open(0).await;
    assert_eq!(upstream.accepted(), 2);
}

#[tokio::test]
async fn behaviours_answer_after_half_close() {
    let bytes = pattern(7, 200_000);
    for (behaviour, response) in [
        (Behaviour::Sink, sha256_hex(&bytes).into_bytes()),
        (
            Behaviour::DelayedResponse {
                delay: Duration::from_millis(1),
                bytes: 99,
            },
            pattern(0, 99),
        ),
        (Behaviour::Source { bytes: 70_000 }, pattern(0, 70_000)),
    ] {
        let upstream = Upstream::start(behaviour).await;
        let mut stream = connect(&upstream).await;
        stream.write_all(&bytes).await.unwrap();
        stream.shutdown().await.unwrap();
        assert!(read_to_close(&mut stream).await.unwrap() == response);
    }
}

#[tokio::test]
async fn reset_behaviours_send_rst() {
    let upstream = Upstream::start(Behaviour::AcceptThenReset).await;
    let reset = read_to_close(&mut connect(&upstream).await)
        .await
        .unwrap_err();
    assert_eq!(reset.kind(), io::ErrorKind::ConnectionReset);
    upstream.set_behaviour(Behaviour::ResetAfter(10));
    let mut stream = connect(&upstream).await;
    stream.write_all(&[0; 9]).await.unwrap();
    upstream.wait_open(1).await;
    stream.write_all(&[0; 9]).await.unwrap();
    let reset = read_to_close(&mut stream).await.unwrap_err();
    assert_eq!(reset.kind(), io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn stopped_server_refuses_and_restarts() {
    let upstream = Upstream::start(Behaviour::Echo).await;
    let mut kept = connect(&upstream).await;
    roundtrip(&mut kept, b"a").await.unwrap();
    upstream.stop(OpenConnections::Keep).await;
    let refused = TcpStream::connect(upstream.addr()).await.unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
    roundtrip(&mut kept, b"a").await.unwrap();
    upstream.restart().await;
    let mut closed = connect(&upstream).await;
    roundtrip(&mut closed, b"a").await.unwrap();
    upstream.stop(OpenConnections::Close).await;
    assert_eq!(closed.read(&mut [0]).await.unwrap(), 0);
    roundtrip(&mut kept, b"a").await.unwrap();
    drop(kept);
    upstream.wait_open(0).await;
    upstream.restart().await;
    roundtrip(&mut connect(&upstream).await, b"b")
        .await
        .unwrap();
}

#[tokio::test]
async fn tls_server_requires_client_certificate() {
    let ca = TestCa::new("ca");
    let upstream =
        Upstream::start_tls(Behaviour::Echo, &ca.server(&["db.lb.com"]), Some(&ca)).await;
    let cert = ca.leaf("client").build();
    for client in [
        TlsClient::new(&ca, Some(&cert)).tls12(),
        TlsClient::new(&ca, Some(&cert)).tls13(),
    ] {
        let mut stream = client
            .connect_sni(upstream.addr(), "db.lb.com")
            .await
            .unwrap();
        assert_eq!(roundtrip(&mut stream, b"hello").await.unwrap(), b"hello");
    }

    // In TLS 1.3, the client's handshake completes before the refusal arrives.
    let anonymous = TlsClient::new(&ca, None);
    let mut stream = anonymous
        .clone()
        .tls13()
        .connect(upstream.addr())
        .await
        .unwrap();
    let refused = read_to_close(&mut stream).await.unwrap_err();
    assert_eq!(
        alert(&refused),
        Some(rustls::AlertDescription::CertificateRequired)
    );
    assert!(anonymous.tls12().connect(upstream.addr()).await.is_err());
    upstream.wait_open(0).await;
}
