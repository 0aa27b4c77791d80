//! Tests over real sockets with default buffer sizes, so that reads are large.

#![cfg(target_os = "linux")]

use std::sync::{Arc, atomic::Ordering};

use leastconn_testkit::{
    DEADLINE,
    data::{Sha256, pattern, sha256_hex},
    tcp_pair, within,
};
use proptest::{collection::vec, prelude::*};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinHandle,
};

use super::*;
use crate::{
    Reason,
    net::{
        Stream,
        relay::{RelayPolicy, Traffic, relay},
    },
};

const MIB: usize = 1 << 20;

/// Serializes the tests, because the pipe pool is shared by the whole process.
static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// A client, a server and the relay between them.
async fn rig() -> (TcpStream, TcpStream, JoinHandle<Reason>, Arc<Traffic>) {
    let (client, mut downstream) = tcp_pair().await;
    let (mut upstream, server) = tcp_pair().await;
    let traffic = Arc::new(Traffic::default());
    let meter = Arc::clone(&traffic);
    let relaying = tokio::spawn(async move {
        relay(
            &mut downstream,
            &mut upstream,
            &RelayPolicy::default(),
            &meter,
        )
        .await
        .reason
    });
    (client, server, relaying, traffic)
}

async fn digest(stream: &mut (impl AsyncReadExt + Unpin)) -> String {
    let mut digest = Sha256::default();
    let mut buffer = vec![0; 64 * 1024];
    loop {
        match stream.read(&mut buffer).await.unwrap() {
            0 => return digest.finish_hex(),
            count => digest.update(&buffer[..count]),
        }
    }
}

/// Transfers bytes in both directions simultaneously. Each direction ends with a half-close.
async fn exchange(to_server: usize, to_client: usize) {
    let (mut client, mut server, relaying, traffic) = rig().await;
    let (to_server, to_client) = (pattern(0, to_server), pattern(7, to_client));
    let (mut client_reads, mut client_writes) = client.split();
    let (mut server_reads, mut server_writes) = server.split();
    let all = async {
        tokio::join!(
            async {
                client_writes.write_all(&to_server).await.unwrap();
                client_writes.shutdown().await.unwrap();
            },
            async {
                server_writes.write_all(&to_client).await.unwrap();
                server_writes.shutdown().await.unwrap();
            },
            digest(&mut server_reads),
            digest(&mut client_reads),
        )
    };
    let ((), (), server_digest, client_digest) = within(3 * DEADLINE, "all bytes", all).await;
    assert_eq!(server_digest, sha256_hex(&to_server));
    assert_eq!(client_digest, sha256_hex(&to_client));
    assert_eq!(relaying.await.unwrap(), Reason::Ok);
    assert_eq!(traffic.received(), to_server.len() as u64);
    assert_eq!(traffic.sent(), to_client.len() as u64);
}

#[tokio::test]
async fn bulk_transfer_is_spliced_intact() {
    let _alone = ALONE.lock().await;
    let before = SPLICED.load(Ordering::Relaxed);
    exchange(48 * MIB, 48 * MIB + 1).await;
    let spliced = SPLICED.load(Ordering::Relaxed) - before;
    assert!(spliced > 48 * MIB, "{spliced} bytes of 96 MiB");
}

#[tokio::test]
async fn without_a_pipe_bytes_are_copied() {
    let _alone = ALONE.lock().await;
    let all: Vec<Pipe> = std::iter::from_fn(Pipe::take).collect();
    assert_eq!(all.len(), MAX_PIPES);
    let before = SPLICED.load(Ordering::Relaxed);
    exchange(16 * MIB, 16 * MIB).await;
    assert_eq!(SPLICED.load(Ordering::Relaxed), before);
    all.into_iter().for_each(Pipe::give_back);
    exchange(16 * MIB, 16 * MIB).await;
    assert!(SPLICED.load(Ordering::Relaxed) > before);
}

#[tokio::test]
async fn idle_connection_holds_no_pipe() {
    let _alone = ALONE.lock().await;
    let (mut client, mut server, relaying, _) = rig().await;
    let before = SPLICED.load(Ordering::Relaxed);
    let bulk = pattern(0, 16 * MIB);
    for _ in 0..3 {
        let mut received = vec![0; bulk.len()];
        let transfer =
            async { tokio::join!(client.write_all(&bulk), server.read_exact(&mut received)) };
        within(DEADLINE, "all bytes", transfer).await.0.unwrap();
        assert_eq!(received, bulk);
        let pipes = PIPES.lock();
        assert_eq!((pipes.count, pipes.users), (pipes.empty.len(), 1));
    }
    assert!(SPLICED.load(Ordering::Relaxed) > before);
    drop((client, server));
    relaying.await.unwrap();
    assert_eq!(PIPES.lock().count, 0);
}

