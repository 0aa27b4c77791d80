//! An upstream whose members come from a scripted source.

use std::{path::Path, time::Duration};

use leastconn::{
    Selector, Tried,
    net::{Connect, Connected, now},
};
use leastconn_testkit::{Behaviour, DEADLINE, Upstream as TestServer, eventually, within};
use tokio::sync::mpsc;

use super::*;

/// Yields the snapshots that the test sends.
struct Scripted(mpsc::Receiver<Vec<ServerSpec>>);

impl Discover for Scripted {
    async fn next(&mut self) -> Option<Vec<ServerSpec>> {
        self.0.recv().await
    }
}

fn scripted() -> (mpsc::Sender<Vec<ServerSpec>>, Scripted) {
    let (sender, receiver) = mpsc::channel(8);
    (sender, Scripted(receiver))
}

/// An upstream whose servers are probed at the start and then hourly. Its configured server is
/// never used.
fn config() -> leastconn_config::Upstream {
    const TEXT: &str = r#"
        [[listener]]
        name = "main"
        bind = "127.0.0.1:0"
        upstream = "web"

        [[upstream]]
        name = "web"
        retry_for = "5s"
        health_check = { type = "tcp", interval = "1h" }
        servers = ["127.0.0.1:1"]

        [[client]]
        name = "a"
        match = { source = "0.0.0.0/0" }
        allow = ["web"]
    "#;
    let loaded = leastconn_config::load_text("test.toml", TEXT, Path::new("/"));
    let loaded = loaded.unwrap_or_else(|problems| panic!("{problems}"));
    loaded.config.upstreams[0].clone()
}

async fn servers<const N: usize>() -> [TestServer; N] {
    let mut servers = Vec::new();
    for _ in 0..N {
        servers.push(TestServer::start(Behaviour::Echo).await);
    }
    servers.try_into().unwrap_or_else(|_| panic!("{N} servers"))
}

fn spec(name: &str, server: &TestServer) -> ServerSpec {
    ServerSpec::new(name, server.addr())
}

async fn members(upstream: &Upstream, expected: &[&str]) {
    let is = || {
        let members = upstream.pool().members();
        let names = members.iter().map(|member| member.server.id().as_str());
        names.eq(expected.iter().copied())
    };
    eventually(DEADLINE, || async {
        is().then_some(()).ok_or_else(|| "other members".to_owned())
    })
    .await
    .unwrap();
}

async fn connect(upstream: &Upstream, selector: &Selector) -> Connected {
    let connecting = Connect::new(upstream.pool(), selector, upstream.connect_policy()).run();
    within(DEADLINE, "connecting", connecting).await.unwrap()
}

#[tokio::test]
async fn members_follow_the_source() {
    let [a, b, c] = servers().await;
    let (snapshots, discover) = scripted();
    snapshots
        .try_send(vec![spec("a", &a), spec("b", &b)])
        .unwrap();
    let upstream = Upstream::start_with(&config(), discover).unwrap();
    within(DEADLINE, "the probes", upstream.first_round()).await;
    // Like the selector of a client rule, `only_c` may name a server before the server exists.
    let (only_a, only_c) = (Selector::named(["a"]), Selector::named(["c"]));
    let open = connect(&upstream, &only_a).await;

    snapshots
        .try_send(vec![spec("b", &b), spec("c", &c)])
        .unwrap();
    members(&upstream, &["b", "c"]).await;
    // The open connection stays and is still counted, but `a` gets no new connections.
    assert_eq!(open.lease.server().in_flight(), 1);
    let departed = upstream.pool().departed();
    assert_eq!(departed[0].id().as_str(), "a");
    let gone = upstream.pool().candidates(&only_a);
    assert!(
        upstream
            .pool()
            .pick(&gone, &Tried::default(), now())
            .is_none()
    );
    let other = connect(&upstream, &only_c).await;
    assert_eq!(other.lease.server().id().as_str(), "c");

    // The new server `c` was probed and got a connection. The snapshot did not restart the probes
    // of `b`.
    c.wait_accepted(2).await;
    assert_eq!(b.accepted(), 1, "only the first probe");

    // A snapshot that cannot be applied changes nothing.
    snapshots
        .try_send(vec![spec("b", &b), spec("b", &c)])
        .unwrap();
    snapshots.try_send(vec![spec("b", &b)]).unwrap();
    members(&upstream, &["b"]).await;
    drop(open);
    assert!(
        upstream
            .pool()
            .departed()
            .iter()
            .all(|s| s.id().as_str() == "c")
    );
}

#[tokio::test]
async fn connections_wait_for_the_first_snapshot() {
    let [a] = servers().await;
    let (snapshots, discover) = scripted();
    let upstream = Upstream::start_with(&config(), discover).unwrap();
    assert!(upstream.pool().members().is_empty());
    let all = Selector::all();
    let waiting = connect(&upstream, &all);
    let publishing = async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        snapshots.try_send(vec![spec("a", &a)]).unwrap();
    };
    let (connected, ()) = tokio::join!(waiting, publishing);
    assert_eq!(connected.lease.server().id().as_str(), "a");
}

#[tokio::test]
async fn successor_and_end_of_the_source_keep_members() {
    let [a] = servers().await;
    let (snapshots, discover) = scripted();
    snapshots.try_send(vec![spec("a", &a)]).unwrap();
    let upstream = Upstream::start_with(&config(), discover).unwrap();
    drop(snapshots);
    members(&upstream, &["a"]).await;
    let open = connect(&upstream, &Selector::all()).await;
    let mut config = config();
    config.servers = vec![spec("a", &a)];
    let next = upstream.succeed(&config).unwrap();
    upstream.stop_tasks();
    assert_eq!(next.pool().server("a").unwrap().in_flight(), 1);
    drop(open);
    assert_eq!(next.pool().server("a").unwrap().in_flight(), 0);
}
