//! SIGTERM and SIGINT start draining: open connections may finish until the drain timeout,
//! and the remaining ones are cut off and recorded. Other signals do not end the process.

use std::io::ErrorKind;
use std::time::Duration;

use leastconn_testkit::client::{read_line, read_to_close, roundtrip};
use leastconn_testkit::{Behaviour, DEADLINE, Signal, Upstream, eventually};
use tokio::io::AsyncWriteExt;
use tokio::time::Instant;

use crate::support::{CLIENT1, Running, Site, talk, tcp, wait_refused};

async fn wait_draining(lb: &Running) {
    eventually(DEADLINE, || async {
        match lb.http_get("/readyz").await {
            (503, body) if body.contains("draining") => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await
    .unwrap();
    assert_eq!(lb.http_get("/healthz").await.0, 200);
}

#[tokio::test]
async fn term_and_int_let_transfers_finish() {
    for signal in [Signal::TERM, Signal::INT] {
        let web = Upstream::start(Behaviour::Echo).await;
        let lb = Site::usual(&[&web]).start().await;
        let mut tls = lb.client(CLIENT1).connect(lb.main()).await.unwrap();
        roundtrip(&mut tls, b"before").await.unwrap();
        lb.signal(signal);
        wait_draining(&lb).await;
        wait_refused(lb.main()).await;
        let bytes = vec![7; 300_000];
        assert!(roundtrip(&mut tls, &bytes).await.unwrap() == bytes);
        tls.shutdown().await.unwrap();
        assert!(read_to_close(&mut tls).await.unwrap().is_empty());
        let status = lb.wait_end(DEADLINE).await;
        assert_eq!(status.code(), Some(0));
        // `wait_refused` may have connected before the listening socket was closed. Such
        // connections fail in the handshake.
        let (served, unserved): (Vec<_>, Vec<_>) =
            lb.records().into_iter().partition(|r| r["outcome"] == "ok");
        assert_eq!(served.len(), 1);
        assert!(
            unserved.iter().all(|r| r["outcome"] == "handshake_failed"),
            "{unserved:?}"
        );
        web.wait_open(0).await;
    }
}

#[tokio::test]
async fn idle_process_exits_at_once() {
    let web = Upstream::named("web1").await;
    let lb = Site::usual(&[&web]).start().await;
    talk(lb.client(CLIENT1).connect(lb.main()).await.unwrap())
        .await
        .unwrap();
    lb.quiet().await;
    lb.signal(Signal::TERM);
    // The process does not wait for `drain_timeout`, which is thirty seconds by default.
    let status = lb.wait_exit(DEADLINE).await;
    assert_eq!(status.code(), Some(0));
}

#[tokio::test]
async fn drain_timeout_ends_the_remaining_connections() {
    let web = Upstream::named("web1").await;
    let lb = Site::usual(&[&web])
        .process("drain_timeout = \"400ms\"")
        .listener("plain", &["upstream = \"web\""])
        .client("local", "source = \"127.0.0.0/8\"", "web", "")
        .start()
        .await;
    let mut tls = lb.client(CLIENT1).connect(lb.main()).await.unwrap();
    let mut plain = tcp(lb.address("plain")).await;
    let mut silent = tcp(lb.main()).await;
    read_line(&mut tls).await.unwrap();
    read_line(&mut plain).await.unwrap();
    let start = Instant::now();
    lb.signal(Signal::TERM);
    let status = lb.wait_end(DEADLINE).await;
    assert_eq!(status.code(), Some(1));
    let took = start.elapsed();
    assert!(took >= Duration::from_millis(400), "{took:?}");
    // The balancer cuts connections off with a RST, which clients cannot mistake for an
    // orderly end.
    for error in [
        read_to_close(&mut tls).await.unwrap_err(),
        read_to_close(&mut plain).await.unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}");
    }
    let _ = read_to_close(&mut silent).await;
    let records = lb.wait_records(3).await;
    assert_eq!(records.len(), 3);
    assert!(
        records.iter().all(|r| r["outcome"] == "drained"),
        "{records:?}"
    );
    web.wait_open(0).await;
}

#[tokio::test]
async fn only_remaining_connections_are_cut_off() {
    let web = Upstream::start(Behaviour::Echo).await;
    let lb = Site::usual(&[&web])
        .process("drain_timeout = \"10s\"")
        .start()
        .await;
    let client = lb.client(CLIENT1);
    let mut finished = client.connect(lb.main()).await.unwrap();
    let mut remaining = client.connect(lb.main()).await.unwrap();
    for stream in [&mut finished, &mut remaining] {
        roundtrip(stream, b"before").await.unwrap();
    }
    lb.wait_metric("leastconn_ready", 1.0, DEADLINE).await;
    let start = Instant::now();
    lb.signal(Signal::TERM);
    wait_draining(&lb).await;
    assert_eq!(lb.metrics().await["leastconn_ready"], 0.0);
    assert_eq!(roundtrip(&mut finished, b"after").await.unwrap(), b"after");
    finished.shutdown().await.unwrap();
    read_to_close(&mut finished).await.unwrap();
    lb.expect_record(0, "ok").await;
    // The process does not exit before the timeout, and `/readyz` still reports that it is
    // draining.
    assert_eq!(roundtrip(&mut remaining, b"after").await.unwrap(), b"after");
    wait_draining(&lb).await;
    let status = lb.wait_end(DEADLINE).await;
    let took = start.elapsed();
    assert!(took >= Duration::from_secs(10), "{took:?}");
    assert_eq!(status.code(), Some(1));
    assert!(read_to_close(&mut remaining).await.is_err());
    lb.expect_record(1, "drained").await;
    let drained = lb
        .records()
        .into_iter()
        .filter(|r| r["outcome"] == "drained");
    assert_eq!(drained.count(), 1);
}

#[tokio::test]
async fn second_signal_exits_at_once() {
    let web = Upstream::named("web1").await;
    let lb = Site::usual(&[&web]).start().await;
    let mut tls = lb.client(CLIENT1).connect(lb.main()).await.unwrap();
    read_line(&mut tls).await.unwrap();
    lb.signal(Signal::TERM);
    wait_draining(&lb).await;
    // These signals neither speed up nor abort the shutdown.
    lb.signal(Signal::HUP);
    lb.signal(Signal::USR1);
    lb.signal(Signal::USR2);
    assert_eq!(roundtrip(&mut tls, b"x").await.unwrap(), b"x");
    lb.signal(Signal::INT);
    let status = lb.wait_exit(DEADLINE).await;
    assert_eq!(status.code(), Some(1));
    assert!(read_to_close(&mut tls).await.is_err());
    lb.expect_record(0, "drained").await;
}

#[tokio::test]
async fn hup_and_usr1_end_no_connection() {
    let web = Upstream::named("web1").await;
    let lb = Site::usual(&[&web]).start().await;
    let mut tls = lb.client(CLIENT1).connect(lb.main()).await.unwrap();
    read_line(&mut tls).await.unwrap();
    for _ in 0..3 {
        for signal in [Signal::HUP, Signal::USR1] {
            lb.signal(signal);
        }
    }
    assert_eq!(roundtrip(&mut tls, b"x").await.unwrap(), b"x");
    talk(lb.client(CLIENT1).connect(lb.main()).await.unwrap())
        .await
        .unwrap();
    tls.shutdown().await.unwrap();
    lb.wait_records(2).await;
    assert_eq!(lb.http_get("/readyz").await.0, 200);
    lb.quiet().await;
}

fn lines(path: &std::path::Path) -> usize {
    std::fs::read_to_string(path).map_or(0, |text| text.lines().count())
}

#[tokio::test]
async fn usr1_reopens_the_access_log() {
    let web = Upstream::named("web1").await;
    let lb = Site::usual(&[&web])
        .log("access = \"access.log\"")
        .start()
        .await;
    let path = lb.dir().join("access.log");
    let moved = lb.dir().join("access.log.1");
    let client = lb.client(CLIENT1);
    let one_more = |path: &'_ std::path::Path, n: usize| {
        let path = path.to_owned();
        let client = client.clone();
        let addr = lb.main();
        async move {
            talk(client.connect(addr).await.unwrap()).await.unwrap();
            eventually(DEADLINE, || async {
                match lines(&path) {
                    count if count == n => Ok(()),
                    count => Err(format!("{count} lines in {}", path.display())),
                }
            })
            .await
            .unwrap();
        }
    };
    one_more(&path, 1).await;
    std::fs::rename(&path, &moved).unwrap();
    // The process writes to the renamed file until the signal arrives.
    one_more(&moved, 2).await;
    lb.signal(Signal::USR1);
    lb.wait_log(
        |event| event["fields"]["message"] == "reopening log files",
        DEADLINE,
    )
    .await;
    one_more(&path, 1).await;
    assert_eq!(lines(&moved), 2);
    assert!(
        lb.records().is_empty(),
        "records were also written to standard output"
    );
    lb.quiet().await;
    lb.signal(Signal::TERM);
    lb.wait_exit(DEADLINE).await;
}
