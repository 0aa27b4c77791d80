//! Connections wait while all servers that they may use are at `max_conns`.

use std::time::Duration;

use leastconn_testkit::client::{read_line, read_to_close};
use leastconn_testkit::{DEADLINE, Signal, Upstream, eventually, within};
use serde_json::Value;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::ctl::{SOCKET, ctl, ctl_json};
use crate::support::upgrading::{self, shut_down_all, upgrade};
use crate::support::{
    CLIENT1, NO_PROBES, Running, Site, TLS, cn, connect_from, entry, named_servers, tcp,
};

const WAITING: &str = "leastconn_upstream_queue{upstream=\"web\"}";

/// A queue that is not full and does not time out in a test.
const LONG_QUEUE: &str = r#"{ size = 9, timeout = "1h" }"#;

/// A site whose servers accept `max_conns` connections each. `queue` is the value of the key.
fn site(servers: &[Upstream], max_conns: u32, queue: &str) -> Site {
    let max_conns = format!(", max_conns = {max_conns}");
    let servers: Vec<_> = servers
        .iter()
        .map(|server| entry(server.name(), server.addr(), &max_conns))
        .collect();
    let queue = format!("queue = {queue}");
    Site::new()
        .admin(SOCKET)
        .listener("main", &["upstream = \"web\"", TLS])
        .listener("plain", &["upstream = \"web\""])
        .upstream("web", &[NO_PROBES, &queue], &servers)
        .client("client1", &cn(CLIENT1), "web", "")
        .client("local", "source = \"127.0.0.0/8\"", "web", "")
}

async fn wait_queued(lb: &Running, count: u32) {
    lb.wait_metric(WAITING, count.into(), DEADLINE).await;
}

async fn connected(addr: std::net::SocketAddr) -> (TcpStream, String) {
    let mut stream = tcp(addr).await;
    let server = within(DEADLINE, "a server", read_line(&mut stream)).await;
    (stream, server.unwrap())
}

/// The access log line of the connection from this client socket.
async fn record_of(lb: &Running, stream: &TcpStream) -> Value {
    let source = stream.local_addr().unwrap().to_string();
    lb.wait_record(|record| record["source"] == source.as_str(), DEADLINE)
        .await
}

/// 100 clients share 4 servers with 20 slots each. Each client keeps its connection for a second.
#[tokio::test]
async fn burst_of_clients_is_served_within_max_conns() {
    let servers = named_servers(4).await;
    let lb = site(&servers, 20, "{ size = 100 }").start().await;
    let start = Instant::now();
    let mut clients = JoinSet::new();
    for _ in 0..100 {
        let addr = lb.address("plain");
        clients.spawn(async move {
            let (stream, _) = connected(addr).await;
            // The server works on the request for a second.
            sleep(Duration::from_secs(1)).await;
            drop(stream);
        });
    }
    let watching = async {
        let mut most = 0;
        while !clients.is_empty() {
            most = most.max(servers.iter().map(Upstream::open).max().unwrap_or(0));
            tokio::select! {
                _ = clients.join_next() => {}
                () = sleep(Duration::from_millis(5)) => {}
            }
        }
        most
    };
    let most = within(DEADLINE, "all clients", watching).await;
    let took = start.elapsed();
    assert!(most <= 20, "{most} connections on one server");
    let debug_slack = Duration::from_millis(800);
    assert!(
        took < Duration::from_millis(2_200) + debug_slack,
        "{took:?}"
    );
    let records = lb.wait_records(100).await;
    assert!(records.iter().all(|record| record["outcome"] == "ok"));
    let waited: Vec<_> = records
        .iter()
        .filter_map(|record| record["queue_ms"].as_f64())
        .collect();
    assert_eq!(waited.len(), 20, "{waited:?}");
    let metrics = lb.metrics().await;
    assert_eq!(metrics["leastconn_upstream_queue_seconds_count"], 20.0);
    lb.quiet().await;
}

#[tokio::test]
async fn full_queue_and_timeout_refuse() {
    let servers = named_servers(1).await;
    let queue = "{ size = 1, timeout = \"700ms\" }";
    let lb = site(&servers, 1, queue).start().await;
    let (held, _) = connected(lb.address("plain")).await;
    let mut waiting = tcp(lb.address("plain")).await;
    wait_queued(&lb, 1).await;
    let mut refused = tcp(lb.address("plain")).await;
    assert!(read_to_close(&mut refused).await.unwrap().is_empty());
    let record = record_of(&lb, &refused).await;
    assert_eq!(record["outcome"], "overloaded", "{record}");
    let detail = record["detail"].as_str().unwrap();
    assert!(detail.contains("the queue is full"), "{detail}");
    assert!(read_to_close(&mut waiting).await.unwrap().is_empty());
    let record = record_of(&lb, &waiting).await;
    assert_eq!(record["outcome"], "queue_timeout", "{record}");
    assert!(record["queue_ms"].as_f64().unwrap() >= 700.0, "{record}");
    assert_eq!(record["attempts"], 0, "{record}");
    assert!(record.get("server").is_none(), "{record}");
    let refusals = ctl_json(&lb, &["refusals"]).await.to_string();
    assert!(refusals.contains("queue_timeout"), "{refusals}");
    drop(held);
    lb.quiet().await;
}

