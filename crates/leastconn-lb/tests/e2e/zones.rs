//! Servers in the balancer's own zone are preferred while at least half of them are available.

use leastconn_testkit::{DEADLINE, Upstream};
use tokio::net::TcpStream;

use crate::ctl::{SOCKET, connect, ctl, ctl_json};
use crate::support::{NO_PROBES, Running, Site, entry};

/// Opens four connections, and returns them with the sorted names of their servers.
async fn four(lb: &Running) -> (Vec<TcpStream>, Vec<String>) {
    let (mut streams, mut names) = (Vec::new(), Vec::new());
    for _ in 0..4 {
        let (stream, name) = connect(lb).await;
        streams.push(stream);
        names.push(name);
    }
    names.sort_unstable();
    (streams, names)
}

#[tokio::test]
async fn own_zone_is_used_while_half_available() {
    let mut servers = Vec::new();
    for name in ["a1", "a2", "b1", "b2"] {
        servers.push(Upstream::named(name).await);
    }
    let entries: Vec<_> = servers
        .iter()
        .map(|server| {
            let zone = format!(", zone = \"{}\"", &server.name()[..1]);
            entry(server.name(), server.addr(), &zone)
        })
        .collect();
    let lb = Site::new()
        .process("zone = \"a\"")
        .admin(SOCKET)
        .listener("main", &["upstream = \"web\""])
        .upstream("web", &[NO_PROBES], &entries)
        .client("local", "source = \"127.0.0.1\"", "web", "")
        .start()
        .await;
    let metric = "leastconn_upstream_zone_preferred{upstream=\"web\"}";

    let (streams, names) = four(&lb).await;
    assert_eq!(names, ["a1", "a1", "a2", "a2"]);
    drop(streams);
    lb.wait_metric(metric, 1.0, DEADLINE).await;
    assert_eq!(ctl_json(&lb, &["servers"]).await["servers"][2]["zone"], "b");

    ctl(&lb, &["drain", "web/a1"]).await.ok();
    let (streams, names) = four(&lb).await;
    assert_eq!(names, ["a2"; 4], "half of the zone is enough");
    drop(streams);

    ctl(&lb, &["drain", "web/a2"]).await.ok();
    let (streams, names) = four(&lb).await;
    assert_eq!(names, ["b1", "b1", "b2", "b2"]);
    drop(streams);
    lb.wait_metric(metric, 0.0, DEADLINE).await;
    let status = ctl(&lb, &["status"]).await.ok();
    assert!(
        status.contains("less than half of a is available"),
        "{status}"
    );

    // A reload changes the balancer's own zone.
    for server in ["web/a1", "web/a2"] {
        ctl(&lb, &["ready", server]).await.ok();
    }
    lb.write_config(&lb.config().replacen("zone = \"a\"", "zone = \"b\"", 1));
    ctl(&lb, &["reload"]).await.ok();
    let (streams, names) = four(&lb).await;
    assert_eq!(names, ["b1", "b1", "b2", "b2"]);
    drop(streams);
    lb.quiet().await;
}
