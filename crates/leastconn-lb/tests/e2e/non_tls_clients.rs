//! Clients that send other protocols, garbage or an early FIN get an alert or a close. The
//! balancer connects to no server.

use leastconn_testkit::{Upstream, client::read_to_close, data::pattern};
use tokio::io::AsyncWriteExt;

use crate::support::{
    CLIENT1, NO_PROBES, Records, Site, TLS, both_record_layers, client_hello, cn, entries, talk,
    tcp,
};

both_record_layers! {
    #[tokio::test]
    plain_http_gets_an_alert,
    #[tokio::test]
    garbage_is_refused_at_once,
    #[tokio::test]
    other_protocols_are_named_in_the_detail,
    #[tokio::test]
    silent_and_slow_clients_have_different_details,
    #[tokio::test]
    fin_during_the_handshake_is_a_failure,
}

async fn plain_http_gets_an_alert(records: Records) {
    let web = Upstream::named("web1").await;
    let lb = Site::usual(&[&web]).records(records).start().await;
    let mut stream = tcp(lb.main()).await;
    stream
        .write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .await
        .unwrap();
    let answer = read_to_close(&mut stream).await.unwrap();
    assert_eq!(answer[0], 21, "no TLS alert: {answer:?}");
    lb.expect_record(0, "handshake_failed").await;
    assert_eq!(web.accepted(), 0);
    lb.quiet().await;
}

async fn garbage_is_refused_at_once(records: Records) {
    let web = Upstream::named("web1").await;
    let lb = Site::usual(&[&web]).records(records).start().await;
    let mut bad_hello = client_hello(lb.ca());
    // Corrupt the length of the session ID in the ClientHello.
    bad_hello[43] ^= 0xff;
    let kinds: Vec<Vec<u8>> = vec![
        pattern(0, 1),
        pattern(0, 4096),
        vec![0; 512],
        vec![0xff; 70_000],
        b"\x16\x03\x01\xff\xff".to_vec(),
        b"\x16\x03\x01\x00\x00".repeat(100),
        b"\x15\x03\x01\x00\x02\x02\x28".to_vec(),
        b"\x80\x2e\x01\x03\x01".to_vec(),
        b"SSH-2.0-x\r\n".to_vec(),
        bad_hello,
    ];
    let count = kinds.len();
    for (n, bytes) in kinds.into_iter().enumerate() {
        let mut stream = tcp(lb.main()).await;
        // The balancer may close the connection before everything was sent.
        let _ = stream.write_all(&bytes).await;
        let _ = stream.shutdown().await;
        let _ = read_to_close(&mut stream).await;
        let record = lb.expect_record(n, "handshake_failed").await;
        // The balancer detects the error before the deadline of ten seconds.
        assert!(record["duration_ms"].as_f64().unwrap() < 7000.0, "{record}");
    }
    assert_eq!(web.accepted(), 0);
    talk(lb.client(CLIENT1).connect(lb.main()).await.unwrap())
        .await
        .unwrap();
    lb.wait_records(count + 1).await;
    lb.quiet().await;
}

async fn fin_during_the_handshake_is_a_failure(records: Records) {
    let web = Upstream::named("web1").await;
    let lb = Site::usual(&[&web]).records(records).start().await;
    let hello = client_hello(lb.ca());
    // Send nothing, parts of a ClientHello, or all of it.
    for (n, sent) in [0, 1, 5, 100, hello.len()].into_iter().enumerate() {
        let mut stream = tcp(lb.main()).await;
        stream.write_all(&hello[..sent]).await.unwrap();
        stream.shutdown().await.unwrap();
        let _ = read_to_close(&mut stream).await;
        lb.expect_record(n, "handshake_failed").await;
    }
    assert_eq!(web.accepted(), 0);
    lb.quiet().await;
}

async fn other_protocols_are_named_in_the_detail(records: Records) {
    let web = Upstream::named("web1").await;
    let lb = Site::usual(&[&web]).records(records).start().await;
    let sent: [(&[u8], &str); 7] = [
        (b"\0\0\0\x08\x04\xd2\x16\x2f", "starttls = \"postgres\""),
        (
            b"\0\0\0\x29\0\x03\0\0user\0x\0\0",
            "PostgreSQL client without TLS",
        ),
        (
            b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n",
            "proxy_protocol = \"required\"",
        ),
        (
            b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0",
            "PROXY protocol header, version 2",
        ),
        (b"GET / HTTP/1.1\r\n\r\n", "HTTP request"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "SSH"),
        (
            b"\x03\0\0\x13\x0e\xe0\0\0\0\0\0\x01\0\x08\0\x03\0\0\0",
            "RDP",
        ),
    ];
    for (n, (bytes, expected)) in sent.into_iter().enumerate() {
        let mut stream = tcp(lb.main()).await;
        stream.write_all(bytes).await.unwrap();
        let _ = read_to_close(&mut stream).await;
        let record = lb.expect_record(n, "handshake_failed").await;
        let detail = record["detail"].as_str().unwrap();
        assert!(detail.contains(expected), "{detail}");
    }
    lb.quiet().await;
}

async fn silent_and_slow_clients_have_different_details(records: Records) {
    let web = Upstream::named("web1").await;
    let lb = Site::new()
        .records(records)
        .listener(
            "main",
            &["upstream = \"web\"", "handshake_timeout = \"200ms\"", TLS],
        )
        .upstream("web", &[NO_PROBES], &entries(&[&web]))
        .client("client1", &cn(CLIENT1), "web", "")
        .start()
        .await;
    let hello = client_hello(lb.ca());
    let sent: [(&[u8], &str); 2] = [
        (b"", "MySQL"),
        (&hello[..20], "in the middle of the ClientHello"),
    ];
    for (n, (bytes, expected)) in sent.into_iter().enumerate() {
        let mut stream = tcp(lb.main()).await;
        stream.write_all(bytes).await.unwrap();
        let _ = read_to_close(&mut stream).await;
        let record = lb.expect_record(n, "handshake_timeout").await;
        let detail = record["detail"].as_str().unwrap();
        assert!(detail.contains(expected), "{detail}");
    }
    lb.quiet().await;
}
