//! Stalled handshakes from many sources do not delay other clients. A handshake stalls if the
//! client sends nothing after its ClientHello.
//!
//! The sources are proxied addresses, because one machine does not have enough addresses.

use std::time::Duration;

use leastconn_testkit::{DEADLINE, Upstream, within};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::support::{
    CLIENT1, NO_PROBES, Records, Running, Site, TLS, both_record_layers, client_hello, cn,
    connect_proxied, entries, talk,
};

both_record_layers! {
    #[tokio::test] stalled_handshakes_do_not_delay_new_clients,
    #[tokio::test] longest_stalled_handshake_is_evicted,
    #[tokio::test] parked_handshake_resumes_when_its_client_answers,
}

async fn start(records: Records, web: &Upstream, max_handshakes: usize) -> Running {
    let lines = [
        "upstream = \"web\"",
        // No stalled handshake times out during a test.
        "handshake_timeout = \"5m\"",
        "proxy_protocol = \"required\"",
        "proxy_protocol_from = \"127.0.0.0/8\"",
        TLS,
    ];
    Site::new()
        .records(records)
        .process(&format!("max_handshakes = {max_handshakes}"))
        .listener("main", &lines)
        .upstream("web", &[NO_PROBES], &entries(&[web]))
        .client("client1", &cn(CLIENT1), "web", "")
        .start()
        .await
}

/// Sends a ClientHello, reads the first byte of the answer and then sends nothing more.
async fn stall(lb: &Running, source: &str) -> TcpStream {
    let mut stream = connect_proxied(lb.main(), source).await;
    stream.write_all(&client_hello(lb.ca())).await.unwrap();
    let answered = stream.read_u8();
    within(DEADLINE, "an answer", answered).await.unwrap();
    stream
}

async fn assert_served_as(lb: &Running, source: &str) {
    let stream = connect_proxied(lb.main(), source).await;
    let client = lb.client(CLIENT1);
    let served = async { talk(client.handshake(stream, "localhost").await?).await };
    within(DEADLINE, "being served", served).await.unwrap();
}

async fn stalled_handshakes_do_not_delay_new_clients(records: Records) {
    let web = Upstream::named("web1").await;
    let lb = start(records, &web, 32).await;
    let mut stalled = Vec::new();
    for n in 0..100 {
        stalled.push(stall(&lb, &format!("192.0.2.{n}")).await);
        stalled.push(stall(&lb, &format!("2001:db8:1:{n:x}::1")).await);
    }
    for source in [
        "203.0.113.1",
        "192.0.2.7",
        "2001:db8:2::1",
        "2001:db8:1:7::2",
    ] {
        assert_served_as(&lb, source).await;
    }
    let stalls = r#"leastconn_handshakes_active{listener="main"}"#;
    lb.wait_metric(stalls, 200.0, DEADLINE).await;
    drop(stalled);
    lb.wait_records(204).await;
    lb.quiet().await;
}

async fn longest_stalled_handshake_is_evicted(records: Records) {
    let web = Upstream::named("web1").await;
    // The listener can hold 2 handshakes with a permit and 16 handshakes without a permit.
    let lb = start(records, &web, 2).await;
    let mut stalled = vec![stall(&lb, "203.0.113.1").await];
    for n in 0..18 {
        stalled.push(stall(&lb, &format!("2001:db8:1:{n:x}::1")).await);
    }
    // The oldest handshake of the network with the most stalled handshakes is evicted. The
    // other source keeps its handshake.
    let record = lb.expect_record(0, "overloaded").await;
    assert_eq!(record["source"], "[2001:db8:1::1]:4660", "{record}");
    let detail = record["detail"].as_str().unwrap();
    assert!(detail.contains("slow to answer"), "{detail}");
    let mut rest = Vec::new();
    let closed = within(DEADLINE, "the end", stalled[1].read_to_end(&mut rest));
    let _ = closed.await;
    assert_served_as(&lb, "203.0.113.2").await;
    lb.wait_records(2).await;
    drop(stalled);
    lb.quiet().await;
}

async fn parked_handshake_resumes_when_its_client_answers(records: Records) {
    let web = Upstream::named("web1").await;
    let lb = start(records, &web, 1).await;
    let client = lb.client(CLIENT1);
    // While the slow client does not answer, other clients use the only permit.
    let (near, mut far) = tokio::io::duplex(64 * 1024);
    let slow = tokio::spawn(async move { talk(client.handshake(near, "localhost").await?).await });
    let mut stream = connect_proxied(lb.main(), "203.0.113.1").await;
    let mut hello = vec![0; 16 * 1024];
    let count = far.read(&mut hello).await.unwrap();
    stream.write_all(&hello[..count]).await.unwrap();
    let first = stream.read_u8().await.unwrap();
    let stalled = stall(&lb, "203.0.113.2").await;
    assert_served_as(&lb, "203.0.113.3").await;
    far.write_u8(first).await.unwrap();
    let relay = tokio::spawn(async move {
        let _ = tokio::io::copy_bidirectional(&mut stream, &mut far).await;
    });
    within(Duration::from_secs(60), "being served", slow)
        .await
        .unwrap()
        .unwrap();
    relay.abort();
    drop(stalled);
    lb.quiet().await;
}
