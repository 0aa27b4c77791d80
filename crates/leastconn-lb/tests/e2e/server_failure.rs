//! Servers stop, refuse, hang, reset and recover. Clients should notice as little as
//! possible.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use leastconn_testkit::client::{read_line, read_to_close};
use leastconn_testkit::upstream::OpenConnections;
use leastconn_testkit::{Behaviour, DEADLINE, Upstream, eventually, within};
use socket2::{Domain, Socket, Type};
use tokio::sync::RwLock;
use tokio::task::JoinSet;

use crate::support::{
    DEBUG_SLACK, NO_PROBES, Running, Site, entries, entry, refusing_address, talk, tcp,
};

/// These health checks detect refused connections immediately, but do not treat slow answers as
/// failures.
const QUICK_PROBES: &str =
    r#"health_check = { interval = "100ms", timeout = "10s", rise = 2, fall = 1 }"#;
const QUICK_TRIAL: &str = r#"passive = { fail_timeout = "200ms" }"#;

async fn start(servers: &[String], lines: &[&str]) -> Running {
    Site::new()
        .listener("main", &["upstream = \"web\""])
        .upstream("web", lines, servers)
        .client("local", "source = \"127.0.0.0/8\"", "web", "")
        .start()
        .await
}

fn up(server: &str) -> String {
    format!("leastconn_server_up{{upstream=\"web\",server=\"{server}\"}}")
}

/// The balancer must not close a client's connection before it has tried another server.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refused_connect_is_retried_on_another_server() {
    let servers = [
        Upstream::named("web1").await,
        Upstream::named("web2").await,
        Upstream::named("web3").await,
    ];
    let all = servers.each_ref();
    let lb = start(&entries(&all), &[QUICK_PROBES, QUICK_TRIAL]).await;
    let (stop, served) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicU64::new(0)),
    );
    // If a server stops, the connections in its backlog are lost, and the balancer cannot
    // retry them. Therefore the test stops a server only while no client waits for a
    // greeting.
    let greeting = Arc::new(RwLock::new(()));
    let mut load = JoinSet::new();
    for _ in 0..8 {
        let (stop, served) = (Arc::clone(&stop), Arc::clone(&served));
        let (greeting, addr) = (Arc::clone(&greeting), lb.main());
        load.spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                let guard = greeting.read().await;
                let mut stream = tcp(addr).await;
                read_line(&mut stream).await.expect("a greeting");
                drop(guard);
                let echoed = leastconn_testkit::client::roundtrip(&mut stream, &[7; 5000]).await;
                assert_eq!(echoed.expect("an echo"), [7; 5000]);
                served.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    let progress = |n: u64| {
        let until = served.load(Ordering::Relaxed) + n;
        let served = &served;
        eventually(DEADLINE, move || async move {
            let now = served.load(Ordering::Relaxed);
            if now >= until {
                Ok(())
            } else {
                Err(format!("{now} of {until}"))
            }
        })
    };
    progress(50).await.unwrap();
    {
        let _no_greeting = greeting.write().await;
        servers[0].stop(OpenConnections::Keep).await;
    }
    lb.wait_metric(&up("web1"), 0.0, DEADLINE).await;
    progress(50).await.unwrap();
    let before = servers[0].accepted();
    servers[0].restart().await;
    lb.wait_metric(&up("web1"), 1.0, DEADLINE).await;
    progress(50).await.unwrap();
    // Health checks alone would open fewer than twenty connections in this time.
    eventually(DEADLINE, || async {
        match servers[0].accepted() - before {
            0..20 => Err("web1 has too few connections".to_owned()),
            _ => Ok(()),
        }
    })
    .await
    .unwrap();
    stop.store(true, Ordering::Relaxed);
    within(DEADLINE, "the end of the load", load.join_all()).await;
    lb.wait_records(served.load(Ordering::Relaxed) as usize)
        .await;
    assert!(lb.records().iter().all(|r| {
        ["ok", "client_truncated", "client_reset"].contains(&r["outcome"].as_str().unwrap())
    }));
    lb.quiet().await;
}

