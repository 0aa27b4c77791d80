//! A fleet of balancers, and clients that measure what is admitted.

use std::{
    fmt::Display,
    io::Write,
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use leastconn_testkit::{DEADLINE, Signal, StoreKind, Upstream, client::read_line, eventually};
use serde_json::Value;
use tokio::{
    net::TcpStream,
    time::{Instant, timeout},
};

use crate::support::{NO_PROBES, Running, Site, connect_from, entries};

/// Whether tests run in their long form.
pub(super) fn is_long() -> bool {
    std::env::var_os("LEASTCONN_LONG").is_some()
}

/// Panics if no store is installed at all.
pub(super) fn is_installed(kind: StoreKind) -> bool {
    StoreKind::installed().contains(&kind)
}

/// Reports a figure that was measured. `make test-fleet` prints a table of all figures.
pub(super) fn figure(test: &str, kind: StoreKind, measured: impl Display, target: impl Display) {
    let line = format!("{test}\t{kind}\t{measured}\t{target}\n");
    print!("{line}");
    if let Some(file) = std::env::var_os("LEASTCONN_FIGURES") {
        let mut options = std::fs::File::options();
        let mut file = options.append(true).create(true).open(file).unwrap();
        file.write_all(line.as_bytes()).unwrap();
    }
}

/// A member with one plain listener in front of `web`, for clients that are identified by their
/// source address. `client` has further keys of the rule, `fleet` of `[fleet]`.
pub(super) fn site(name: &str, store: &str, web: &[&Upstream], client: &str, fleet: &str) -> Site {
    Site::new()
        .admin("socket = \"lb.sock\"")
        .fleet(name, store, fleet)
        .listener("main", &["upstream = \"web\""])
        .upstream("web", &[NO_PROBES], &entries(web))
        .client("local", "source = \"127.0.0.0/8\"", "web", client)
}

/// Starts the members `lb1` to `lbN` and waits until each of them knows all others.
pub(super) async fn members(
    count: usize,
    store: &str,
    web: &[&Upstream],
    client: &str,
    fleet: &str,
) -> Vec<Running> {
    let mut all = Vec::new();
    for n in 1..=count {
        let site = site(&format!("lb{n}"), store, web, client, fleet);
        all.push(
            site.start_with(crate::support::upgrading::own_process_group)
                .await,
        );
    }
    for member in &all {
        wait_members(member, count).await;
    }
    all
}

/// The answer of `GET /api/v1/fleet`.
pub(super) async fn status(member: &Running) -> Value {
    try_status(member).await.unwrap()
}

async fn try_status(member: &Running) -> Result<Value, String> {
    let (code, body) = member
        .try_http_get("/api/v1/fleet")
        .await
        .map_err(|error| error.to_string())?;
    if code != 200 {
        return Err(format!("{code}: {body}"));
    }
    serde_json::from_str(&body).map_err(|error| error.to_string())
}

/// Waits until the member is joined and knows `count` members, including itself.
pub(super) async fn wait_members(member: &Running, count: usize) {
    let known = eventually(DEADLINE, || async {
        let status = try_status(member).await?;
        let members = status["members"].as_array().map_or(0, Vec::len);
        if status["state"] == "joined" && members == count {
            Ok(())
        } else {
            Err(status.to_string())
        }
    });
    known.await.unwrap();
}

/// Waits until the member has this state. Returns how long that took.
pub(super) async fn wait_state(member: &Running, state: &str) -> Duration {
    let start = Instant::now();
    let reached = eventually(DEADLINE, || async {
        let status = try_status(member).await?;
        if status["state"] == state {
            Ok(())
        } else {
            Err(status.to_string())
        }
    });
    reached.await.unwrap();
    start.elapsed()
}

/// The connections of other members to all servers, as `member` knows them.
async fn elsewhere(member: &Running) -> f64 {
    let metrics = member.metrics().await;
    let name = "leastconn_server_connections_elsewhere";
    leastconn_testkit::metrics::family(&metrics, name)
        .map(|(_, value)| value)
        .sum()
}

/// Waits until the member knows this number of connections of other members. The store has the
/// usage of their clients then, too. Returns how long that took.
pub(super) async fn wait_elsewhere(member: &Running, connections: f64) -> Duration {
    let start = Instant::now();
    let counted = eventually(DEADLINE, || async {
        match elsewhere(member).await {
            now if now == connections => Ok(()),
            now => Err(format!("{now} connections elsewhere, not {connections}")),
        }
    });
    counted.await.unwrap();
    start.elapsed()
}

/// Connects from 127.0.0.`source`. Returns the stream if a server has greeted, and `None` if the
/// balancer has refused the client.
pub(super) async fn connect(address: SocketAddr, source: u8) -> Option<(TcpStream, String)> {
    let connected = timeout(DEADLINE, async {
        let mut stream = connect_from(Ipv4Addr::new(127, 0, 0, source), address)
            .await
            .ok()?;
        let name = read_line(&mut stream).await.ok()?;
        Some((stream, name))
    });
    connected.await.expect("an answer to a connection")
}

/// The records of all members with this outcome.
pub(super) fn outcomes(members: &[Running], outcome: &str) -> usize {
    let records = members.iter().flat_map(|member| member.records());
    records
        .filter(|record| record["outcome"] == outcome)
        .count()
}

/// Stops all members in order and checks that none of them has panicked.
pub(super) async fn stop(members: Vec<Running>) {
    for member in &members {
        member.signal(Signal::TERM);
    }
    for member in &members {
        member.wait_exit(DEADLINE).await;
        assert!(!member.stderr().contains("panicked"), "{}", member.stderr());
    }
}
