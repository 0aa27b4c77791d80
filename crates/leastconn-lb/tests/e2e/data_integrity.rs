//! Data arrives unchanged, even if both sides send simultaneously. If one side does not read, the
//! balancer stops reading from the other side and does not use more memory.

use std::time::Duration;

use leastconn_testkit::data::{Sha256, pattern};
use leastconn_testkit::{Behaviour, Upstream, within};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::support::{CLIENT1, Records, Site, both_record_layers};

both_record_layers! {
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    data_is_unchanged_in_both_directions_at_once,
    #[tokio::test]
    slow_client_slows_its_server,
}

/// Size of a block that [`pump`] sends.
pub(crate) const BLOCK: usize = 1 << 20;

async fn data_is_unchanged_in_both_directions_at_once(records: Records) {
    let blocks: usize = match std::env::var_os("LEASTCONN_LONG") {
        Some(_) => 1024,
        None => 64,
    };
    let web = Upstream::start(Behaviour::Echo).await;
    let lb = Site::usual(&[&web]).records(records).start().await;
    for (n, client) in [lb.client(CLIENT1).tls13(), lb.client(CLIENT1).tls12()]
        .into_iter()
        .take(if blocks > 64 { 2 } else { 1 })
        .enumerate()
    {
        let stream = client.connect(lb.main()).await.unwrap();
        pump(stream, blocks, Duration::from_secs(20 + blocks as u64 / 2)).await;
        let record = lb.expect_record(n, "ok").await;
        assert_eq!(record["bytes_received"], blocks * BLOCK);
        assert_eq!(record["bytes_sent"], blocks * BLOCK);
    }
    lb.quiet().await;
}

async fn slow_client_slows_its_server(records: Records) {
    const CLIENTS: u64 = 8;
    let web = Upstream::start(Behaviour::Source { bytes: 1 << 30 }).await;
    let lb = Site::usual(&[&web]).records(records).start().await;
    let before = lb.resident_kib();
    let mut stalled = Vec::new();
    for _ in 0..CLIENTS {
        stalled.push(lb.client(CLIENT1).connect(lb.main()).await.unwrap());
    }
    web.wait_open(CLIENTS as usize).await;
    // The byte counter stops once all buffers between the server and the clients are full.
    let sent = r#"leastconn_bytes_total{listener="main",direction="sent"}"#;
    let key = leastconn_testkit::metrics::normalise(sent);
    let full = async {
        let mut last = 0.0;
        loop {
            tokio::time::sleep(Duration::from_millis(200)).await;
            match lb.metrics().await[&key] {
                now if now == last && now > 0.0 => return,
                now => last = now,
            }
        }
    };
    within(Duration::from_secs(20), "full buffers", full).await;
    let grown = lb.resident_kib().saturating_sub(before);
    // The limit allows 512 KiB for the buffers of each connection, and 8 MiB for all other
    // memory.
    assert!(
        grown < CLIENTS * 512 + 8192,
        "memory grew by {grown} KiB for {CLIENTS} clients"
    );
    drop(stalled);
    web.wait_open(0).await;
    for record in lb.wait_records(CLIENTS as usize).await {
        assert_eq!(record["outcome"], "client_reset");
    }
    lb.quiet().await;
}

/// Sends `blocks` blocks to an echo server, and asserts that the server returns the same
/// bytes within `limit`.
pub(crate) async fn pump<S>(stream: S, blocks: usize, limit: Duration)
where
    S: AsyncRead + AsyncWrite + Send + 'static,
{
    let (mut reader, mut writer) = tokio::io::split(stream);
    let send = tokio::spawn(async move {
        let mut digest = Sha256::default();
        let mut block = pattern(0, BLOCK);
        for number in 0..blocks {
            // All blocks differ, so that the digest detects swapped blocks.
            block[..8].copy_from_slice(&number.to_be_bytes());
            digest.update(&block);
            writer.write_all(&block).await.unwrap();
        }
        writer.shutdown().await.unwrap();
        digest.finish_hex()
    });
    let receive = tokio::spawn(async move {
        let mut digest = Sha256::default();
        let mut buffer = vec![0; 64 * 1024];
        loop {
            match reader.read(&mut buffer).await.unwrap() {
                0 => return digest.finish_hex(),
                n => digest.update(&buffer[..n]),
            }
        }
    });
    let both = within(limit, "both digests", async { tokio::join!(send, receive) }).await;
    assert_eq!(both.0.unwrap(), both.1.unwrap());
}