#[tokio::test]
async fn no_server_up_refuses_at_once_where_configured() {
    let servers = [Upstream::named("web1").await, Upstream::named("web2").await];
    let all = servers.each_ref();
    let refuse = "panic = \"refuse\"\nretry_for = \"0s\"";
    let lb = start(&entries(&all), &[QUICK_PROBES, QUICK_TRIAL, refuse]).await;
    for server in &servers {
        server.stop(OpenConnections::Close).await;
    }
    for name in ["web1", "web2"] {
        lb.wait_metric(&up(name), 0.0, DEADLINE).await;
    }
    for n in 0..3 {
        let mut stream = tcp(lb.main()).await;
        assert!(read_to_close(&mut stream).await.unwrap().is_empty());
        let record = lb.expect_record(n, "no_server_available").await;
        let most = 200.0 + DEBUG_SLACK.as_secs_f64() * 1e3;
        assert!(record["duration_ms"].as_f64().unwrap() < most, "{record}");
        assert_eq!(record["attempts"], 0);
    }
    for server in &servers {
        server.restart().await;
    }
    for name in ["web1", "web2"] {
        lb.wait_metric(&up(name), 1.0, DEADLINE).await;
    }
    talk(tcp(lb.main()).await).await.unwrap();
    lb.quiet().await;
}

/// Unavailable servers are detected before the first periodic health check.
#[tokio::test]
async fn first_health_check_runs_before_ready() {
    let good = Upstream::named("good").await;
    let servers = [
        entry("dead", refusing_address(), ""),
        entry("good", good.addr(), ""),
    ];
    // The first failed health check marks the server as down. The second health check would
    // run an hour later.
    let probes = r#"health_check = { interval = "1h", fall = 1 }"#;
    let lb = start(&servers, &[probes]).await;
    lb.wait_metric(&up("dead"), 0.0, Duration::from_secs(8))
        .await;
    for _ in 0..4 {
        assert_eq!(talk(tcp(lb.main()).await).await.unwrap(), "good");
    }
    assert!(lb.wait_records(4).await.iter().all(|r| r["attempts"] == 1));
    lb.quiet().await;
}

#[tokio::test]
async fn passive_checks_eject_and_readmit_a_server() {
    let servers = [Upstream::named("web1").await, Upstream::named("web2").await];
    let all = servers.each_ref();
    let lb = start(&entries(&all), &[NO_PROBES, QUICK_TRIAL]).await;
    servers[0].stop(OpenConnections::Close).await;
    // Keep the connections open, so that from the second connection on the stopped server
    // has the fewest connections.
    let mut held = Vec::new();
    for _ in 0..4 {
        let mut stream = tcp(lb.main()).await;
        assert_eq!(read_line(&mut stream).await.unwrap(), "web2");
        held.push(stream);
    }
    let failures = r#"leastconn_server_connect_failures_total{upstream="web",server="web1"}"#;
    assert!(lb.metrics().await[&leastconn_testkit::metrics::normalise(failures)] >= 1.0);
    servers[0].restart().await;
    drop(held);
    eventually(DEADLINE, || async {
        let name = talk(tcp(lb.main()).await).await.unwrap();
        if name == "web1" { Ok(()) } else { Err(name) }
    })
    .await
    .unwrap();
    lb.wait_metric(&up("web1"), 1.0, DEADLINE).await;
    lb.quiet().await;
}

