//! Balancing by least connections is exact, even if connections are opened simultaneously.

use std::collections::HashMap;
use std::net::SocketAddr;

use leastconn_testkit::client::{read_line, read_to_close};
use leastconn_testkit::upstream::OpenConnections;
use leastconn_testkit::{DEADLINE, within};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::support::{NO_PROBES, Running, Site, entries, entry, named_servers, talk, tcp};

/// Opens `n` connections simultaneously. Returns the number per server and the open
/// connections.
async fn at_once(addr: SocketAddr, n: usize) -> (HashMap<String, usize>, Vec<TcpStream>) {
    let mut connections = JoinSet::new();
    for _ in 0..n {
        connections.spawn(async move {
            let mut stream = tcp(addr).await;
            (read_line(&mut stream).await.unwrap(), stream)
        });
    }
    let connections = within(DEADLINE, "all answers", connections.join_all()).await;
    let mut counts = HashMap::new();
    let mut held = Vec::new();
    for (name, stream) in connections {
        *counts.entry(name).or_default() += 1;
        held.push(stream);
    }
    (counts, held)
}

async fn start(servers: &[String], lines: &[&str]) -> Running {
    let lines = [&[NO_PROBES], lines].concat();
    Site::new()
        .listener("main", &["upstream = \"web\""])
        .upstream("web", &lines, servers)
        .client("local", "source = \"127.0.0.0/8\"", "web", "")
        .start()
        .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn simultaneous_connections_are_spread_exactly() {
    let servers = named_servers(4).await;
    let lb = start(&entries(&servers.iter().collect::<Vec<_>>()), &[]).await;
    let (counts, held) = at_once(lb.main(), 500).await;
    assert_eq!(counts.len(), 4);
    for (name, count) in counts {
        assert_eq!(count, 125, "{name}");
        let metric =
            format!("leastconn_server_connections_active{{upstream=\"web\",server=\"{name}\"}}");
        lb.wait_metric(&metric, 125.0, DEADLINE).await;
    }
    drop(held);
    lb.quiet().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn weights_are_exact_within_one_connection() {
    let servers = named_servers(3).await;
    let entries: Vec<_> = servers
        .iter()
        .zip([1, 2, 5])
        .map(|(server, weight)| {
            entry(
                server.name(),
                server.addr(),
                &format!(", weight = {weight}"),
            )
        })
        .collect();
    for total in [80, 83] {
        let lb = start(&entries, &[]).await;
        let (counts, held) = at_once(lb.main(), total).await;
        for (name, weight) in [("web1", 1.0), ("web2", 2.0), ("web3", 5.0)] {
            let ideal = total as f64 * weight / 8.0;
            let off = (counts[name] as f64 - ideal).abs();
            assert!(off <= 1.0, "{counts:?}: {name} should have {ideal}");
        }
        drop(held);
        lb.quiet().await;
    }
}

#[tokio::test]
async fn max_conns_of_a_server_is_never_exceeded() {
    let servers = named_servers(2).await;
    let entries = [
        entry("web1", servers[0].addr(), ", max_conns = 3"),
        entry("web2", servers[1].addr(), ", max_conns = 5"),
    ];
    let lb = start(&entries, &[]).await;
    let (counts, held) = at_once(lb.main(), 8).await;
    assert_eq!((counts["web1"], counts["web2"]), (3, 5));
    let mut stream = tcp(lb.main()).await;
    assert!(read_to_close(&mut stream).await.unwrap().is_empty());
    lb.expect_record(0, "no_server_available").await;
    drop(held);
    lb.wait_records(9).await;
    talk(tcp(lb.main()).await).await.unwrap();
    lb.quiet().await;
}

#[tokio::test]
async fn backup_is_used_only_when_needed() {
    let servers = named_servers(2).await;
    let entries = [
        entry("web1", servers[0].addr(), ""),
        entry("web2", servers[1].addr(), ", backup = true"),
    ];
    let passive = r#"passive = { fail_timeout = "200ms" }"#;
    let lb = start(&entries, &[passive]).await;
    let (counts, held) = at_once(lb.main(), 10).await;
    assert_eq!(counts["web1"], 10, "{counts:?}");
    drop(held);
    servers[0].stop(OpenConnections::Close).await;
    assert_eq!(talk(tcp(lb.main()).await).await.unwrap(), "web2");
    servers[0].restart().await;
    let back = leastconn_testkit::eventually(DEADLINE, || async {
        match talk(tcp(lb.main()).await).await.unwrap().as_str() {
            "web1" => Ok(()),
            other => Err(other.to_owned()),
        }
    });
    back.await.unwrap();
    lb.quiet().await;
}
