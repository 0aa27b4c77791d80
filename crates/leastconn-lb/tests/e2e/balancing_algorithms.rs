//! Balancing algorithms and slow start, with real servers.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use leastconn_testkit::client::read_line;
use leastconn_testkit::upstream::OpenConnections;
use leastconn_testkit::{DEADLINE, Upstream, eventually, within};
use serde_json::{Value, json};
use tokio::net::TcpStream;

use crate::ctl::{SOCKET, ctl};
use crate::support::{NO_PROBES, Running, Site, connect_from, entry, named_servers, talk, tcp};

/// Returns a site with one listener for all local clients, and one upstream with these servers and
/// weights.
fn site(servers: &[Upstream], weights: &[u32], lines: &[&str]) -> Site {
    let servers: Vec<_> = servers
        .iter()
        .zip(weights)
        .map(|(server, weight)| {
            let weight = format!(", weight = {weight}");
            entry(server.name(), server.addr(), &weight)
        })
        .collect();
    let lines = [&[NO_PROBES], lines].concat();
    Site::new()
        .listener("main", &["upstream = \"web\""])
        .upstream("web", &lines, &servers)
        .client("local", "source = \"127.0.0.0/8\"", "web", "")
}

/// Opens `n` connections and keeps them open. Each connection is opened only after the
/// server of the previous connection has sent its name.
async fn one_by_one(addr: SocketAddr, n: usize) -> (Vec<String>, Vec<TcpStream>) {
    let (mut names, mut held) = (Vec::new(), Vec::new());
    for _ in 0..n {
        let mut stream = tcp(addr).await;
        names.push(read_line(&mut stream).await.unwrap());
        held.push(stream);
    }
    (names, held)
}

fn counts(names: &[String]) -> HashMap<&str, usize> {
    let mut counts = HashMap::new();
    for name in names {
        *counts.entry(name.as_str()).or_default() += 1;
    }
    counts
}

/// Asserts that `count` successes in `n` draws with this probability are plausible. The limit
/// is five standard deviations, which one of 1.7 million correct runs exceeds.
#[track_caller]
fn assert_probable(count: usize, n: usize, probability: f64) {
    let (count, n) = (count as f64, n as f64);
    let deviation = (n * probability * (1.0 - probability)).sqrt();
    let off = (count - n * probability).abs();
    assert!(
        off <= 5.0 * deviation,
        "{count} of {n} is improbable for {probability}"
    );
}

#[tokio::test]
async fn round_robin_follows_the_weights() {
    let servers = named_servers(3).await;
    let lb = site(&servers, &[1, 1, 2], &["balance = \"round_robin\""])
        .start()
        .await;
    let (names, held) = one_by_one(lb.main(), 40).await;
    for round in names.chunks(4) {
        assert_eq!(round, &names[..4], "{names:?}");
        let counts = counts(round);
        assert_eq!([counts["web1"], counts["web2"], counts["web3"]], [1, 1, 2]);
    }
    drop(held);
    lb.quiet().await;
}

#[tokio::test]
async fn random_follows_weights_and_ignores_load() {
    let servers = named_servers(2).await;
    let lb = site(&servers, &[1, 3], &["balance = \"random\""])
        .start()
        .await;
    let (names, held) = one_by_one(lb.main(), 400).await;
    assert_probable(counts(&names)["web2"], 400, 0.75);
    // Least connections and round robin would never send seven connections in a row to one
    // server.
    assert!(
        names
            .windows(7)
            .any(|run| run.iter().all(|name| name == "web2"))
    );
    drop(held);
    lb.quiet().await;
}

#[tokio::test]
async fn p2c_never_picks_the_most_loaded() {
    let servers = named_servers(3).await;
    let lb = site(&servers, &[1, 1, 1], &["balance = \"p2c\""])
        .start()
        .await;
    let mut held: Vec<(String, TcpStream)> = Vec::new();
    for _ in 0..90 {
        let mut stream = tcp(lb.main()).await;
        let name = read_line(&mut stream).await.unwrap();
        let open = |of: &str| held.iter().filter(|(name, _)| name == of).count();
        let others = ["web1", "web2", "web3"].map(&open);
        let (own, most) = (open(&name), others.into_iter().max().unwrap());
        let alone = others.iter().filter(|&&count| count == most).count() == 1;
        assert!(own < most || !alone, "{name} of {others:?}");
        held.push((name, stream));
    }
    drop(held);
    lb.quiet().await;
}