#[tokio::test]
async fn connect_timeout_moves_on_to_another_server() {
    // A listener with a full backlog does not answer further connection attempts.
    let hole = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    hole.bind(&std::net::SocketAddr::from(([127, 0, 0, 1], 0)).into())
        .unwrap();
    hole.listen(0).unwrap();
    let addr = hole.local_addr().unwrap().as_socket().unwrap();
    let _fill = tcp(addr).await;
    let good = Upstream::named("good").await;
    let servers = [
        entry("hole", addr, ", weight = 100"),
        entry("good", good.addr(), ""),
    ];
    let lb = start(&servers, &[NO_PROBES, "connect_timeout = \"300ms\""]).await;
    assert_eq!(talk(tcp(lb.main()).await).await.unwrap(), "good");
    let first = lb.expect_record(0, "ok").await;
    assert_eq!(first["attempts"], 2, "{first}");
    let took = first["connect_ms"].as_f64().unwrap();
    let most = 900.0 + DEBUG_SLACK.as_secs_f64() * 1e3;
    assert!((300.0..most).contains(&took), "{first}");
    // The server was ejected, so the next client is not delayed.
    assert_eq!(talk(tcp(lb.main()).await).await.unwrap(), "good");
    assert_eq!(lb.expect_record(1, "ok").await["attempts"], 1);
    lb.quiet().await;
}

#[tokio::test]
async fn connect_failed_when_every_server_refuses() {
    let servers = [
        entry("a", refusing_address(), ""),
        entry("b", refusing_address(), ", weight = 2"),
    ];
    let lb = start(&servers, &[NO_PROBES, "retry_for = \"0s\""]).await;
    let mut stream = tcp(lb.main()).await;
    assert!(read_to_close(&mut stream).await.unwrap().is_empty());
    let record = lb.expect_record(0, "connect_failed").await;
    assert_eq!(record["attempts"], 2, "{record}");
    assert!(record.get("server").is_none());
    lb.quiet().await;
}

#[tokio::test]
async fn resetting_server_leaks_nothing() {
    let web = Upstream::start(Behaviour::AcceptThenReset).await;
    let no_ejection = "passive = { max_fails = 0 }";
    let once = "retry_for = \"0s\"";
    let lb = start(&entries(&[&web]), &[NO_PROBES, no_ejection, once]).await;
    for n in 0..30 {
        let mut stream = tcp(lb.main()).await;
        let end = read_to_close(&mut stream).await;
        let record = lb.wait_records(n + 1).await.swap_remove(n);
        match end {
            // The RST arrived before the balancer had finished connecting.
            Ok(bytes) => {
                assert!(bytes.is_empty());
                assert_eq!(record["outcome"], "connect_failed");
            }
            Err(error) => {
                assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
                assert_eq!(record["outcome"], "server_reset");
            }
        }
    }
    web.set_behaviour(Behaviour::Named("well again".to_owned()));
    talk(tcp(lb.main()).await).await.unwrap();
    lb.quiet().await;
}

/// The server behaves like a stopped process: the kernel accepts connections, but the process
/// does not answer.
#[tokio::test]
async fn hung_server_is_down_until_its_probe_answers() {
    let [hung, good] = [
        Upstream::start(Behaviour::Http(200)).await,
        Upstream::start(Behaviour::Http(200)).await,
    ];
    let probes = r#"health_check = { type = "http", interval = "100ms", timeout = "1s", rise = 2, fall = 2 }"#;
    let lb = start(&entries(&[&hung, &good]), &[probes]).await;
    hung.set_behaviour(Behaviour::Stuck);
    lb.wait_metric(&up("web1"), 0.0, DEADLINE).await;
    lb.wait_metric(&up("web2"), 1.0, DEADLINE).await;
    for n in 0..6 {
        let mut stream = tcp(lb.main()).await;
        tokio::io::AsyncWriteExt::write_all(&mut stream, b"GET / HTTP/1.0\r\n\r\n")
            .await
            .unwrap();
        let answer = read_to_close(&mut stream).await.unwrap();
        assert!(answer.starts_with(b"HTTP/1.1 200"));
        drop(stream);
        assert_eq!(lb.expect_record(n, "ok").await["server"], "web2");
    }
    // A response with an error status is also a failure.
    hung.set_behaviour(Behaviour::Http(503));
    hung.wait_accepted(hung.accepted() + 4).await;
    lb.wait_metric(&up("web1"), 0.0, Duration::ZERO).await;
    hung.set_behaviour(Behaviour::Http(200));
    lb.wait_metric(&up("web1"), 1.0, DEADLINE).await;
    drop((hung, good));
    lb.quiet().await;
}
