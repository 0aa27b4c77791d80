//! The admin address answers within 100 ms (release builds) while the workers are saturated
//! and while metrics are large. `descriptor_exhaustion.rs` covers a lack of file
//! descriptors.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};
use std::time::{Duration, Instant};

use leastconn_testkit::{Behaviour, DEADLINE, Upstream, eventually, within};
use tokio::io::AsyncWriteExt;
use tokio::task::JoinSet;

use crate::support::{ADMIN_LATENCY, CLIENT1, NO_PROBES, Site, TLS, cn, entries, entry, talk, tcp};

fn is_long() -> bool {
    std::env::var_os("LEASTCONN_LONG").is_some()
}

/// Sends a request on a new connection, and returns how long the answer took.
fn time_request(addr: SocketAddr, path: &str) -> Duration {
    let start = leastconn::net::now();
    let mut stream = std::net::TcpStream::connect(addr).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(10)))
        .unwrap();
    write!(stream, "GET {path} HTTP/1.0\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.0 200 "), "{answer}");
    leastconn::net::now() - start
}

/// Measures latencies on a separate thread, so that the test's own load does not distort them.
async fn assert_prompt(addr: SocketAddr, rounds: usize, what: &str) {
    let measuring = tokio::task::spawn_blocking(move || {
        let paths = ["/healthz", "/readyz", "/metrics"];
        paths.map(|path| {
            let mut took: Vec<_> = (0..rounds).map(|_| time_request(addr, path)).collect();
            took.sort_unstable();
            (path, took)
        })
    });
    for (path, took) in measuring.await.unwrap() {
        let p99 = took[(took.len() * 99).div_ceil(100) - 1];
        eprintln!(
            "{what}: {path}: median {:?}, p99 {p99:?}, most {:?} of {}",
            took[took.len() / 2],
            took[took.len() - 1],
            took.len()
        );
        assert!(p99 <= ADMIN_LATENCY, "{what}: {path}: {took:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn admin_answers_while_workers_are_saturated() {
    let web = Upstream::named("web1").await;
    let sink = Upstream::start(Behaviour::Sink).await;
    let lb = Site::new()
        .listener("main", &["upstream = \"web\"", TLS])
        .listener("sink", &["upstream = \"sink\"", TLS])
        .upstream("web", &[NO_PROBES], &entries(&[&web]))
        .upstream("sink", &[NO_PROBES], &entries(&[&sink]))
        .client("client1", &cn(CLIENT1), "web\", \"sink", "")
        .start()
        .await;
    let (main, sinks) = (lb.main(), lb.address("sink"));
    let stop = Arc::new(AtomicBool::new(false));
    let handshakes = Arc::new(AtomicUsize::new(0));
    let mut tasks = JoinSet::new();
    for _ in 0..8 {
        let (client, stop) = (lb.client(CLIENT1), Arc::clone(&stop));
        let handshakes = Arc::clone(&handshakes);
        tasks.spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                talk(client.connect(main).await.unwrap()).await.unwrap();
                handshakes.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    for _ in 0..4 {
        let (client, stop) = (lb.client(CLIENT1), Arc::clone(&stop));
        tasks.spawn(async move {
            let mut stream = client.connect(sinks).await.unwrap();
            let piece = vec![7; 64 * 1024];
            while !stop.load(Ordering::Relaxed) {
                stream.write_all(&piece).await.unwrap();
            }
            stream.shutdown().await.unwrap();
            leastconn_testkit::client::read_to_close(&mut stream)
                .await
                .unwrap();
        });
    }
    eventually(Duration::from_secs(10), || async {
        let done = handshakes.load(Ordering::Relaxed);
        let enough = (done >= 20).then_some(());
        enough.ok_or_else(|| format!("{done} handshakes"))
    })
    .await
    .unwrap();
    let before = handshakes.load(Ordering::Relaxed);
    let rounds = if is_long() { 1000 } else { 100 };
    assert_prompt(lb.admin(), rounds, "saturated").await;
    assert!(
        handshakes.load(Ordering::Relaxed) > before,
        "the workers are not under load"
    );
    stop.store(true, Ordering::Relaxed);
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    lb.quiet().await;
}

#[tokio::test]
async fn admin_answers_with_thousands_of_connections() {
    let open = if is_long() { 4_000 } else { 400 };
    let web = Upstream::named("web1").await;
    let servers: Vec<_> = (0..1000)
        .map(|n| entry(&format!("web{n}"), web.addr(), ""))
        .collect();
    let lb = Site::new()
        .listener("main", &["upstream = \"web\""])
        .upstream("web", &[NO_PROBES], &servers)
        .client("local", "source = \"127.0.0.0/8\"", "web", "")
        .start()
        .await;
    let mut streams = Vec::new();
    for _ in 0..open {
        let mut stream = tcp(lb.main()).await;
        leastconn_testkit::client::read_line(&mut stream)
            .await
            .unwrap();
        streams.push(stream);
    }
    let rounds = if is_long() { 300 } else { 30 };
    assert_prompt(lb.admin(), rounds, "many servers").await;
    let start: Instant = leastconn::net::now();
    let metrics = lb.metrics().await;
    eprintln!("read and parsed in {:?}", start.elapsed());
    let active = r#"leastconn_connections_active{listener="main"}"#;
    assert_eq!(metrics[active], f64::from(open));
    drop(streams);
    lb.quiet().await;
}

/// If more connections arrive than the admin address allows concurrently, it closes the connection
/// that has been idle longest. It does not close a connection whose request is incomplete.
#[tokio::test]
async fn idle_admin_connections_do_not_block_others() {
    use tokio::io::AsyncReadExt;
    const IDLE: usize = 200;
    let web = Upstream::named("web1").await;
    let site = Site::usual(&[&web]).admin("token = \"token\"");
    std::fs::write(site.dir.path().join("token"), "a-token-for-tests-only").unwrap();
    let lb = site.start().await;
    let ask = b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n";
    // This connection sends the rest of its request only at the end of the test.
    let head = "POST /api/v1/reload HTTP/1.1\r\nhost: localhost\r\ncontent-length: 2\r\n\
                content-type: application/json\r\n\
                authorization: Bearer a-token-for-tests-only\r\n\r\n{";
    let mut slow = tcp(lb.admin()).await;
    let mut idle = Vec::new();
    for n in 0..IDLE {
        let mut stream = tcp(lb.admin()).await;
        if n % 2 == 0 {
            stream.write_all(ask).await.unwrap();
            let mut start = [0; 12];
            within(DEADLINE, "an answer", stream.read_exact(&mut start))
                .await
                .unwrap();
            assert_eq!(&start, b"HTTP/1.1 200");
        }
        if n == 0 {
            // `slow` sends its request after `idle[0]`, so `idle[0]` has been idle longest.
            slow.write_all(head.as_bytes()).await.unwrap();
        }
        idle.push(stream);
    }
    for path in ["/healthz", "/readyz", "/metrics"] {
        let answer = within(ADMIN_LATENCY, path, lb.http_get(path)).await;
        assert_eq!(answer.0, 200, "{path}");
    }
    slow.write_all(b"}").await.unwrap();
    let mut start = [0; 12];
    within(DEADLINE, "the answer", slow.read_exact(&mut start))
        .await
        .unwrap();
    assert_eq!(&start, b"HTTP/1.1 200");
    // `idle[0]` was closed. The newest idle connection is still open.
    let mut rest = Vec::new();
    within(DEADLINE, "the end", idle[0].read_to_end(&mut rest))
        .await
        .unwrap();
    let last = idle.last_mut().unwrap();
    last.write_all(ask).await.unwrap();
    within(DEADLINE, "an answer", last.read_exact(&mut start))
        .await
        .unwrap();
    drop((idle, slow));
    lb.quiet().await;
}
