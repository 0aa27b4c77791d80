//! `starttls = "postgres"`: the messages before the TLS handshake.

use leastconn_testkit::client::read_to_close;
use leastconn_testkit::{TlsClient, Upstream};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::{
    CLIENT1, NO_PROBES, Records, Running, Site, TLS, both_record_layers, cn, entries, talk, tcp,
};

const SSL_REQUEST: &[u8] = b"\0\0\0\x08\x04\xd2\x16\x2f";
const GSSENC_REQUEST: &[u8] = b"\0\0\0\x08\x04\xd2\x16\x30";
const CANCEL_REQUEST: &[u8] = b"\0\0\0\x10\x04\xd2\x16\x2e\0\0\0\x01\0\0\0\x02";
const STARTUP: &[u8] = b"\0\0\0\x14\0\x03\0\0user\0me\0\0\0\0\0";

both_record_layers! {
    #[tokio::test]
    ssl_request_leads_to_tls,
    #[tokio::test]
    gssenc_request_is_answered_no,
    #[tokio::test]
    direct_tls_is_served_with_postgresql_alpn,
    #[tokio::test]
    client_without_tls_gets_an_error,
    #[tokio::test]
    bytes_after_the_request_are_refused,
    #[tokio::test]
    silent_and_slow_clients_meet_the_deadline,
}

async fn start(records: Records, web: &Upstream, more: &str) -> Running {
    Site::new()
        .records(records)
        .listener(
            "main",
            &["upstream = \"web\"", "starttls = \"postgres\"", more, TLS],
        )
        .upstream("web", &[NO_PROBES], &entries(&[web]))
        .client("client1", &cn(CLIENT1), "web", "")
        .start()
        .await
}

/// Sends a request, and expects an answer with this byte.
async fn request(stream: &mut TcpStream, request: &[u8], answer: u8) {
    stream.write_all(request).await.unwrap();
    assert_eq!(stream.read_u8().await.unwrap(), answer);
}

async fn finish(client: &TlsClient, stream: TcpStream) {
    let tls = client.handshake(stream, "localhost").await.unwrap();
    assert_eq!(talk(tls).await.unwrap(), "web1");
}

async fn ssl_request_leads_to_tls(records: Records) {
    let web = Upstream::named("web1").await;
    let lb = start(records, &web, "").await;
    let client = lb.client(CLIENT1);
    for (n, client) in [client.clone().tls12(), client.tls13()].iter().enumerate() {
        let mut stream = tcp(lb.main()).await;
        // A request may arrive in any number of segments.
        for byte in &SSL_REQUEST[..7] {
            stream.write_all(&[*byte]).await.unwrap();
        }
        request(&mut stream, &SSL_REQUEST[7..], b'S').await;
        finish(client, stream).await;
        assert_eq!(
            lb.expect_record(n, "ok").await["identity"],
            "cn:client1.lb.com"
        );
    }
    lb.quiet().await;
}

async fn gssenc_request_is_answered_no(records: Records) {
    let web = Upstream::named("web1").await;
    let lb = start(records, &web, "").await;
    let mut stream = tcp(lb.main()).await;
    request(&mut stream, GSSENC_REQUEST, b'N').await;
    request(&mut stream, SSL_REQUEST, b'S').await;
    finish(&lb.client(CLIENT1), stream).await;
    lb.expect_record(0, "ok").await;

    let mut stream = tcp(lb.main()).await;
    for _ in 0..3 {
        stream.write_all(GSSENC_REQUEST).await.unwrap();
        assert_eq!(stream.read_u8().await.unwrap(), b'N');
    }
    let _ = read_to_close(&mut stream).await;
    lb.expect_record(1, "not_tls").await;
    lb.quiet().await;
}

async fn direct_tls_is_served_with_postgresql_alpn(records: Records) {
    let web = Upstream::named("web1").await;
    let lb = start(records, &web, "").await;
    let client = lb.client(CLIENT1).alpn(&["postgresql"]);
    let stream = client.connect(lb.main()).await.unwrap();
    talk(stream).await.unwrap();
    assert_eq!(lb.expect_record(0, "ok").await["alpn"], "postgresql");
    lb.quiet().await;
}

async fn client_without_tls_gets_an_error(records: Records) {
    let web = Upstream::named("web1").await;
    let lb = start(records, &web, "").await;
    for (n, (sent, answer, detail)) in [
        (STARTUP, &b"only accepts TLS"[..], "StartupMessage"),
        (CANCEL_REQUEST, b"", "CancelRequest"),
        (b"GET / HTTP/1.1\r\n\r\n", b"", "HTTP"),
        (b"\x01\x02\x03", b"", "it begins with"),
    ]
    .into_iter()
    .enumerate()
    {
        let mut stream = tcp(lb.main()).await;
        stream.write_all(sent).await.unwrap();
        let received = read_to_close(&mut stream).await.unwrap();
        if answer.is_empty() {
            assert!(received.is_empty(), "{received:?}");
        } else {
            assert_eq!(received[0], b'E');
            assert!(
                received.windows(answer.len()).any(|part| part == answer),
                "{received:?}"
            );
        }
        let record = lb.expect_record(n, "not_tls").await;
        let logged = record["detail"].as_str().unwrap();
        assert!(logged.contains(detail), "{logged}");
    }
    assert_eq!(web.accepted(), 0);
    lb.quiet().await;
}

async fn bytes_after_the_request_are_refused(records: Records) {
    let web = Upstream::named("web1").await;
    let lb = start(records, &web, "").await;
    for (n, request) in [SSL_REQUEST, GSSENC_REQUEST].into_iter().enumerate() {
        let mut stream = tcp(lb.main()).await;
        stream
            .write_all(&[request, STARTUP].concat())
            .await
            .unwrap();
        let received = read_to_close(&mut stream).await.unwrap();
        assert!(received.is_empty(), "{received:?}");
        lb.expect_record(n, "handshake_failed").await;
    }
    // The client sends a FIN in the middle of a request.
    let mut stream = tcp(lb.main()).await;
    stream.write_all(&SSL_REQUEST[..5]).await.unwrap();
    stream.shutdown().await.unwrap();
    let _ = read_to_close(&mut stream).await;
    lb.expect_record(2, "handshake_failed").await;
    assert_eq!(web.accepted(), 0);
    lb.quiet().await;
}

async fn silent_and_slow_clients_meet_the_deadline(records: Records) {
    let web = Upstream::named("web1").await;
    let lb = start(records, &web, "handshake_timeout = \"300ms\"").await;
    let mut silent = tcp(lb.main()).await;
    let _ = read_to_close(&mut silent).await;
    let record = lb.expect_record(0, "handshake_timeout").await;
    assert!(
        record["detail"].as_str().unwrap().contains("sent nothing"),
        "{record}"
    );
    let mut half = tcp(lb.main()).await;
    half.write_all(&SSL_REQUEST[..4]).await.unwrap();
    let _ = read_to_close(&mut half).await;
    lb.expect_record(1, "handshake_timeout").await;
    // The answer to the request does not restart the handshake deadline.
    let mut requested = tcp(lb.main()).await;
    request(&mut requested, SSL_REQUEST, b'S').await;
    let _ = read_to_close(&mut requested).await;
    lb.expect_record(2, "handshake_timeout").await;
    lb.quiet().await;
}