#[tokio::test]
async fn leaving_client_frees_its_place() {
    let servers = named_servers(1).await;
    let lb = site(&servers, 1, "{ size = 1, timeout = \"1h\" }")
        .start()
        .await;
    let (held, _) = connected(lb.address("plain")).await;
    let leaving = tcp(lb.address("plain")).await;
    wait_queued(&lb, 1).await;
    drop(leaving);
    wait_queued(&lb, 0).await;
    lb.expect_record(0, "client_closed").await;
    // The next client gets the place in the queue, and then the slot.
    let mut next = tcp(lb.address("plain")).await;
    wait_queued(&lb, 1).await;
    drop(held);
    let server = within(DEADLINE, "the slot", read_line(&mut next)).await;
    assert_eq!(server.unwrap(), "web1");
    drop(next);
    lb.quiet().await;
}

/// One client fills the queue. Another client gets half of the places and half of the slots.
#[tokio::test]
async fn clients_share_the_queue() {
    let servers = named_servers(1).await;
    let lb = site(&servers, 1, "{ size = 4, timeout = \"1h\" }")
        .start()
        .await;
    let addr = lb.address("plain");
    let (mut held, _) = connected(addr).await;
    let (greedy, modest) = ([127, 0, 0, 2], [127, 0, 0, 3]);
    let mut waiting = JoinSet::new();
    let join = |waiting: &mut JoinSet<_>, source: [u8; 4]| {
        waiting.spawn(async move {
            let mut stream = connect_from(source, addr).await.unwrap();
            let served = read_line(&mut stream)
                .await
                .is_ok_and(|name| name == "web1");
            (source, served.then_some(stream))
        });
    };
    for count in 1..=4 {
        join(&mut waiting, greedy);
        wait_queued(&lb, count).await;
    }
    for refused in 0..2 {
        join(&mut waiting, modest);
        lb.expect_record(refused, "overloaded").await;
        let (source, stream) = waiting.join_next().await.unwrap().unwrap();
        assert_eq!(source, greedy, "the longest line gives way");
        assert!(stream.is_none());
    }
    let mut served = Vec::new();
    for _ in 0..4 {
        drop(held);
        let next = within(DEADLINE, "a slot", waiting.join_next()).await;
        let (source, stream) = next.unwrap().unwrap();
        served.push(source);
        held = stream.unwrap();
    }
    assert_eq!(served, [greedy, modest, greedy, modest]);
    drop(held);
    lb.quiet().await;
}

#[tokio::test]
async fn revoked_and_killed_clients_leave_the_queue() {
    let servers = named_servers(1).await;
    let lb = site(&servers, 1, LONG_QUEUE).start().await;
    let (held, _) = connected(lb.address("plain")).await;
    let cert = lb.ca().leaf(CLIENT1).build();
    let tls = lb.client_with(&cert).connect(lb.main()).await.unwrap();
    wait_queued(&lb, 1).await;
    lb.ca().write_crl(lb.dir(), &[&cert]);
    assert_eq!(lb.reload(&lb.config()).await, "applied");
    lb.expect_record(0, "revoked_certificate").await;
    wait_queued(&lb, 0).await;
    drop(tls);
    // No rule matches the client any more.
    let waiting = tcp(lb.address("plain")).await;
    wait_queued(&lb, 1).await;
    let without = lb.config().replace("127.0.0.0/8", "127.0.0.9");
    assert_eq!(lb.reload(&without).await, "applied");
    assert_eq!(record_of(&lb, &waiting).await["outcome"], "policy_changed");
    drop((waiting, held));
    assert_eq!(
        lb.reload(&without.replace("127.0.0.9", "127.0.0.0/8"))
            .await,
        "applied"
    );
    let (held, _) = connected(lb.address("plain")).await;
    let waiting = tcp(lb.address("plain")).await;
    wait_queued(&lb, 1).await;
    let local = waiting.local_addr().unwrap().to_string();
    let connections = ctl_json(&lb, &["connections"]).await;
    let connections = connections["connections"].as_array().unwrap();
    let id = connections
        .iter()
        .find(|one| one["source"] == local.as_str());
    let id = id.unwrap()["connection"].to_string();
    ctl(&lb, &["kill", "--connection", &id]).await.ok();
    assert_eq!(record_of(&lb, &waiting).await["outcome"], "killed");
    drop((held, waiting));
    lb.quiet().await;
}

