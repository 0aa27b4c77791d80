//! If one side finishes sending long before the other side, no data is lost.

use std::time::Duration;

use leastconn_testkit::client::{read_line, read_to_close, roundtrip};
use leastconn_testkit::data::{pattern, sha256_hex};
use leastconn_testkit::{Behaviour, Upstream};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::support::{CLIENT1, Records, Running, Site, TLS, both_record_layers, cn, entries, tcp};

both_record_layers! {
    #[tokio::test]
    half_close_by_the_client_is_forwarded,
    #[tokio::test]
    half_close_by_the_server_is_forwarded,
    #[tokio::test]
    data_after_the_clients_fin_is_unchanged,
    #[tokio::test]
    no_read_deadline_on_server_connections,
}

const ANSWER: usize = 1 << 20;

/// Starts a balancer with a TLS and a plain listener for one upstream. The timeouts for
/// connecting, handshakes and health checks are short, because they must not apply to
/// established connections.
async fn start(records: Records, behaviour: Behaviour) -> (Upstream, Running) {
    let web = Upstream::start(behaviour).await;
    let short_timeouts = [
        r#"health_check = { interval = "500ms", timeout = "500ms" }"#,
        "connect_timeout = \"1s\"",
    ];
    let short_handshake = "handshake_timeout = \"2s\"";
    let lb = Site::new()
        .records(records)
        .listener("main", &["upstream = \"web\"", short_handshake, TLS])
        .listener("plain", &["upstream = \"web\"", short_handshake])
        .upstream("web", &short_timeouts, &entries(&[&web]))
        .client("client1", &cn(CLIENT1), "web", "")
        .client("local", "source = \"127.0.0.0/8\"", "web", "")
        .start()
        .await;
    (web, lb)
}

async fn half_close_by_the_client_is_forwarded(records: Records) {
    let (_web, lb) = start(
        records,
        Behaviour::DelayedResponse {
            delay: Duration::from_millis(600),
            bytes: ANSWER as u64,
        },
    )
    .await;
    request_then_read(lb.client(CLIENT1).connect(lb.main()).await.unwrap()).await;
    request_then_read(tcp(lb.address("plain")).await).await;
    for record in lb.wait_records(2).await {
        assert_eq!(record["outcome"], "ok");
        assert_eq!(record["bytes_received"], 8);
        assert_eq!(record["bytes_sent"], ANSWER);
    }
    lb.quiet().await;
}

async fn request_then_read(mut stream: impl AsyncRead + AsyncWrite + Unpin) {
    stream.write_all(b"question").await.unwrap();
    stream.shutdown().await.unwrap();
    let answer = read_to_close(&mut stream).await.unwrap();
    assert!(answer == pattern(0, ANSWER), "{} bytes", answer.len());
}

async fn half_close_by_the_server_is_forwarded(records: Records) {
    let (_web, lb) = start(
        records,
        Behaviour::Source {
            bytes: ANSWER as u64,
        },
    )
    .await;
    read_then_send(lb.client(CLIENT1).connect(lb.main()).await.unwrap()).await;
    read_then_send(tcp(lb.address("plain")).await).await;
    for record in lb.wait_records(2).await {
        assert_eq!(record["outcome"], "ok");
        assert_eq!(record["bytes_received"], ANSWER);
        assert_eq!(record["bytes_sent"], ANSWER);
    }
    lb.quiet().await;
}

async fn read_then_send(mut stream: impl AsyncRead + AsyncWrite + Unpin) {
    let received = read_to_close(&mut stream).await.unwrap();
    assert!(received == pattern(0, ANSWER), "{} bytes", received.len());
    // The server has finished sending, but still receives.
    stream.write_all(&pattern(7, ANSWER)).await.unwrap();
    stream.shutdown().await.unwrap();
}

async fn data_after_the_clients_fin_is_unchanged(records: Records) {
    let (_web, lb) = start(records, Behaviour::Sink).await;
    let sent = pattern(0, 3 * ANSWER + 1);
    let mut stream = lb.client(CLIENT1).connect(lb.main()).await.unwrap();
    stream.write_all(&sent).await.unwrap();
    stream.shutdown().await.unwrap();
    let digest = read_to_close(&mut stream).await.unwrap();
    assert_eq!(String::from_utf8(digest).unwrap(), sha256_hex(&sent));
    lb.expect_record(0, "ok").await;
    lb.quiet().await;
}

/// A connection without traffic has no read deadline except the idle timeout. The test waits
/// longer than all other timeouts.
async fn no_read_deadline_on_server_connections(records: Records) {
    let (_web, lb) = start(records, Behaviour::Named("web1".to_owned())).await;
    let mut tls = lb.client(CLIENT1).connect(lb.main()).await.unwrap();
    let mut plain = tcp(lb.address("plain")).await;
    read_line(&mut tls).await.unwrap();
    read_line(&mut plain).await.unwrap();
    tokio::time::sleep(Duration::from_millis(2500)).await;
    for _ in 0..2 {
        assert_eq!(
            roundtrip(&mut tls, b"still here").await.unwrap(),
            b"still here"
        );
        assert_eq!(
            roundtrip(&mut plain, b"still here").await.unwrap(),
            b"still here"
        );
    }
    tls.shutdown().await.unwrap();
    plain.shutdown().await.unwrap();
    assert_eq!(tls.read(&mut [0]).await.unwrap(), 0);
    assert_eq!(plain.read(&mut [0]).await.unwrap(), 0);
    lb.expect_record(0, "ok").await;
    lb.expect_record(1, "ok").await;
    lb.quiet().await;
}