#[tokio::test]
async fn server_reset_is_forwarded_while_splicing() {
    let _alone = ALONE.lock().await;
    let (mut client, mut server, relaying, _) = rig().await;
    let bulk = pattern(0, 16 * MIB);
    let mut received = vec![0; bulk.len()];
    let transfer =
        async { tokio::join!(server.write_all(&bulk), client.read_exact(&mut received)) };
    within(DEADLINE, "all bytes", transfer).await.0.unwrap();
    // When the server resets the connection, the client has not yet read everything.
    let _ = tokio::time::timeout(
        std::time::Duration::from_millis(100),
        server.write_all(&bulk),
    )
    .await;
    server.abort();
    drop(server);
    let mut rest = Vec::new();
    let end = within(DEADLINE, "the end", client.read_to_end(&mut rest)).await;
    assert_eq!(end.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    assert_eq!(rest, bulk[..rest.len()]);
    assert_eq!(relaying.await.unwrap(), Reason::ServerReset);
}

#[tokio::test]
async fn client_reset_is_detected_while_splicing() {
    let _alone = ALONE.lock().await;
    let (mut client, mut server, relaying, _) = rig().await;
    let bulk = pattern(0, 16 * MIB);
    let mut received = vec![0; MIB];
    let sending = tokio::spawn(async move {
        let mut result = Ok(());
        while result.is_ok() {
            result = server.write_all(&bulk).await;
        }
        result
    });
    within(DEADLINE, "some bytes", client.read_exact(&mut received))
        .await
        .unwrap();
    client.abort();
    drop(client);
    let reason = within(DEADLINE, "the relay's end", relaying).await.unwrap();
    assert_eq!(reason, Reason::ClientReset);
    assert!(sending.await.unwrap().is_err());
}

/// Waits until the transfer stalls, which means that several checks find the same number of sent
/// bytes.
async fn stalled(traffic: &Traffic) {
    let stalled = async {
        let (mut before, mut same) = (0, 0);
        while same < 10 {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            let now = traffic.sent();
            same = if now == before && now > 0 {
                same + 1
            } else {
                0
            };
            before = now;
        }
    };
    within(DEADLINE, "the stall", stalled).await;
}

#[tokio::test]
async fn slow_reader_blocks_sender_while_splicing() {
    let _alone = ALONE.lock().await;
    let (mut client, mut server, relaying, traffic) = rig().await;
    let bulk = pattern(0, 64 * MIB);
    let whole = sha256_hex(&bulk);
    let sending = tokio::spawn(async move {
        server.write_all(&bulk).await.unwrap();
        server.shutdown().await.unwrap();
        server
    });
    // The client does not read, so the transfer stalls.
    stalled(&traffic).await;
    assert!(!sending.is_finished());
    assert_eq!(
        within(DEADLINE, "the bytes", digest(&mut client)).await,
        whole
    );
    client.shutdown().await.unwrap();
    drop(sending.await.unwrap());
    assert_eq!(relaying.await.unwrap(), Reason::Ok);
}

#[tokio::test]
async fn dropping_relay_with_full_pipe_aborts_both_sides() {
    let _alone = ALONE.lock().await;
    let (mut client, mut server, relaying, traffic) = rig().await;
    let sending = tokio::spawn(async move {
        let bulk = pattern(0, 16 * MIB);
        while server.write_all(&bulk).await.is_ok() {}
    });
    // The client does not read, so bytes remain in a pipe when the transfer stalls.
    stalled(&traffic).await;
    let in_use = |pipes: &Pipes| pipes.count - pipes.empty.len();
    assert_eq!(in_use(&PIPES.lock()), 1);
    relaying.abort();
    assert!(relaying.await.unwrap_err().is_cancelled());
    let end = within(DEADLINE, "the end", client.read_to_end(&mut Vec::new())).await;
    assert_eq!(end.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    within(DEADLINE, "the server's end", sending).await.unwrap();
    assert_eq!(PIPES.lock().count, 0);
}

/// The pieces that one side sends: the size of each piece and the delay before it, in milliseconds.
fn pieces() -> impl Strategy<Value = Vec<(usize, u64)>> {
    let size = prop_oneof![1usize..2000, 120_000usize..140_000, 1usize..1_500_000];
    vec((size, prop_oneof![3 => Just(0), 1 => 0u64..3]), 0..8)
}

fn whole(pieces: &[(usize, u64)]) -> String {
    sha256_hex(&pattern(0, pieces.iter().map(|(size, _)| size).sum()))
}

async fn speak(mut stream: impl AsyncWriteExt + Unpin, pieces: &[(usize, u64)]) {
    let mut at = 0;
    for &(size, pause) in pieces {
        tokio::time::sleep(std::time::Duration::from_millis(pause)).await;
        stream.write_all(&pattern(at, size)).await.unwrap();
        at += size as u64;
    }
    stream.shutdown().await.unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    /// Small and large pieces cause switches between copying and splicing. A concurrent exchange of
    /// short messages reduces the poll budget.
    #[test]
    fn random_transfers_arrive_intact(to_server in pieces(), to_client in pieces(), beside in any::<bool>()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (got, reason) = runtime.block_on(async {
            let _alone = ALONE.lock().await;
            let exchanging = tokio::spawn(async move {
                let (mut client, mut server, _relaying, _) = rig().await;
                let mut byte = [0];
                if !beside {
                    return;
                }
                loop {
                    client.write_all(&byte).await.unwrap();
                    server.read_exact(&mut byte).await.unwrap();
                    server.write_all(&byte).await.unwrap();
                    client.read_exact(&mut byte).await.unwrap();
                }
            });
            let (mut client, mut server, relaying, _) = rig().await;
            let (mut client_reads, client_writes) = client.split();
            let (mut server_reads, server_writes) = server.split();
            let all = async {
                tokio::join!(
                    digest(&mut server_reads),
                    digest(&mut client_reads),
                    speak(client_writes, &to_server),
                    speak(server_writes, &to_client),
                )
            };
            let (to_server, to_client, ..) = within(DEADLINE, "all bytes", all).await;
            let reason = relaying.await.unwrap();
            exchanging.abort();
            let _ = exchanging.await;
            ([to_server, to_client], reason)
        });
        prop_assert_eq!(reason, Reason::Ok);
        prop_assert_eq!(got, [whole(&to_server), whole(&to_client)]);
    }
}
