//! When memory runs short, the process refuses and closes connections instead of aborting.

use std::process::Command;
use std::time::Duration;

use leastconn_testkit::{DEADLINE, Upstream, eventually, within};
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::JoinSet;

use crate::support::{BIN, NO_PROBES, Running, Site, entries, entry, talk, tcp};

/// Number of clients that do not read. Without a memory limit, each client would hold 128 KiB, and
/// all of them 500 MiB. This is more than the limit in each test.
const SLOW: usize = 4000;

/// Limits the address space of the program to `mib` MiB.
fn limit_memory(command: &mut Command, mib: u64) {
    let bytes = mib << 20;
    let mut limited = Command::new("prlimit");
    limited
        .arg(format!("--as={bytes}:{bytes}"))
        .arg(BIN)
        .args(command.get_args());
    limited.current_dir(command.get_current_dir().unwrap());
    *command = limited;
}

/// Starts a server that sends without end.
async fn flood() -> (std::net::SocketAddr, JoinSet<()>) {
    use tokio::io::AsyncWriteExt;
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_send_buffer_size(16 * 1024).unwrap();
    socket.bind(([127, 0, 0, 1], 0).into()).unwrap();
    let listener: TcpListener = socket.listen(4096).unwrap();
    let address = listener.local_addr().unwrap();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut floods = JoinSet::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            floods.spawn(async move {
                let bytes = vec![7; 64 * 1024];
                while stream.write_all(&bytes).await.is_ok() {}
            });
        }
    });
    (address, tasks)
}

/// Connects a client that never reads. Returns `None` if the connection was refused.
async fn slow(lb: &Running) -> Option<TcpStream> {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(8 * 1024).unwrap();
    socket2::SockRef::from(&socket).set_tcp_mss(1448).unwrap();
    within(DEADLINE, "connecting", socket.connect(lb.main()))
        .await
        .ok()
}

async fn slow_readers_with(mib: u64) {
    let (address, _flood) = flood().await;
    let other = Upstream::named("other").await;
    let site = Site::new()
        .listener("main", &["upstream = \"web\""])
        .listener("other", &["upstream = \"other\""])
        .upstream("web", &[NO_PROBES], &[entry("flood", address, "")])
        .upstream("other", &[NO_PROBES], &entries(&[&other]))
        .client("local", "source = \"127.0.0.0/8\"", "web", "");
    let config = site
        .config()
        .replace("allow = [\"web\"]", "allow = [\"web\", \"other\"]");
    let lb = site
        .start_as_with(BIN, &config, |command| limit_memory(command, mib))
        .await;
    let mut clients = Vec::new();
    for _ in 0..SLOW {
        clients.extend(slow(&lb).await);
    }
    // While the buffers fill up, new clients may be refused for a short time.
    for _ in 0..20 {
        let served = || async {
            let stream = tcp(lb.address("other")).await;
            talk(stream).await.map_err(|error| error.to_string())
        };
        assert_eq!(eventually(DEADLINE, served).await.unwrap(), "other");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let metrics = lb.metrics().await;
    let limit = metrics["leastconn_memory_limit_bytes"];
    assert_eq!(limit, ((mib << 20) / 100 * 80) as f64);
    let used = || async {
        let used = lb.metrics().await["leastconn_memory_used_bytes"];
        (used < limit)
            .then_some(())
            .ok_or(format!("{used} of {limit}"))
    };
    eventually(DEADLINE, used).await.unwrap();
    assert!(!lb.stderr().contains("allocation"), "{}", lb.stderr());
    drop(clients);
    let mut stream = tcp(lb.main()).await;
    let mut bytes = vec![0; 1 << 20];
    within(DEADLINE, "bytes", stream.read_exact(&mut bytes))
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_readers_do_not_abort_300_mib() {
    slow_readers_with(300).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_readers_do_not_abort_512_mib() {
    slow_readers_with(512).await;
}

/// The memory limit is so low that a reload with many rules exceeds it.
#[tokio::test]
async fn memory_limit_refuses_new_connections() {
    let web = Upstream::named("web1").await;
    let site = Site::plain(&[&web]).process("memory_limit = \"1GiB\"");
    let lb = site.start().await;
    let high = lb.config();
    let used = lb.metrics().await["leastconn_memory_used_bytes"];
    assert!(used > 1e6, "{used}");
    let limit = format!("\"{}MiB\"", (used / 1048576.0) as u64 + 8);
    let config = high.replace("\"1GiB\"", &limit);
    assert_eq!(lb.reload(&config).await, "applied");
    talk(tcp(lb.main()).await).await.unwrap();
    let many = config.clone() + &crate::support::many_clients();
    assert_eq!(lb.reload(&many).await, "applied");
    let refused = || async {
        let mut stream = tcp(lb.main()).await;
        let _ = stream.read(&mut [0]).await;
        let metrics = lb.metrics().await;
        let key = r#"leastconn_connections_total{listener="main",outcome="overloaded"}"#;
        let refused = metrics[&leastconn_testkit::metrics::normalise(key)];
        (refused > 0.0).then_some(()).ok_or("accepted".to_owned())
    };
    eventually(DEADLINE, refused).await.unwrap();
    let off = high.replace("\"1GiB\"", "\"off\"");
    assert_eq!(lb.reload(&off).await, "applied");
    talk(tcp(lb.main()).await).await.unwrap();
    lb.quiet().await;
}
