//! Tests over real sockets. Property tests with arbitrary schedules are in
//! `tests/relay_properties.rs`.

use std::{
    io::{self, ErrorKind},
    os::fd::AsFd,
    sync::Arc,
};

use leastconn_testkit::{
    DEADLINE,
    data::{Sha256, pattern, sha256_hex},
    eventually, within,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpSocket, TcpStream},
    task::JoinHandle,
    time::timeout,
};

use super::*;

const MS: Duration = Duration::from_millis(1);

/// A client, a server and the relay between them.
struct Rig {
    client: TcpStream,
    server: TcpStream,
    relaying: JoinHandle<RelayOutcome>,
    traffic: Arc<Traffic>,
}

impl Rig {
    async fn new() -> Self {
        Self::with(RelayPolicy::default()).await
    }

    async fn with(timeouts: RelayPolicy) -> Self {
        let (client, mut downstream) = pair().await;
        let (mut upstream, server) = pair().await;
        let traffic = Arc::new(Traffic::default());
        let meter = Arc::clone(&traffic);
        let relaying =
            tokio::spawn(
                async move { relay(&mut downstream, &mut upstream, &timeouts, &meter).await },
            );
        Self {
            client,
            server,
            relaying,
            traffic,
        }
    }

    async fn reason(&mut self) -> Reason {
        within(DEADLINE, "the relay's end", &mut self.relaying)
            .await
            .unwrap()
            .reason
    }

    fn relayed_bytes(&self) -> (u64, u64) {
        (self.traffic.received(), self.traffic.sent())
    }
}

/// Both ends of a connection whose buffers are small, so that they fill up quickly.
async fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpSocket::new_v4().unwrap();
    listener.set_recv_buffer_size(32 * 1024).unwrap();
    listener.bind(([127, 0, 0, 1], 0).into()).unwrap();
    let listener: TcpListener = listener.listen(1).unwrap();
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(32 * 1024).unwrap();
    let connecting = socket.connect(listener.local_addr().unwrap());
    let (connected, accepted) = tokio::join!(connecting, listener.accept());
    (connected.unwrap(), accepted.unwrap().0)
}

async fn send(mut stream: impl AsyncWrite + Unpin, bytes: u64) {
    let mut at = 0;
    while at < bytes {
        let length = (bytes - at).min(100_000);
        stream
            .write_all(&pattern(at, length as usize))
            .await
            .unwrap();
        at += length;
    }
    stream.shutdown().await.unwrap();
}

async fn digest(mut stream: impl AsyncRead + Unpin) -> String {
    let mut digest = Sha256::default();
    let mut buffer = vec![0; 64 * 1024];
    loop {
        match stream.read(&mut buffer).await.unwrap() {
            0 => return digest.finish_hex(),
            count => digest.update(&buffer[..count]),
        }
    }
}

async fn read_to_end(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    within(DEADLINE, "the end", stream.read_to_end(&mut bytes)).await?;
    Ok(bytes)
}

async fn read_kind(stream: &mut TcpStream) -> Option<ErrorKind> {
    read_to_end(stream).await.err().map(|error| error.kind())
}

#[tokio::test]
async fn keepalive_of_the_server_starts_after_a_while() {
    let (_client, mut downstream) = pair().await;
    let (mut upstream, _server) = pair().await;
    let socket = upstream.as_fd().try_clone_to_owned().unwrap();
    let socket = socket2::SockRef::from(&socket);
    let policy = RelayPolicy {
        server_keepalive: Some(Duration::from_secs(7)),
        ..RelayPolicy::default()
    };
    let traffic = Traffic::default();
    let relaying = relay(&mut downstream, &mut upstream, &policy, &traffic);
    let enabled = eventually(DEADLINE, || async {
        match socket.keepalive().unwrap() {
            true => Ok(()),
            false => Err("keepalive is off".to_owned()),
        }
    });
    assert!(!socket.keepalive().unwrap());
    tokio::select! {
        outcome = relaying => panic!("{outcome:?}"),
        enabled = enabled => enabled.unwrap(),
    }
    let time = socket.tcp_keepalive_time().unwrap();
    assert_eq!(time, Duration::from_secs(7));
}

