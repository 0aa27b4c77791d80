//! Connections without traffic end when their timeout has passed, but not earlier. These tests
//! have to wait for the timeouts.

use std::time::Duration;

use leastconn_testkit::client::{read_line, read_to_close, roundtrip};
use leastconn_testkit::{Behaviour, DEADLINE, Upstream};
use serde_json::Value;
use tokio::io::AsyncWriteExt;

use crate::support::{CLIENT1, DEBUG_SLACK, NO_PROBES, Running, Site, TLS, cn, entries, tcp};

async fn start(web: &Upstream, lines: [&str; 2]) -> Running {
    Site::new()
        .listener("main", &["upstream = \"web\"", lines[0], lines[1], TLS])
        .listener("plain", &["upstream = \"web\"", lines[0], lines[1]])
        .upstream("web", &[NO_PROBES], &entries(&[web]))
        .client("client1", &cn(CLIENT1), "web", "")
        .client("local", "source = \"127.0.0.0/8\"", "web", "")
        .start()
        .await
}

fn took(record: &Value) -> f64 {
    record["duration_ms"].as_f64().unwrap()
}

#[tokio::test]
async fn idle_timeout_counts_bytes_in_both_directions() {
    let web = Upstream::named("web1").await;
    let idle = ["idle_timeout = \"4s\"", "half_close_timeout = \"1h\""];
    let lb = start(&web, idle).await;
    let mut tls = lb.client(CLIENT1).connect(lb.main()).await.unwrap();
    let mut plain = tcp(lb.address("plain")).await;
    read_line(&mut tls).await.unwrap();
    read_line(&mut plain).await.unwrap();
    // Send bytes for 5.3 s, which is longer than the timeout, then nothing.
    for _ in 0..11 {
        tokio::time::sleep(Duration::from_millis(480)).await;
        roundtrip(&mut tls, b"x").await.unwrap();
        roundtrip(&mut plain, b"x").await.unwrap();
    }
    let _ = read_to_close(&mut tls).await;
    let _ = read_to_close(&mut plain).await;
    for record in lb.wait_records(2).await {
        assert_eq!(record["outcome"], "idle_timeout");
        let most = 11_500.0 + DEBUG_SLACK.as_secs_f64() * 1e3;
        assert!((9200.0..most).contains(&took(&record)), "{record}");
    }
    web.wait_open(0).await;
    lb.quiet().await;
}

#[tokio::test]
async fn half_close_timeout_starts_at_the_first_fin() {
    let web = Upstream::start(Behaviour::Stuck).await;
    let half = ["idle_timeout = \"1h\"", "half_close_timeout = \"400ms\""];
    let lb = start(&web, half).await;
    let mut tls = lb.client(CLIENT1).connect(lb.main()).await.unwrap();
    let mut plain = tcp(lb.address("plain")).await;
    web.wait_accepted(2).await;
    // The timeout must not start before a side has finished. The test waits longer than the
    // timeout.
    tokio::time::sleep(Duration::from_millis(600)).await;
    assert!(
        lb.records().is_empty(),
        "the timeout started before any side had finished"
    );
    tls.shutdown().await.unwrap();
    plain.shutdown().await.unwrap();
    // The balancer resets the connections, so that clients do not mistake the timeout for
    // an orderly end of the server.
    assert!(read_to_close(&mut tls).await.is_err());
    assert!(read_to_close(&mut plain).await.is_err());
    for record in lb.wait_records(2).await {
        assert_eq!(record["outcome"], "half_close_timeout");
        let most = 3000.0 + DEBUG_SLACK.as_secs_f64() * 1e3;
        assert!((1000.0..most).contains(&took(&record)), "{record}");
    }
    lb.quiet().await;
}

#[tokio::test]
async fn servers_fin_starts_the_half_close_timeout() {
    let web = Upstream::start(Behaviour::Source { bytes: 10 }).await;
    let half = ["idle_timeout = \"1h\"", "half_close_timeout = \"400ms\""];
    let lb = start(&web, half).await;
    let mut plain = tcp(lb.address("plain")).await;
    assert_eq!(read_to_close(&mut plain).await.unwrap().len(), 10);
    lb.wait_record(|r| r["outcome"] == "half_close_timeout", DEADLINE)
        .await;
    web.wait_open(0).await;
    lb.quiet().await;
}
