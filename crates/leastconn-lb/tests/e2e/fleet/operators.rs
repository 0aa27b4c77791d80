//! Commands of operators apply to all members.

use std::time::Duration;

use leastconn_testkit::{
    DEADLINE, Signal, StoreKind, StoreServer, Upstream, client::read_to_close, eventually,
};
use tokio::time::Instant;

use super::{
    both_stores,
    harness::{connect, figure, members, site, stop, wait_members},
};
use crate::{
    ctl::ctl,
    support::{DEBUG_SLACK, Running, named_servers},
};

both_stores! {
    drain_applies_to_all_members_and_to_later_ones,
    kill_closes_connections_on_all_members,
    block_refuses_the_client_on_all_members,
    command_without_store_acts_here_and_says_so,
    reload_of_secret_or_store_keeps_operator_states,
}

/// The time in which a command must reach the other members.
const LIMIT: Duration = Duration::from_millis(300).saturating_add(DEBUG_SLACK);

async fn wait_server_state(member: &Running, server: &str, state: &str) {
    let changed = eventually(DEADLINE, || async {
        let servers = member.servers().await;
        let found = servers.iter().find(|found| found["server"] == server);
        match found.map(|found| &found["state"]) {
            Some(now) if now == state => Ok(()),
            now => Err(format!("{now:?}")),
        }
    });
    changed.await.unwrap();
}

async fn drain_applies_to_all_members_and_to_later_ones(kind: StoreKind) {
    let store = StoreServer::start(kind).await;
    let web = named_servers(2).await;
    let web: Vec<_> = web.iter().collect();
    let url = format!("{:?}", store.url());
    let mut all = members(2, &url, &web, "", "").await;
    ctl(&all[0], &["drain", "web/web1"]).await.ok();
    let start = Instant::now();
    wait_server_state(&all[1], "web1", "drain").await;
    let took = start.elapsed();
    figure(
        "drain on A obeyed by B",
        kind,
        format!("{} ms", took.as_millis()),
        "300 ms",
    );
    assert!(took < LIMIT, "{took:?}");
    all.push(site("lb3", &url, &web, "", "").start().await);
    wait_members(&all[2], 3).await;
    wait_server_state(&all[2], "web1", "drain").await;
    for member in &all {
        let (_, name) = connect(member.main(), 1).await.expect("an admitted client");
        assert_eq!(name, "web2");
    }
    ctl(&all[2], &["ready", "web/web1"]).await.ok();
    for member in &all {
        wait_server_state(member, "web1", "ready").await;
    }
    // Only on this balancer.
    ctl(&all[0], &["drain", "--here", "web/web2"]).await.ok();
    wait_server_state(&all[0], "web2", "drain").await;
    wait_server_state(&all[1], "web2", "ready").await;
    stop(all).await;
}

async fn kill_closes_connections_on_all_members(kind: StoreKind) {
    let store = StoreServer::start(kind).await;
    let web = Upstream::named("web1").await;
    let url = format!("{:?}", store.url());
    let all = members(3, &url, &[&web], "", "").await;
    let mut open = Vec::new();
    for member in &all {
        open.push(
            connect(member.main(), 1)
                .await
                .expect("an admitted client")
                .0,
        );
    }
    let start = Instant::now();
    let output = ctl(&all[0], &["kill", "--client", "local"]).await;
    assert_eq!(output.code, 0, "{output:?}");
    for mut stream in open {
        let _ = read_to_close(&mut stream).await;
    }
    let took = start.elapsed();
    figure(
        "kill on A obeyed by B and C",
        kind,
        format!("{} ms", took.as_millis()),
        "300 ms",
    );
    assert!(took < LIMIT, "{took:?}");
    // A member that does not answer is named.
    all[2].signal(Signal::STOP);
    let output = ctl(&all[0], &["kill", "--client", "local"]).await;
    all[2].signal(Signal::CONT);
    assert_eq!(output.code, 1, "{output:?}");
    assert!(format!("{output:?}").contains("lb3"), "{output:?}");
    stop(all).await;
}

async fn block_refuses_the_client_on_all_members(kind: StoreKind) {
    let store = StoreServer::start(kind).await;
    let web = Upstream::named("web1").await;
    let url = format!("{:?}", store.url());
    let all = members(2, &url, &[&web], "", "").await;
    let mut stream = connect(all[1].main(), 1)
        .await
        .expect("an admitted client")
        .0;
    let start = Instant::now();
    ctl(&all[0], &["block", "--identity", "source:127.0.0.1"])
        .await
        .ok();
    let _ = read_to_close(&mut stream).await;
    let took = start.elapsed();
    figure(
        "block on A obeyed by B",
        kind,
        format!("{} ms", took.as_millis()),
        "300 ms",
    );
    assert!(took < LIMIT, "{took:?}");
    assert!(connect(all[1].main(), 1).await.is_none());
    assert!(connect(all[1].main(), 2).await.is_some());
    ctl(&all[1], &["unblock", "--identity", "source:127.0.0.1"])
        .await
        .ok();
    let unblocked = eventually(DEADLINE, || async {
        match connect(all[0].main(), 1).await {
            Some(_) => Ok(()),
            None => Err("still refused".to_owned()),
        }
    });
    unblocked.await.unwrap();
    stop(all).await;
}

async fn command_without_store_acts_here_and_says_so(kind: StoreKind) {
    let mut store = StoreServer::start(kind).await;
    let web = named_servers(2).await;
    let web: Vec<_> = web.iter().collect();
    let url = format!("{:?}", store.url());
    let all = members(2, &url, &web, "", "").await;
    store.kill();
    let output = ctl(&all[0], &["drain", "web/web1"]).await;
    assert_eq!(output.code, 1, "{output:?}");
    wait_server_state(&all[0], "web1", "drain").await;
    wait_server_state(&all[1], "web1", "ready").await;
    stop(all).await;
}

async fn reload_of_secret_or_store_keeps_operator_states(kind: StoreKind) {
    let store = StoreServer::start(kind).await;
    let next_store = StoreServer::start(kind).await;
    let web = named_servers(2).await;
    let web: Vec<_> = web.iter().collect();
    let url = format!("{:?}", store.url());
    let all = members(2, &url, &web, "", "").await;
    ctl(&all[0], &["drain", "web/web1"]).await.ok();
    ctl(&all[0], &["block", "--identity", "source:127.0.0.1"])
        .await
        .ok();
    wait_server_state(&all[1], "web1", "drain").await;

    let is_kept = async |member: &Running| {
        let (_, name) = connect(member.main(), 2).await.expect("an admitted client");
        assert_eq!(name, "web2");
        assert!(connect(member.main(), 1).await.is_none());
    };
    for (count, member) in (1..).zip(&all) {
        let secret = member.dir().join("fleet.secret");
        std::fs::write(secret, "another-secret-of-the-test").unwrap();
        let config = member
            .config()
            .replace(&url, &format!("{:?}", next_store.url()));
        assert_eq!(member.reload(&config).await, "applied");
        wait_members(member, count).await;
        is_kept(member).await;
    }
    is_kept(&all[0]).await;
    ctl(&all[1], &["ready", "web/web1"]).await.ok();
    wait_server_state(&all[0], "web1", "ready").await;
    stop(all).await;
}