#[tokio::test]
async fn bidirectional_transfer_arrives_intact() {
    const CLIENT_TO_SERVER: u64 = 24 << 20;
    const SERVER_TO_CLIENT: u64 = (24 << 20) + 1;
    let mut rig = Rig::new().await;
    let (client_reads, client_writes) = rig.client.split();
    let (server_reads, server_writes) = rig.server.split();
    let all = async {
        tokio::join!(
            send(client_writes, CLIENT_TO_SERVER),
            send(server_writes, SERVER_TO_CLIENT),
            digest(server_reads),
            digest(client_reads),
        )
    };
    let (_, _, to_server, to_client) = within(3 * DEADLINE, "all bytes", all).await;
    assert_eq!(
        to_server,
        sha256_hex(&pattern(0, CLIENT_TO_SERVER as usize))
    );
    assert_eq!(
        to_client,
        sha256_hex(&pattern(0, SERVER_TO_CLIENT as usize))
    );
    assert_eq!(rig.reason().await, Reason::Ok);
    assert_eq!(rig.relayed_bytes(), (CLIENT_TO_SERVER, SERVER_TO_CLIENT));
}

#[tokio::test]
async fn answer_after_half_close_is_delivered() {
    for client_ends_first in [true, false] {
        let mut rig = Rig::new().await;
        let (first, second) = if client_ends_first {
            (&mut rig.client, &mut rig.server)
        } else {
            (&mut rig.server, &mut rig.client)
        };
        first.write_all(b"question").await.unwrap();
        first.shutdown().await.unwrap();
        assert_eq!(read_to_end(second).await.unwrap(), b"question");
        // At this point, a proxy without half-close support would close both sides.
        tokio::time::sleep(50 * MS).await;
        let answer = pattern(0, 1 << 20);
        let (written, read) = tokio::join!(second.write_all(&answer), async {
            let mut bytes = vec![0; answer.len()];
            first.read_exact(&mut bytes).await.unwrap();
            bytes
        });
        written.unwrap();
        assert!(read == answer);
        assert!(!rig.relaying.is_finished());
        let (_, second) = if client_ends_first {
            (&mut rig.client, &mut rig.server)
        } else {
            (&mut rig.server, &mut rig.client)
        };
        second.shutdown().await.unwrap();
        assert_eq!(rig.reason().await, Reason::Ok);
    }
}

#[tokio::test]
async fn both_sides_may_close_at_once() {
    let mut rig = Rig::new().await;
    let (one, other) = tokio::join!(rig.client.shutdown(), rig.server.shutdown());
    one.unwrap();
    other.unwrap();
    assert_eq!(rig.reason().await, Reason::Ok);
    assert!(read_to_end(&mut rig.client).await.unwrap().is_empty());
    assert!(read_to_end(&mut rig.server).await.unwrap().is_empty());
    assert_eq!(rig.relayed_bytes(), (0, 0));
}

#[tokio::test]
async fn traffic_restarts_the_idle_timeout() {
    // The timeout is much longer than the pauses below, even on a slow machine.
    let idle = 1000 * MS;
    let timeouts = RelayPolicy {
        idle: Some(idle),
        half_close: None,
        ..RelayPolicy::default()
    };
    let mut rig = Rig::with(timeouts).await;
    let start = now();
    let mut last = start;
    // Each byte restarts the timeout. In total, the bytes take longer than the timeout.
    while last - start < idle + idle / 2 {
        rig.client.write_all(b"x").await.unwrap();
        last = now();
        rig.server.read_u8().await.unwrap();
        tokio::time::sleep(20 * MS).await;
    }
    assert!(!rig.relaying.is_finished());
    assert_eq!(rig.reason().await, Reason::IdleTimeout);
    assert!(now() - last >= idle);
    // Everything was delivered, so the streams are closed cleanly.
    assert_eq!(read_kind(&mut rig.client).await, None);
    assert_eq!(read_kind(&mut rig.server).await, None);
}

#[tokio::test]
async fn idle_timeout_with_undelivered_bytes_aborts() {
    let timeouts = RelayPolicy {
        idle: Some(100 * MS),
        half_close: None,
        ..RelayPolicy::default()
    };
    let mut rig = Rig::with(timeouts).await;
    fill(&mut rig.client).await;
    assert_eq!(rig.reason().await, Reason::IdleTimeout);
    assert_eq!(
        read_kind(&mut rig.server).await,
        Some(ErrorKind::ConnectionReset)
    );
}

