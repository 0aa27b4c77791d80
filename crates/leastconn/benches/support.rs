//! Workloads shared by the timing and the instruction-counting benchmarks.
#![allow(dead_code, reason = "each benchmark uses only a part of this module")]

use std::{
    future::poll_fn,
    io,
    net::SocketAddr,
    num::NonZeroU32,
    pin::Pin,
    sync::LazyLock,
    task::{Context, Poll},
    time::Instant,
};

use leastconn::{
    ClientId, Lease, Limiter, Limits, Pool, RateLimit, Reason, ServerSpec, Tried,
    net::{RelayPolicy, Stream, Traffic, relay},
};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf};

#[expect(
    clippy::disallowed_methods,
    reason = "an Instant cannot be constructed otherwise; no time is measured"
)]
pub(crate) static NOW: LazyLock<Instant> = LazyLock::new(Instant::now);

/// A pool with about ten connections on each server.
#[expect(clippy::expect_used, reason = "an error aborts the benchmark")]
pub(crate) fn busy(servers: u16) -> (Pool, Vec<Option<Lease>>) {
    let specs = (0..servers).map(|number| {
        let address = SocketAddr::from(([127, 0, 0, 1], number));
        ServerSpec::new(number.to_string(), address)
    });
    let pool = Pool::builder("pool")
        .servers(specs)
        .seed(1)
        .build()
        .expect("there is at least one server, and names are unique");
    let held = (0..10 * u32::from(servers) + 1)
        .map(|_| pool.pick(&pool.all(), &Tried::default(), *NOW))
        .collect();
    (pool, held)
}

/// A limiter that already knows `identities` clients. Its limits admit every connection, because
/// only the cost of an admission is measured.
pub(crate) fn limiter(identities: usize) -> (Limiter, Vec<ClientId>, Limits) {
    let limiter = Limiter::new(2 * identities, *NOW);
    let limits = Limits::default()
        .rate(RateLimit::new(1e9, NonZeroU32::MAX))
        .max_conns(NonZeroU32::new(u32::MAX));
    let clients: Vec<ClientId> = (0..identities)
        .map(|number| format!("spiffe://example.org/ns/web/client-{number:07}").into())
        .collect();
    for client in &clients {
        drop(limiter.admit(client, &limits, *NOW));
    }
    (limiter, clients, limits)
}

/// One end of an in-memory pipe, as a [`Stream`].
#[derive(Debug)]
struct Memory(DuplexStream);

impl AsyncRead for Memory {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().0).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Memory {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().0).poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().0).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().0).poll_shutdown(cx)
    }
}

impl Stream for Memory {
    fn abort(&mut self) {}
}

/// Relays between a client and a server in memory: first `echoes` messages of 64 bytes in
/// each direction, then `bytes` from the server to the client.
#[expect(clippy::expect_used, reason = "an error aborts the benchmark")]
pub(crate) async fn carry(echoes: usize, bytes: usize) {
    const PIPE: usize = 128 * 1024;
    let (mut client, downstream) = tokio::io::duplex(PIPE);
    let (mut server, upstream) = tokio::io::duplex(PIPE);
    let (mut downstream, mut upstream) = (Memory(downstream), Memory(upstream));
    let (policy, traffic) = (RelayPolicy::default(), Traffic::default());
    let relaying = relay(&mut downstream, &mut upstream, &policy, &traffic);
    let client = async {
        let mut message = [7; 64];
        for _ in 0..echoes {
            client.write_all(&message).await?;
            client.read_exact(&mut message).await?;
        }
        client.shutdown().await?;
        take(&mut client).await
    };
    let serving = async {
        let mut message = [0; 64];
        for _ in 0..echoes {
            server.read_exact(&mut message).await?;
            server.write_all(&message).await?;
        }
        let chunk = vec![1; PIPE];
        let mut left = bytes;
        while left > 0 {
            let count = left.min(PIPE);
            server.write_all(&chunk[..count]).await?;
            left -= count;
        }
        server.shutdown().await
    };
    let (outcome, got, served) = tokio::join!(relaying, client, serving);
    served.expect("the server's side succeeds");
    assert_eq!(outcome.reason, Reason::Ok);
    assert_eq!(got.expect("the client's side succeeds"), bytes);
}

async fn take(client: &mut DuplexStream) -> io::Result<usize> {
    let mut scratch = vec![0; 128 * 1024];
    let mut got = 0;
    loop {
        let mut buffer = ReadBuf::new(&mut scratch);
        poll_fn(|cx| Pin::new(&mut *client).poll_read(cx, &mut buffer)).await?;
        match buffer.filled().len() {
            0 => return Ok(got),
            count => got += count,
        }
    }
}

#[expect(clippy::expect_used, reason = "an error aborts the benchmark")]
pub(crate) fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("file descriptors are available")
}