#[tokio::test]
async fn raised_limit_and_ready_serve_the_queue() {
    let servers = named_servers(2).await;
    let lb = site(&servers, 1, LONG_QUEUE).start().await;
    ctl(&lb, &["maint", "web/web2"]).await.ok();
    let (held, _) = connected(lb.address("plain")).await;
    let mut first = tcp(lb.address("plain")).await;
    wait_queued(&lb, 1).await;
    let mut second = tcp(lb.address("plain")).await;
    wait_queued(&lb, 2).await;
    ctl(&lb, &["ready", "web/web2"]).await.ok();
    let server = within(DEADLINE, "web2", read_line(&mut first)).await;
    assert_eq!(server.unwrap(), "web2");
    let raised = lb.config().replace("max_conns = 1", "max_conns = 2");
    assert_eq!(lb.reload(&raised).await, "applied");
    within(DEADLINE, "the raised limit", read_line(&mut second))
        .await
        .unwrap();
    drop((held, first, second));
    lb.quiet().await;
}

#[tokio::test]
async fn shutdown_ends_waiting_but_not_open_connections() {
    let servers = named_servers(1).await;
    let lb = site(&servers, 1, LONG_QUEUE).start().await;
    let (mut held, _) = connected(lb.address("plain")).await;
    let mut waiting = tcp(lb.address("plain")).await;
    wait_queued(&lb, 1).await;
    lb.signal(Signal::TERM);
    let end = within(DEADLINE, "the end", read_to_close(&mut waiting)).await;
    assert!(end.unwrap_or_default().is_empty());
    assert_eq!(record_of(&lb, &waiting).await["outcome"], "drained");
    held.shutdown().await.unwrap();
    read_to_close(&mut held).await.unwrap();
    assert_eq!(record_of(&lb, &held).await["outcome"], "ok");
    assert_eq!(lb.wait_end(DEADLINE).await.code(), Some(0));
}

/// Connections that wait during an upgrade keep waiting in the old process.
#[tokio::test]
async fn waiting_connections_are_served_after_an_upgrade() {
    let servers = named_servers(1).await;
    let lb = upgrading::start(site(&servers, 1, LONG_QUEUE)).await;
    let (held, _) = connected(lb.address("plain")).await;
    let mut waiting = tcp(lb.address("plain")).await;
    let leaving = tcp(lb.address("plain")).await;
    wait_queued(&lb, 2).await;
    let newest = upgrade(&lb, lb.pid()).await;

    // The new process has its own queue and its own count of connections.
    let (next, _) = connected(lb.address("plain")).await;
    drop(leaving);
    lb.expect_record(0, "client_closed").await;
    drop(held);
    let server = within(DEADLINE, "the slot", read_line(&mut waiting)).await;
    assert_eq!(server.unwrap(), "web1");
    let record_of = async |stream: TcpStream| {
        let source = stream.local_addr().unwrap().to_string();
        drop(stream);
        lb.wait_record(|record| record["source"] == source.as_str(), DEADLINE)
            .await
    };
    let record = record_of(waiting).await;
    assert_eq!(record["outcome"], "ok");
    assert!(record["queue_ms"].as_f64().unwrap() > 0.0, "{record}");
    assert_eq!(record_of(next).await["outcome"], "ok");
    shut_down_all(&lb, newest).await;
}

#[tokio::test]
async fn status_shows_the_queue() {
    let servers = named_servers(1).await;
    let lb = site(&servers, 1, LONG_QUEUE).start().await;
    let (held, _) = connected(lb.address("plain")).await;
    let waiting = tcp(lb.address("plain")).await;
    wait_queued(&lb, 1).await;
    let upstream = || async {
        let status = ctl_json(&lb, &["status"]).await;
        status["upstreams"][0].clone()
    };
    eventually(DEADLINE, || async {
        let upstream = upstream().await;
        match upstream["longest_wait_ms"].as_u64() {
            Some(1..) => Ok(()),
            _ => Err(upstream.to_string()),
        }
    })
    .await
    .unwrap();
    let shown = upstream().await;
    assert_eq!(
        (&shown["queued"], &shown["queue_size"]),
        (&1.into(), &9.into())
    );
    let text = ctl(&lb, &["status"]).await.ok();
    assert!(text.contains("upstream web: 1 connection waits"), "{text}");
    drop((held, waiting));
    lb.quiet().await;
}