#[tokio::test]
async fn half_close_timeout_restarts_with_each_byte() {
    // The timeout is much longer than the pauses below, even on a slow machine.
    let half_close = 1000 * MS;
    let timeouts = RelayPolicy {
        idle: None,
        half_close: Some(half_close),
        ..RelayPolicy::default()
    };
    let mut rig = Rig::with(timeouts).await;
    // The timeout does not apply before the half-close.
    tokio::time::sleep(half_close + 50 * MS).await;
    rig.client.shutdown().await.unwrap();
    let start = now();
    let mut last = start;
    while last - start < half_close + half_close / 2 {
        rig.server.write_all(b"x").await.unwrap();
        last = now();
        rig.client.read_u8().await.unwrap();
        tokio::time::sleep(20 * MS).await;
    }
    assert!(!rig.relaying.is_finished());
    assert_eq!(rig.reason().await, Reason::HalfCloseTimeout);
    assert!(now() - last >= half_close);
    // The response was cut short, so the client must see a reset.
    assert_eq!(
        read_kind(&mut rig.client).await,
        Some(ErrorKind::ConnectionReset)
    );
}

#[tokio::test]
async fn reset_is_forwarded_after_pending_bytes() {
    for client_resets in [true, false] {
        let mut rig = Rig::new().await;
        let (victim, witness) = if client_resets {
            (&mut rig.client, &mut rig.server)
        } else {
            (&mut rig.server, &mut rig.client)
        };
        victim.write_all(b"last words").await.unwrap();
        let mut words = [0; 10];
        witness.read_exact(&mut words).await.unwrap();
        assert_eq!(&words, b"last words");
        reset(victim).await;
        assert_eq!(read_kind(witness).await, Some(ErrorKind::ConnectionReset));
        let (reason, relayed) = if client_resets {
            (Reason::ClientReset, (10, 0))
        } else {
            (Reason::ServerReset, (0, 10))
        };
        assert_eq!(rig.reason().await, reason);
        assert_eq!(rig.relayed_bytes(), relayed);
    }
}

/// A write to the server reports the reset. The next read from the server then reports an ordinary
/// end, which must not be forwarded as a clean end.
#[tokio::test]
async fn server_reset_during_upload_aborts_the_download() {
    let mut rig = Rig::new().await;
    rig.server.write_all(b"half of it").await.unwrap();
    let mut half = [0; 10];
    rig.client.read_exact(&mut half).await.unwrap();
    // The upload makes the relay write to the server.
    fill(&mut rig.client).await;
    reset(&mut rig.server).await;
    assert_eq!(
        read_kind(&mut rig.client).await,
        Some(ErrorKind::ConnectionReset)
    );
    assert_eq!(rig.reason().await, Reason::ServerReset);
}

/// Aborts the connection of `stream`, so that its peer sees a reset.
async fn reset(stream: &mut TcpStream) {
    stream.set_zero_linger().unwrap();
    let (unused, _other_end) = pair().await;
    drop(std::mem::replace(stream, unused));
}

/// The relay does not read from a sender whose receiver is slow, so no read reports the reset.
#[tokio::test]
async fn reset_is_noticed_while_the_receiver_is_slow() {
    for client_resets in [true, false] {
        let timeouts = RelayPolicy {
            idle: None,
            half_close: Some(200 * MS),
            ..RelayPolicy::default()
        };
        let mut rig = Rig::with(timeouts).await;
        let (sender, receiver) = if client_resets {
            (&mut rig.client, &mut rig.server)
        } else {
            (&mut rig.server, &mut rig.client)
        };
        fill(sender).await;
        reset(sender).await;
        let relayed = within(DEADLINE, "the end", &mut rig.relaying)
            .await
            .unwrap();
        // The data could not be delivered in time.
        assert_eq!(relayed.reason, Reason::HalfCloseTimeout);
        let error = if client_resets {
            relayed.client_error
        } else {
            relayed.server_error
        };
        assert_eq!(error.unwrap().kind(), ErrorKind::ConnectionReset);
        assert_eq!(read_kind(receiver).await, Some(ErrorKind::ConnectionReset));
    }
}

