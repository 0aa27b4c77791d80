//! Clients and servers that do not read: the balancer stops reading from the sender, the memory
//! per connection is bounded, and other clients are served.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use leastconn_testkit::upstream::OpenConnections;
use leastconn_testkit::{Balancer, Behaviour, DEADLINE, Upstream, eventually, within};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::support::tls_servers::{MUTUAL, Servers, VERSIONS};
use crate::support::{CLIENT1, NO_PROBES, Records, Running, Site, TLS, cn, entries, entry, talk};

/// A client that must be served while others do not read.
const CLIENT2: &str = "client2.lb.com";

/// Maximum number of buffered bytes per direction: the size of one scratch buffer
/// (docs/performance.md).
const SCRATCH: u64 = 128 * 1024;

/// Memory in bytes that does not depend on the number of connections, such as the buffers of
/// the workers.
const ONCE: u64 = 6 << 20;

/// Maximum number of bytes in transit to a client that does not read. They are in the buffers
/// of four sockets, and in a pipe of the balancer.
const ON_ITS_WAY: u64 = 8 << 20;

/// A server that sends without end, and counts the bytes per connection.
struct Flood {
    addr: SocketAddr,
    sent: Arc<Mutex<Vec<Arc<AtomicU64>>>>,
    _tasks: JoinSet<()>,
}

impl Flood {
    async fn start() -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_send_buffer_size(16 * 1024).unwrap();
        socket.bind(([127, 0, 0, 1], 0).into()).unwrap();
        let listener: TcpListener = socket.listen(4096).unwrap();
        let addr = listener.local_addr().unwrap();
        let sent = Arc::new(Mutex::new(Vec::new()));
        let counters = Arc::clone(&sent);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut floods = JoinSet::new();
            while let Ok((mut stream, _)) = listener.accept().await {
                let counter = Arc::new(AtomicU64::new(0));
                counters.lock().unwrap().push(Arc::clone(&counter));
                floods.spawn(async move {
                    let bytes = vec![7; 128 * 1024];
                    while let Ok(count) = stream.write(&bytes).await {
                        counter.fetch_add(count as u64, Ordering::Relaxed);
                    }
                });
            }
        });
        Self {
            addr,
            sent,
            _tasks: tasks,
        }
    }

    /// Bytes sent on each connection.
    fn sent(&self) -> Vec<u64> {
        let sent = self.sent.lock().unwrap();
        sent.iter().map(|n| n.load(Ordering::Relaxed)).collect()
    }

    /// Waits until all `count` senders are blocked. Senders are considered blocked if none of
    /// them sends a byte for much longer than one write takes.
    async fn wait_stopped(&self, count: usize) -> Vec<u64> {
        const STABLE_ROUNDS: u32 = 25;
        let seen = Mutex::new((Vec::new(), 0));
        let stopped = eventually(3 * DEADLINE, || async {
            let now = self.sent();
            let (before, unchanged) = &mut *seen.lock().unwrap();
            if now.len() < count || now.iter().any(|&bytes| bytes < SCRATCH) || now != *before {
                (*before, *unchanged) = (now, 0);
                return Err(format!("{} connections are still sending", before.len()));
            }
            *unchanged += 1;
            if *unchanged < STABLE_ROUNDS {
                return Err("the senders may continue to send".to_owned());
            }
            Ok(now)
        });
        stopped.await.unwrap()
    }
}

/// Connects with small kernel buffers, so that the test can open many connections.
async fn small_socket(addr: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(8 * 1024).unwrap();
    // By default, a segment on loopback has 64 KiB, and socket buffers start at ten segments.
    socket2::SockRef::from(&socket).set_tcp_mss(1448).unwrap();
    within(DEADLINE, "connecting", socket.connect(addr))
        .await
        .unwrap()
}

/// Private memory of the process in bytes.
fn memory(lb: &Balancer) -> u64 {
    let path = format!("/proc/{}/smaps_rollup", lb.pid());
    let text = std::fs::read_to_string(path).unwrap();
    // Exclude pages that are shared with other processes of the same program: the number of
    // these processes changes during the test run.
    let anonymous = |line: &&str| line.starts_with("Anonymous:");
    let line = text.lines().find(anonymous).unwrap();
    let kilobytes = line.split_whitespace().nth(1).unwrap();
    kilobytes.parse::<u64>().unwrap() * 1024
}

async fn start(flood: &Flood, other: &Upstream, records: Records) -> Running {
    let site = Site::new()
        .listener("main", &["upstream = \"web\"", TLS])
        .listener("plain", &["upstream = \"web\""])
        .listener("other", &["upstream = \"other\"", TLS])
        .upstream("web", &[NO_PROBES], &[entry("flood", flood.addr, "")])
        .upstream("other", &[NO_PROBES], &entries(&[other]))
        .client("client1", &cn(CLIENT1), "web", "")
        .client("client2", &cn(CLIENT2), "other", "")
        .client("local", "source = \"127.0.0.0/8\"", "web", "");
    site.records(records).start().await
}

/// Checks that `count` clients use at most `ceiling` bytes of the balancer's memory each.
/// After these clients have disconnected, checks it again with half as many clients.
async fn measure_twice<S>(
    lb: &Running,
    flood: &Flood,
    count: usize,
    ceiling: u64,
    connect: impl AsyncFn() -> S,
) {
    let allowed = memory(lb) + ceiling * count as u64 + ONCE;
    measure(lb, flood, count, allowed, &connect).await;
    // The allocator may keep the memory of the first clients. If it did not reuse this
    // memory for the next clients, the limit would now be exceeded.
    measure(lb, flood, count / 2, allowed, &connect).await;
}

