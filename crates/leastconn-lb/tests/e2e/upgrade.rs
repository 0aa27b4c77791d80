//! Upgrades by SIGUSR2: a new process takes over the listening sockets without a failed
//! connection, and open connections finish in the old process.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use leastconn_testkit::client::{read_line, read_to_close, roundtrip};
use leastconn_testkit::data::{Sha256, pattern};
use leastconn_testkit::{Behaviour, DEADLINE, Signal, Upstream, eventually, within};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::ctl::{SOCKET, ctl};
use crate::support::upgrading::{
    message, open_files, quiet, shut_down_all, signal, start, upgrade, wait_process_exit,
};
use crate::support::{CLIENT1, NO_PROBES, Site, TLS, cn, entries, talk, tcp};

/// Numbers of connections and upgrades.
fn size() -> (usize, usize) {
    match std::env::var_os("LEASTCONN_LONG") {
        Some(_) => (100_000, 20),
        None => (3_000, 3),
    }
}

/// Opens a connection, exchanges data and closes the connection cleanly.
async fn plain(addr: SocketAddr) -> io::Result<()> {
    let stream = TcpStream::connect(addr).await?;
    let name = talk(stream).await?;
    if name == "web1" {
        return Ok(());
    }
    Err(io::Error::other(name))
}