#[tokio::test]
async fn slow_receiver_gets_all_data_after_a_reset() {
    let timeouts = RelayPolicy {
        idle: None,
        half_close: Some(DEADLINE),
        ..RelayPolicy::default()
    };
    let mut rig = Rig::with(timeouts).await;
    fill(&mut rig.client).await;
    reset(&mut rig.client).await;
    // Let the relay notice the reset before the server reads.
    tokio::time::sleep(50 * MS).await;
    assert!(!rig.relaying.is_finished());
    let mut received = 0;
    let mut buffer = vec![0; 64 * 1024];
    let error = loop {
        match within(DEADLINE, "data", rig.server.read(&mut buffer)).await {
            Ok(0) => panic!("the truncated upload looks complete"),
            Ok(count) => received += count as u64,
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    assert_eq!(rig.reason().await, Reason::ClientReset);
    assert_eq!(received, rig.traffic.received());
}

/// Writes until the peer's buffers are full, and returns the number of bytes written.
async fn fill(stream: &mut TcpStream) -> usize {
    let piece = vec![7; 16 * 1024];
    let mut taken = 0;
    // The timeout is long enough for the relay to keep up while it is still reading.
    while let Ok(Ok(written)) = timeout(100 * MS, stream.write(&piece)).await {
        taken += written;
    }
    taken
}

#[tokio::test]
async fn slow_reader_blocks_its_sender() {
    let mut rig = Rig::new().await;
    let taken = fill(&mut rig.client).await;
    // The bound is the size of the kernel buffers of two connections (twice the requested size;
    // send buffers grow up to 4 MiB) plus one scratch buffer.
    assert!(taken < 2 * (4 << 20) + 2 * (64 << 10) + SCRATCH, "{taken}");
    let relayed = rig.traffic.received() as usize;
    assert!(relayed <= taken && taken - relayed <= (4 << 20) + (64 << 10) + SCRATCH);
    rig.client.shutdown().await.unwrap();
    assert_eq!(read_to_end(&mut rig.server).await.unwrap().len(), taken);
    rig.server.shutdown().await.unwrap();
    assert_eq!(rig.reason().await, Reason::Ok);
}

#[tokio::test]
async fn early_answer_reaches_an_uploading_client() {
    let mut rig = Rig::new().await;
    rig.client.write_all(b"the beginning").await.unwrap();
    let mut beginning = [0; 13];
    rig.server.read_exact(&mut beginning).await.unwrap();
    rig.server.write_all(b"too large").await.unwrap();
    let (unused, _other_end) = pair().await;
    drop(std::mem::replace(&mut rig.server, unused));
    let mut answer = [0; 9];
    let upload = async {
        // Keep uploading without reading the response, until the upload fails.
        while rig.client.write_all(&[0; 1000]).await.is_ok() {
            tokio::time::sleep(MS).await;
        }
    };
    within(DEADLINE, "the end of the upload", upload).await;
    rig.client.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"too large");
    assert_eq!(rig.reason().await, Reason::ServerReset);
}

/// A slow client must receive the whole response if its end has already been forwarded.
#[tokio::test]
async fn half_close_timeout_keeps_a_complete_answer() {
    let timeouts = RelayPolicy {
        idle: None,
        half_close: Some(50 * MS),
        ..RelayPolicy::default()
    };
    let mut rig = Rig::with(timeouts).await;
    // The response is larger than the client's receive buffer, so the rest stays in the balancer's
    // send buffer.
    let answer = pattern(0, 300_000);
    rig.server.write_all(&answer).await.unwrap();
    rig.server.shutdown().await.unwrap();
    assert_eq!(rig.reason().await, Reason::HalfCloseTimeout);
    assert!(read_to_end(&mut rig.client).await.unwrap() == answer);
}

#[tokio::test]
async fn bulk_transfer_does_not_starve_others() {
    let mut busy = Rig::new().await;
    let mut quiet = Rig::new().await;
    let (mut reads, mut writes) = (busy.server, busy.client);
    let flood = tokio::spawn(async move {
        let bytes = vec![1; 256 * 1024];
        while writes.write_all(&bytes).await.is_ok() {}
    });
    let drain = tokio::spawn(async move {
        let mut buffer = vec![0; 256 * 1024];
        while reads.read(&mut buffer).await.is_ok_and(|count| count > 0) {}
    });
    let talk = async {
        for _ in 0..200 {
            quiet.client.write_all(b"ping").await.unwrap();
            let mut bytes = [0; 4];
            quiet.server.read_exact(&mut bytes).await.unwrap();
            quiet.server.write_all(&bytes).await.unwrap();
            quiet.client.read_exact(&mut bytes).await.unwrap();
        }
    };
    within(DEADLINE, "200 exchanges of the quiet connection", talk).await;
    assert!(busy.traffic.received() > 0);
    flood.abort();
    drain.abort();
    within(DEADLINE, "the end", &mut busy.relaying)
        .await
        .unwrap();
}
