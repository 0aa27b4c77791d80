//! Handshake permits and CPU time are shared fairly among sources: a flooding source delays
//! only its own handshakes.
//!
//! The benchmark `--only flood` measures the latency of other sources. These tests check that
//! other sources are served while one source exceeds its share.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use leastconn_testkit::{DEADLINE, TlsClient, Upstream, within};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::support::{
    CLIENT1, NO_PROBES, Records, Site, TLS, both_record_layers, client_hello, cn, connect_from,
    entries, talk,
};

const WAITING: &str = r#"leastconn_handshakes_waiting{listener="main"}"#;

both_record_layers! {
    #[tokio::test] stalled_handshakes_leave_permits_for_other_sources,
    #[tokio::test] new_source_is_served_during_a_flood,
}

async fn served_from(last: u8, client: &TlsClient, addr: SocketAddr) -> std::io::Result<()> {
    let tcp = connect_from([127, 0, 0, last], addr).await?;
    talk(client.handshake(tcp, "localhost").await?).await?;
    Ok(())
}

async fn wait_answers(stalled: &mut JoinSet<TcpStream>, count: usize) -> Vec<TcpStream> {
    let mut streams = Vec::new();
    for _ in 0..count {
        let next = within(DEADLINE, "an answer", stalled.join_next()).await;
        streams.push(next.unwrap().unwrap());
    }
    streams
}

async fn stalled_handshakes_leave_permits_for_other_sources(records: Records) {
    let web = Upstream::named("web1").await;
    let lb = Site::new()
        .records(records)
        .process("max_handshakes = 8")
        // The timeout is longer than this test, so that no permit is released by a timeout.
        .listener(
            "main",
            &["upstream = \"web\"", "handshake_timeout = \"5m\"", TLS],
        )
        .upstream("web", &[NO_PROBES], &entries(&[&web]))
        .client("client1", &cn(CLIENT1), "web", "")
        .start()
        .await;
    let hello = client_hello(lb.ca());
    // There are more stalled clients than permits. All of them get the first byte of the
    // server's answer, because a handshake releases its permit while it waits for its client.
    let mut stalled = JoinSet::new();
    for _ in 0..20 {
        let mut stream = connect_from([127, 0, 0, 2], lb.main()).await.unwrap();
        stream.write_all(&hello).await.unwrap();
        stalled.spawn(async move {
            stream.read_u8().await.unwrap();
            stream
        });
    }
    let stalled = wait_answers(&mut stalled, 20).await;
    lb.wait_metric(WAITING, 0.0, DEADLINE).await;
    let client = lb.client(CLIENT1);
    for last in [3, 4, 2] {
        let served = served_from(last, &client, lb.main());
        within(DEADLINE, "being served", served).await.unwrap();
    }
    drop(stalled);
    lb.wait_records(23).await;
    lb.quiet().await;
}

async fn new_source_is_served_during_a_flood(records: Records) {
    const OUTSTANDING: usize = 40;
    let web = Upstream::named("web1").await;
    let lb = Site::long_handshake_timeout(&[&web])
        .records(records)
        .process("max_handshakes = 32")
        .start()
        .await;
    let (client, addr) = (lb.client(CLIENT1), lb.main());
    let stop = Arc::new(AtomicBool::new(false));
    let mut flood = JoinSet::new();
    for n in 0..2 * OUTSTANDING {
        let (client, stop) = (client.clone(), Arc::clone(&stop));
        flood.spawn(async move {
            let mut served = 0_u32;
            while !stop.load(Ordering::Acquire) {
                served_from(2 + (n % 2) as u8, &client, addr).await.unwrap();
                served += 1;
            }
            served
        });
    }
    for _ in 0..10 {
        let served = served_from(4, &client, addr);
        within(DEADLINE, "being served", served).await.unwrap();
    }
    stop.store(true, Ordering::Release);
    let flooded: u32 = within(Duration::from_secs(60), "the flood's end", flood.join_all())
        .await
        .iter()
        .sum();
    assert_eq!(web.accepted(), u64::from(flooded) + 10);
    lb.quiet().await;
}