fn both(web: &Upstream) -> Site {
    Site::new()
        .listener("main", &["upstream = \"web\"", TLS])
        .listener("plain", &["upstream = \"web\""])
        .upstream("web", &[NO_PROBES], &entries(&[web]))
        .client("client1", &cn(CLIENT1), "web", "")
        .client("local", "source = \"127.0.0.0/8\"", "web", "")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_connection_is_refused_or_reset() {
    let (connects, upgrades) = size();
    let web = Upstream::named("web1").await;
    let lb = start(both(&web)).await;
    let (main, addr) = (lb.main(), lb.address("plain"));
    let client = lb.client(CLIENT1);
    let left = Arc::new(AtomicUsize::new(connects));
    let done = Arc::new(AtomicUsize::new(0));
    let mut tasks: JoinSet<io::Result<usize>> = JoinSet::new();
    for n in 0..32 {
        let (left, done, client) = (Arc::clone(&left), Arc::clone(&done), client.clone());
        tasks.spawn(async move {
            let mut made = 0;
            let take = |left: usize| left.checked_sub(1);
            while left
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, take)
                .is_ok()
            {
                // Only one task in 32 uses TLS, because handshakes are slow in debug
                // builds.
                if n == 0 {
                    talk(client.connect(main).await?).await?;
                } else {
                    plain(addr).await?;
                }
                made += 1;
                done.fetch_add(1, Ordering::Relaxed);
            }
            Ok(made)
        });
    }
    // Upgrades are spread evenly over the connections.
    let (mut pid, mut files) = (lb.pid(), 0);
    for n in 0..upgrades {
        let due = (connects * (2 * n + 1)) / (2 * upgrades);
        within(6 * DEADLINE, "connects", async {
            while done.load(Ordering::Relaxed) < due {
                assert_eq!(tasks.len(), 32, "{:?}", tasks.join_next().await);
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        })
        .await;
        pid = upgrade(&lb, pid).await;
        files = open_files(pid).max(files);
    }
    let mut made = 0;
    while let Some(ended) = tasks.join_next().await {
        made += ended.unwrap().unwrap();
    }
    assert_eq!(made, connects);
    assert_eq!(lb.wait_exit(DEADLINE).await.code(), Some(0));
    let records = lb.wait_records(connects).await;
    assert_eq!(records.len(), connects);
    assert!(records.iter().all(|record| record["outcome"] == "ok"));
    quiet(&lb, pid, files).await;
    println!("{connects} connects during {upgrades} upgrades: none refused, none reset");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn open_connections_finish_in_the_old_process() {
    let web = Upstream::named("web1").await;
    let sink = Upstream::start(Behaviour::Sink).await;
    let site = Site::new()
        .listener("main", &["upstream = \"web\"", TLS])
        .listener("sink", &["upstream = \"sink\"", TLS])
        .upstream("web", &[NO_PROBES], &entries(&[&web]))
        .upstream("sink", &[NO_PROBES], &entries(&[&sink]))
        .client("client1", &cn(CLIENT1), "web\", \"sink", "");
    let lb = start(site).await;
    let client = lb.client(CLIENT1);
    let (main, sinks) = (lb.main(), lb.address("sink"));

    // One connection sends during the whole test. The server computes a digest, which is
    // compared at the end.
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    let mut stream = client.connect(sinks).await.unwrap();
    let sending = tokio::spawn(async move {
        let (mut digest, mut sent) = (Sha256::default(), 0);
        while !stopped.load(Ordering::Relaxed) {
            let piece = pattern(sent, 16 * 1024);
            digest.update(&piece);
            stream.write_all(&piece).await.unwrap();
            sent += piece.len() as u64;
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        stream.shutdown().await.unwrap();
        let answer = read_to_close(&mut stream).await.unwrap();
        assert_eq!(String::from_utf8(answer).unwrap(), digest.finish_hex());
    });

    let mut pids = vec![lb.pid()];
    let mut open = Vec::new();
    for _ in 0..3 {
        let mut stream = client.connect(main).await.unwrap();
        assert_eq!(read_line(&mut stream).await.unwrap(), "web1");
        open.push(stream);
        pids.push(upgrade(&lb, pids[pids.len() - 1]).await);
    }
    // Each connection belongs to a different process. The old processes no longer accept
    // connections.
    let bytes = vec![9; 100_000];
    for (stream, pid) in open.iter_mut().zip(&pids) {
        assert!(std::fs::exists(format!("/proc/{pid}/fd")).unwrap());
        assert!(roundtrip(stream, &bytes).await.unwrap() == bytes);
    }
    stop.store(true, Ordering::Relaxed);
    within(DEADLINE, "the sender", sending).await.unwrap();
    for (mut stream, pid) in open.into_iter().zip(&pids) {
        stream.shutdown().await.unwrap();
        assert!(read_to_close(&mut stream).await.unwrap().is_empty());
        wait_process_exit(*pid).await;
    }
    assert_eq!(lb.wait_exit(DEADLINE).await.code(), Some(0));
    talk(client.connect(main).await.unwrap()).await.unwrap();
    let records = lb.wait_records(5).await;
    assert!(records.iter().all(|r| r["outcome"] == "ok"), "{records:?}");
}

#[tokio::test]
async fn term_ends_the_old_process_at_once() {
    let web = Upstream::named("web1").await;
    let lb = start(both(&web)).await;
    let mut stream = lb.client(CLIENT1).connect(lb.main()).await.unwrap();
    read_line(&mut stream).await.unwrap();
    let pid = upgrade(&lb, lb.pid()).await;
    // The old process ignores signals that apply only to the newest process.
    lb.signal(Signal::HUP);
    lb.signal(Signal::USR2);
    assert_eq!(roundtrip(&mut stream, b"x").await.unwrap(), b"x");
    lb.signal(Signal::TERM);
    assert_eq!(lb.wait_exit(DEADLINE).await.code(), Some(1));
    lb.wait_record(|record| record["outcome"] == "drained", DEADLINE)
        .await;
    assert!(read_to_close(&mut stream).await.is_err());
    plain(lb.address("plain")).await.unwrap();
    signal(pid, Signal::TERM);
    wait_process_exit(pid).await;
}

#[tokio::test]
async fn upgrade_reads_the_current_configuration() {
    let web = Upstream::named("web1").await;
    let lb = start(both(&web)).await;
    let (kept, removed) = (lb.main(), lb.address("plain"));
    let admin = lb.admin();
    // The new configuration has one more worker, which a reload cannot change, and another
    // listener.
    let config = lb.config();
    let config = config.replace("workers = 2", "workers = 3").replace(
        "name = \"plain\"\nbind = \"127.0.0.1:0\"",
        "name = \"added\"\nbind = \"127.0.0.1:0\"",
    );
    lb.write_config(&config);
    let pid = upgrade(&lb, lb.pid()).await;
    assert_eq!((lb.main(), lb.admin()), (kept, admin));
    let added = lb.wait_address("added").await;
    assert_ne!(added, removed);
    talk(lb.client(CLIENT1).connect(kept).await.unwrap())
        .await
        .unwrap();
    plain(added).await.unwrap();
    assert_eq!(lb.wait_exit(DEADLINE).await.code(), Some(0));
    let error = plain(removed).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
    // Reloads also work after the upgrade.
    assert_eq!(lb.http_get("/readyz").await.0, 200);
    lb.write_config(&config.replace("[log]", "max_handshakes = 100\n[log]"));
    signal(pid, Signal::HUP);
    lb.wait_metric(
        "leastconn_config_reloads_total{outcome=\"applied\"}",
        1.0,
        DEADLINE,
    )
    .await;
    quiet(&lb, pid, open_files(pid)).await;
}

#[tokio::test]
async fn down_server_is_known_before_the_first_connection() {
    let web = Upstream::named("web1").await;
    let check = "health_check = { interval = \"1h\", timeout = \"1s\" }\nretries = 0";
    let dead = crate::support::entry("dead", crate::support::refusing_address(), "");
    let mut servers = entries(&[&web]);
    servers.push(dead);
    let site = Site::new()
        .listener("plain", &["upstream = \"web\""])
        .upstream("web", &[check], &servers)
        .client("local", "source = \"127.0.0.0/8\"", "web", "");
    let lb = start(site).await;
    let addr = lb.address("plain");
    let mut pid = lb.pid();
    for _ in 0..3 {
        pid = upgrade(&lb, pid).await;
        for _ in 0..4 {
            plain(addr).await.unwrap();
        }
        let metrics = lb.metrics().await;
        let failures = "leastconn_server_connect_failures_total{server=\"dead\",upstream=\"web\"}";
        assert_eq!(metrics.get(failures).copied().unwrap_or(0.0), 0.0);
    }
    shut_down_all(&lb, pid).await;
}

/// Overrides are handed over to the new process. `ctl` reaches the new process at the same
/// socket.
#[tokio::test]
async fn overrides_and_admin_socket_survive() {
    let webs = [Upstream::named("web1").await, Upstream::named("web2").await];
    let site = Site::plain(&[&webs[0], &webs[1]]).admin(SOCKET);
    let lb = start(site).await;
    ctl(&lb, &["drain", "web/web1"]).await.ok();
    ctl(&lb, &["weight", "web/web2", "50%"]).await.ok();
    ctl(&lb, &["log-level", "debug"]).await.ok();
    let status = async || -> serde_json::Value {
        serde_json::from_str(&ctl(&lb, &["status", "--json"]).await.ok()).unwrap()
    };
    let set = status().await["configuration"]["deviations"].clone();
    assert_eq!(set.as_array().unwrap().len(), 3);
    let mut pid = lb.pid();
    for _ in 0..2 {
        pid = upgrade(&lb, pid).await;
        let now = status().await;
        assert_eq!(now["pid"], pid);
        assert_eq!(now["configuration"]["deviations"], set);
        for _ in 0..4 {
            assert_eq!(talk(tcp(lb.main()).await).await.unwrap(), "web2");
        }
    }
    assert_eq!(lb.wait_exit(DEADLINE).await.code(), Some(0));
    ctl(&lb, &["ready", "web/web1"]).await.ok();
    signal(pid, Signal::TERM);
    wait_process_exit(pid).await;
    assert!(!lb.dir().join("lb.sock").exists());
}

/// The last process that listens on the socket removes its file. The file must not be
/// removed earlier, because the old process continues if the upgrade fails.
#[tokio::test]
async fn removed_admin_socket_leaves_no_file() {
    let web = Upstream::named("web1").await;
    let lb = start(Site::plain(&[&web]).admin(SOCKET)).await;
    let path = lb.dir().join("lb.sock");
    assert!(path.exists());
    lb.write_config(&lb.config().replace(SOCKET, "socket = \"other.sock\""));
    let pid = upgrade(&lb, lb.pid()).await;
    assert_eq!(lb.wait_exit(DEADLINE).await.code(), Some(0));
    assert!(!path.exists(), "the socket file was left behind");
    assert!(lb.dir().join("other.sock").exists());
    signal(pid, Signal::TERM);
    wait_process_exit(pid).await;
    assert!(!lb.dir().join("other.sock").exists());
}

/// The status lists all old processes with their current numbers of connections.
#[tokio::test]
async fn connections_of_old_processes_are_shown() {
    let web = Upstream::named("web1").await;
    let lb = start(Site::usual(&[&web]).admin(SOCKET)).await;
    let (mut streams, mut pids) = (Vec::new(), vec![lb.pid()]);
    let client = lb.client(CLIENT1);
    for generation in 0..2 {
        for _ in 0..=generation {
            let mut stream = client.connect(lb.main()).await.unwrap();
            read_line(&mut stream).await.unwrap();
            streams.push(stream);
        }
        pids.push(upgrade(&lb, pids[generation]).await);
    }
    let [first, second, newest] = pids[..] else {
        unreachable!()
    };
    let assert_shown = async |expected: &[(u32, u64)]| {
        let found = eventually(DEADLINE, || async {
            let status = ctl(&lb, &["status", "--json"]).await.ok();
            let status: serde_json::Value = serde_json::from_str(&status).unwrap();
            let old = status["old_processes"].as_array().unwrap().clone();
            let is = |old: &serde_json::Value, (pid, connections): &(u32, u64)| {
                old["pid"] == *pid && old["connections"] == *connections
            };
            let all = old
                .iter()
                .zip(expected)
                .all(|(old, expected)| is(old, expected));
            if all && old.len() == expected.len() {
                Ok(())
            } else {
                Err(format!("got {old:?}, expected {expected:?}"))
            }
        });
        found.await.unwrap();
        let metrics = lb.metrics().await;
        let sum: u64 = expected.iter().map(|old| old.1).sum();
        assert_eq!(metrics["leastconn_old_processes"], expected.len() as f64);
        assert_eq!(metrics["leastconn_old_processes_connections"], sum as f64);
    };
    // The list is sorted by PID, and PIDs may have wrapped around.
    let mut both = [(first, 1), (second, 2)];
    both.sort_unstable();
    assert_shown(&both).await;
    let status = ctl(&lb, &["status"]).await.ok();
    let line = format!("predecessor process {second} still serves 2 connections");
    assert!(status.contains(&line), "{status}");
    let mut close = async |stream: usize| {
        let mut stream = streams.remove(stream);
        stream.shutdown().await.unwrap();
        read_to_close(&mut stream).await.unwrap();
    };
    close(2).await;
    both = [(first, 1), (second, 1)];
    both.sort_unstable();
    assert_shown(&both).await;
    close(0).await;
    assert_shown(&[(second, 1)]).await;
    assert_eq!(lb.wait_exit(DEADLINE).await.code(), Some(0));
    close(0).await;
    assert_shown(&[]).await;
    wait_process_exit(second).await;
    signal(newest, Signal::TERM);
    wait_process_exit(newest).await;
}

#[tokio::test]
async fn all_processes_reopen_log_files() {
    let web = Upstream::named("web1").await;
    let lb = start(Site::usual(&[&web]).log("access = \"access.log\"")).await;
    let mut stream = lb.client(CLIENT1).connect(lb.main()).await.unwrap();
    read_line(&mut stream).await.unwrap();
    let second = upgrade(&lb, lb.pid()).await;
    let newest = upgrade(&lb, second).await;
    wait_process_exit(second).await;
    let path = lb.dir().join("access.log");
    std::fs::rename(&path, lb.dir().join("access.log.1")).unwrap();
    signal(newest, Signal::USR1);
    lb.wait_log(
        |event| message(event).starts_with("reopening log files, forwarded"),
        DEADLINE,
    )
    .await;
    stream.shutdown().await.unwrap();
    read_to_close(&mut stream).await.unwrap();
    assert_eq!(lb.wait_exit(DEADLINE).await.code(), Some(0));
    let written = std::fs::read_to_string(&path).unwrap();
    assert_eq!(written.lines().count(), 1, "{written}");
    signal(newest, Signal::TERM);
    wait_process_exit(newest).await;
}
