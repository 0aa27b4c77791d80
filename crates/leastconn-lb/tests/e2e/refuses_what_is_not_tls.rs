//! Other protocols, garbage and early ends: an alert or a close, and no server.

use leastconn_testkit::{Upstream, client::read_to_close, data::pattern};
use tokio::io::AsyncWriteExt;

use crate::support::{CLIENT1, Records, Site, both_record_layers, client_hello, talk, tcp};

both_record_layers! {
    #[tokio::test]
    plain_http_gets_an_alert,
    #[tokio::test]
    garbage_of_all_kinds_is_refused_at_once,
    #[tokio::test]
    an_end_in_the_middle_of_the_handshake_is_a_failed_one,
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
    lb.nth(0, "handshake_failed").await;
    assert_eq!(web.accepted(), 0);
    lb.quiet().await;
}

async fn garbage_of_all_kinds_is_refused_at_once(records: Records) {
    let web = Upstream::named("web1").await;
    let lb = Site::usual(&[&web]).records(records).start().await;
    let mut bad_hello = client_hello(lb.ca());
    // The length of the hello's first list.
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
        // The balancer may have closed before the last of it.
        let _ = stream.write_all(&bytes).await;
        let _ = stream.shutdown().await;
        let _ = read_to_close(&mut stream).await;
        let record = lb.nth(n, "handshake_failed").await;
        // Not at the deadline, which is ten seconds.
        assert!(record["duration_ms"].as_f64().unwrap() < 7000.0, "{record}");
    }
    assert_eq!(web.accepted(), 0);
    talk(lb.client(CLIENT1).connect(lb.main()).await.unwrap())
        .await
        .unwrap();
    lb.wait_records(count + 1).await;
    lb.quiet().await;
}

async fn an_end_in_the_middle_of_the_handshake_is_a_failed_one(records: Records) {
    let web = Upstream::named("web1").await;
    let lb = Site::usual(&[&web]).records(records).start().await;
    let hello = client_hello(lb.ca());
    // Nothing, a part of the hello, all of it.
    for (n, sent) in [0, 1, 5, 100, hello.len()].into_iter().enumerate() {
        let mut stream = tcp(lb.main()).await;
        stream.write_all(&hello[..sent]).await.unwrap();
        stream.shutdown().await.unwrap();
        let _ = read_to_close(&mut stream).await;
        lb.nth(n, "handshake_failed").await;
    }
    assert_eq!(web.accepted(), 0);
    lb.quiet().await;
}