#[tokio::test]
async fn source_hash_moves_only_while_its_server_is_down() {
    let servers = named_servers(3).await;
    let lines = [
        "balance = \"source_hash\"",
        r#"passive = { fail_timeout = "200ms" }"#,
    ];
    let lb = site(&servers, &[1, 1, 1], &lines).start().await;
    let sources = || (1..=40).map(|n| Ipv4Addr::new(127, 0, 7, n));
    let map = async |lb: &Running| {
        let mut map = Vec::new();
        for source in sources() {
            map.push(
                talk(connect_from(source, lb.main()).await.unwrap())
                    .await
                    .unwrap(),
            );
        }
        map
    };
    let before = map(&lb).await;
    assert_eq!(counts(&before).len(), 3, "{before:?}");
    assert_eq!(map(&lb).await, before);

    servers[0].stop(OpenConnections::Close).await;
    let without = map(&lb).await;
    for (before, without) in before.iter().zip(&without) {
        assert!(without != "web1" && (before == "web1" || before == without));
    }
    servers[0].restart().await;
    eventually(DEADLINE, || async {
        let now = map(&lb).await;
        if now == before {
            Ok(())
        } else {
            Err(format!("{now:?}"))
        }
    })
    .await
    .unwrap();

    // After a restart, each source is still mapped to the same server, although the servers are
    // listed in another order. After a change to `least_conn`, the connections that `source_hash`
    // placed still count.
    lb.quiet().await;
    drop(lb);
    let mut servers = servers;
    servers.reverse();
    let lb = site(&servers, &[1, 1, 1], &lines).start().await;
    assert_eq!(map(&lb).await, before);
    let (_, held) = one_by_one(lb.main(), 30).await;
    let changed = lb.config().replace("source_hash", "least_conn");
    assert_eq!(lb.reload(&changed).await, "applied");
    let (_, more) = one_by_one(lb.main(), 60).await;
    for server in ["web1", "web2", "web3"] {
        let metric =
            format!("leastconn_server_connections_active{{upstream=\"web\",server=\"{server}\"}}");
        lb.wait_metric(&metric, 30.0, DEADLINE).await;
    }
    drop((held, more));
    lb.quiet().await;
}

#[tokio::test]
async fn source_hash_uses_the_proxied_address() {
    use tokio::io::AsyncWriteExt;
    let servers = named_servers(4).await;
    let entries: Vec<_> = servers
        .iter()
        .map(|server| entry(server.name(), server.addr(), ""))
        .collect();
    let listener = [
        "upstream = \"web\"",
        "proxy_protocol = \"required\"",
        "proxy_protocol_from = \"127.0.0.1\"",
    ];
    let lb = Site::new()
        .listener("main", &listener)
        .listener("direct", &["upstream = \"web\""])
        .upstream("web", &[NO_PROBES, "balance = \"source_hash\""], &entries)
        .client("all", "source = \"127.0.0.0/8\"", "web", "")
        .start()
        .await;
    let mut names = Vec::new();
    for n in 1..=20 {
        let source = Ipv4Addr::new(127, 0, 8, n);
        let direct = talk(connect_from(source, lb.address("direct")).await.unwrap())
            .await
            .unwrap();
        let mut proxied = tcp(lb.main()).await;
        let header = format!("PROXY TCP4 {source} 127.0.0.1 4711 443\r\n");
        proxied.write_all(header.as_bytes()).await.unwrap();
        assert_eq!(talk(proxied).await.unwrap(), direct);
        names.push(direct);
    }
    assert!(counts(&names).len() > 1, "{names:?}");
    lb.quiet().await;
}