/// Connects clients that do not read, asserts that the process uses at most `allowed`
/// bytes, and disconnects the clients.
async fn measure<S>(
    lb: &Running,
    flood: &Flood,
    count: usize,
    allowed: u64,
    connect: impl AsyncFn() -> S,
) {
    flood.sent.lock().unwrap().clear();
    let mut clients = Vec::new();
    for _ in 0..count {
        clients.push(connect().await);
    }
    let sent = flood.wait_stopped(count).await;
    let most = sent.iter().max().unwrap();
    assert!(*most <= ON_ITS_WAY, "a server sent {most} bytes");
    let held = memory(lb);
    assert!(
        held <= allowed,
        "the process uses {held} bytes, more than {allowed}"
    );

    let other = lb.client(CLIENT2);
    let served = async { talk(other.connect(lb.address("other")).await?).await };
    let name = within(DEADLINE, "being served", served).await;
    assert_eq!(name.unwrap(), "other");

    drop(clients);
    lb.quiet().await;
}

async fn tls(records: Records, count: usize, ceiling: u64) {
    let flood = Flood::start().await;
    let other = Upstream::named("other").await;
    let lb = start(&flood, &other, records).await;
    let client = lb.client(CLIENT1);
    let connect = async || {
        let socket = small_socket(lb.main()).await;
        let stream = client.handshake(socket, "localhost");
        within(DEADLINE, "the handshake", stream).await.unwrap()
    };
    measure_twice(&lb, &flood, count, ceiling, connect).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousand_tls_clients_that_do_not_read() {
    tls("direct", 1000, SCRATCH + 8 * 1024).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_clients_that_do_not_read_with_rustls_records() {
    tls("rustls", 200, SCRATCH + 16 * 1024).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn plain_clients_that_do_not_read() {
    let flood = Flood::start().await;
    let other = Upstream::named("other").await;
    let lb = start(&flood, &other, "direct").await;
    let plain = lb.address("plain");
    // Some connections use a pipe, and the other connections use a buffer.
    let connect = async || small_socket(plain).await;
    measure_twice(&lb, &flood, 200, SCRATCH + 8 * 1024, connect).await;
}

/// Additional bytes per connection with TLS to the server. rustls holds up to 64 KiB of
/// encrypted records, and one more record.
const RUSTLS: u64 = (64 + 32) * 1024;

/// If `sends` is true, clients send without end to a server that does not read. Otherwise the
/// server sends, and the clients do not read.
async fn over_tls_to_servers(behaviour: Behaviour, sends: bool) {
    const COUNT: usize = 60;
    let servers = Servers::new();
    let web = servers.mutual(behaviour, VERSIONS[1].1).await;
    let site = servers.site(&[NO_PROBES, MUTUAL], &entries(&[&web]));
    let lb = site.start().await;
    let before = memory(&lb);
    let mut clients = Vec::new();
    for _ in 0..COUNT {
        let mut client = small_socket(lb.address("plain")).await;
        clients.push(tokio::spawn(async move {
            let bytes = vec![7; SCRATCH as usize];
            // Send until the balancer has accepted no more bytes for a second.
            let mut sent = 0;
            while sends
                && let Ok(count) = timeout(Duration::from_secs(1), client.write(&bytes)).await
            {
                sent += count.unwrap() as u64;
                assert!(sent <= 4 * ON_ITS_WAY, "{sent} bytes were accepted");
            }
            client
        }));
    }
    let direction = if sends { "received" } else { "sent" };
    let moved = format!(r#"leastconn_bytes_total{{listener="plain",direction="{direction}"}}"#);
    let moved = leastconn_testkit::metrics::normalise(&moved);
    let seen = Mutex::new((0.0, 0));
    let stopped = eventually(3 * DEADLINE, || async {
        // The test process runs both the clients and the servers, so a request may time
        // out.
        let answer = lb.try_http_get("/metrics").await;
        let (_, body) = answer.map_err(|error| error.to_string())?;
        let now = leastconn_testkit::metrics::parse(&body)[&moved];
        let (last, unchanged) = &mut *seen.lock().unwrap();
        *unchanged = if now == *last && now > 0.0 {
            *unchanged + 1
        } else {
            0
        };
        *last = now;
        (*unchanged > 25)
            .then_some(())
            .ok_or(format!("{now} bytes"))
    });
    web.wait_open(COUNT).await;
    stopped.await.unwrap();
    let held = memory(&lb);
    let allowed = before + (SCRATCH + RUSTLS) * COUNT as u64 + ONCE;
    assert!(
        held <= allowed,
        "the process uses {held} bytes, more than {allowed}"
    );
    for client in clients {
        drop(client.await.unwrap());
    }
    // A server that does not read would keep its connections until they time out.
    web.stop(OpenConnections::Close).await;
    lb.quiet().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_servers_that_do_not_read() {
    over_tls_to_servers(Behaviour::Stuck, true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_do_not_read_from_tls_servers() {
    over_tls_to_servers(Behaviour::Source { bytes: 1 << 30 }, false).await;
}