#[tokio::test]
async fn recovered_server_starts_slowly() {
    let servers = named_servers(2).await;
    // With a slow start of one hour, the returning server keeps a tenth of its normal share
    // of new connections during the test.
    let lines = [
        "slow_start = \"1h\"",
        r#"passive = { fail_timeout = "200ms" }"#,
    ];
    let lb = site(&servers, &[1, 1], &lines).start().await;
    // Servers that are present at startup have no slow start.
    let (names, held) = one_by_one(lb.main(), 100).await;
    assert_eq!(counts(&names)["web2"], 50);

    servers[1].stop(OpenConnections::Close).await;
    drop(held);
    let (names, held) = one_by_one(lb.main(), 20).await;
    assert_eq!(counts(&names)["web1"], 20);
    servers[1].restart().await;
    // A trial connection to the restarted server succeeds and makes the server available.
    eventually(DEADLINE, || async {
        match talk(tcp(lb.main()).await).await.unwrap().as_str() {
            "web2" => Ok(()),
            other => Err(other.to_owned()),
        }
    })
    .await
    .unwrap();
    // `web2` always has the fewest connections, but gets only a twentieth of the new
    // connections: a tenth of the half that corresponds to its weight.
    let (names, more) = one_by_one(lb.main(), 400).await;
    let count = counts(&names).get("web2").copied().unwrap_or(0);
    assert_probable(count, 400, 102.0 / 1024.0 / 2.0);

    // Without slow start, `web2` gets every new connection until it has as many connections
    // as `web1`.
    let changed = lb.config().replace("slow_start = \"1h\"\n", "");
    assert_eq!(lb.reload(&changed).await, "applied");
    let (names, most) = one_by_one(lb.main(), 100).await;
    assert_eq!(counts(&names)["web2"], 100);
    drop((held, more, most));
    lb.quiet().await;
}

#[tokio::test]
async fn server_added_by_reload_starts_slowly() {
    let servers = named_servers(3).await;
    let lb = site(&servers[..2], &[1, 1], &["slow_start = \"1h\""])
        .admin(SOCKET)
        .start()
        .await;
    let (_, held) = one_by_one(lb.main(), 40).await;
    let added = entry("web3", servers[2].addr(), "");
    let changed = lb
        .config()
        .replace("servers = [", &format!("servers = [{added}, "));
    assert_eq!(lb.reload(&changed).await, "applied");
    let (names, more) = one_by_one(lb.main(), 300).await;
    let count = counts(&names).get("web3").copied().unwrap_or(0);
    assert_probable(count, 300, 102.0 / 1024.0 / 3.0);
    // The API shows the slow start of `web3`, and lists `web3` first.
    let (_, answer) = lb.http_get("/api/v1/servers?limit=1").await;
    let answer: Value = serde_json::from_str(&answer).unwrap();
    assert_eq!(answer["servers"].as_array().unwrap().len(), 1, "{answer}");
    let server = &answer["servers"][0];
    assert_eq!(
        (&server["server"], &server["health"]),
        (&json!("web3"), &json!("up"))
    );
    let slow = &server["slow_start"];
    assert_eq!(slow["share"], 0.1, "{slow}");
    let remaining = slow["remaining_seconds"].as_f64().unwrap();
    assert!((3000.0..3600.0).contains(&remaining), "{slow}");
    let all = lb.servers().await;
    let slow = all.iter().map(|server| !server["slow_start"].is_null());
    assert_eq!(slow.collect::<Vec<_>>(), [true, false, false]);
    let table = ctl(&lb, &["servers"]).await.ok();
    let line = table
        .lines()
        .find(|line| line.starts_with("web/web3"))
        .unwrap();
    assert!(
        line.contains("unchecked, 10% of its share, full in "),
        "{line}"
    );
    // If no other server is available, a server in slow start takes all connections.
    servers[0].stop(OpenConnections::Keep).await;
    servers[1].stop(OpenConnections::Keep).await;
    let quick = within(Duration::from_secs(10), "an answer", async {
        talk(tcp(lb.main()).await).await.unwrap()
    });
    assert_eq!(quick.await, "web3");
    drop((held, more));
    lb.quiet().await;
}
