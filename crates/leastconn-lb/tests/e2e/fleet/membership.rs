//! Joining and leaving: at the start, by reloads, and under the sandbox.

use leastconn_testkit::{DEADLINE, StoreKind, StoreOptions, StoreServer, TestCa, Upstream};

use super::{
    both_stores,
    harness::{connect, members, site, status, stop, wait_elsewhere, wait_members, wait_state},
};

both_stores! {
    reload_joins_changes_and_leaves_the_fleet,
    sandboxed_member_reaches_the_store_by_socket_and_tls,
    start_without_store_serves_clients_and_joins_later,
    members_of_different_configurations_share_limits,
}

async fn reload_joins_changes_and_leaves_the_fleet(kind: StoreKind) {
    let store = StoreServer::start(kind).await;
    let web = Upstream::named("web1").await;
    let url = format!("{:?}", store.url());
    let all = members(1, &url, &[&web], "max_conns = 2", "").await;
    let site = site("lb2", &url, &[&web], "max_conns = 2", "");
    let joined = site.config();
    let (before, rest) = joined.split_once("[fleet]").unwrap();
    let (_, after) = rest.split_once("\n\n").unwrap();
    let alone = format!("{before}{after}");
    let lb2 = site
        .start_as_with(crate::support::BIN, &alone, |_| {})
        .await;
    assert_eq!(lb2.http_get("/api/v1/fleet").await.0, 404);
    let one = connect(all[0].main(), 1).await.expect("an admitted client");
    let two = connect(all[0].main(), 1).await.expect("an admitted client");

    assert_eq!(lb2.reload(&joined).await, "applied");
    wait_members(&lb2, 2).await;
    wait_members(&all[0], 2).await;
    assert!(connect(lb2.main(), 1).await.is_none());

    // A new name, and a secret that is read again.
    std::fs::write(lb2.dir().join("fleet.secret"), "another-secret-of-the-test").unwrap();
    let renamed = joined.replace("member = \"lb2\"", "member = \"lb3\"");
    assert_eq!(lb2.reload(&renamed).await, "applied");
    wait_members(&lb2, 2).await;
    assert_eq!(status(&lb2).await["members"][0]["member"], "lb3");
    // With another secret, clients have other keys.
    let other = connect(lb2.main(), 1).await.expect("an admitted client");

    assert_eq!(lb2.reload(&alone).await, "applied");
    assert_eq!(lb2.http_get("/api/v1/fleet").await.0, 404);
    wait_members(&all[0], 1).await;
    drop((one, two, other));
    stop(vec![lb2]).await;
    stop(all).await;
}

async fn sandboxed_member_reaches_the_store_by_socket_and_tls(kind: StoreKind) {
    let web = Upstream::named("web1").await;
    let ca = TestCa::new("store CA");
    // Valkey of the Python package has no TLS.
    let options = match kind {
        StoreKind::Redis => StoreOptions::new(kind).mutual_tls(&ca),
        StoreKind::Valkey => StoreOptions::new(kind),
    };
    let store = StoreServer::start_with(options).await;
    let socket = format!("\"unix://{}\"", store.socket().display());
    let lb1 = site("lb1", &socket, &[&web], "", "").process("sandbox = \"on\"");
    let mut all = vec![lb1.start().await];
    if kind == StoreKind::Redis {
        let url = format!("\"rediss://{}\"", store.tls_address());
        let files = "ca = \"store-ca.crt\"\ncert = \"store.crt\"\nkey = \"store.key\"";
        let lb2 = site("lb2", &url, &[&web], "", files).process("sandbox = \"on\"");
        let own = ca.leaf("lb2").build();
        for (name, text) in [
            ("store-ca.crt", ca.cert_pem()),
            ("store.crt", own.cert_pem.clone()),
            ("store.key", own.key_pem.clone()),
        ] {
            std::fs::write(lb2.dir.path().join(name), text).unwrap();
        }
        all.push(lb2.start().await);
    }
    for member in &all {
        wait_members(member, all.len()).await;
    }
    stop(all).await;
}

async fn start_without_store_serves_clients_and_joins_later(kind: StoreKind) {
    let mut store = StoreServer::start(kind).await;
    store.kill();
    let web = Upstream::named("web1").await;
    let url = format!("{:?}", store.url());
    let lb = site("lb1", &url, &[&web], "max_conns = 9", "size = 3")
        .start()
        .await;
    let mut open = Vec::new();
    // A third of nine.
    for _ in 0..3 {
        open.push(connect(lb.main(), 1).await.expect("an admitted client"));
    }
    assert!(connect(lb.main(), 1).await.is_none());
    assert_eq!(lb.http_get("/readyz").await.0, 200);
    wait_state(&lb, "cut_off").await;
    let warned = |event: &serde_json::Value| {
        let message = event["fields"]["message"].as_str().unwrap_or_default();
        event["level"] == "WARN" && message.starts_with("cut off from the fleet")
    };
    lb.wait_log(warned, DEADLINE).await;
    store.restart_empty().await;
    wait_members(&lb, 1).await;
    for _ in 3..9 {
        open.push(connect(lb.main(), 1).await.expect("an admitted client"));
    }
    assert!(connect(lb.main(), 1).await.is_none());
    drop(open);
    stop(vec![lb]).await;
}

/// Rule names and other settings are not part of the keys.
async fn members_of_different_configurations_share_limits(kind: StoreKind) {
    let store = StoreServer::start(kind).await;
    let web = Upstream::named("web1").await;
    let url = format!("{:?}", store.url());
    let lb1 = site("lb1", &url, &[&web], "max_conns = 2", "")
        .start()
        .await;
    let lb2 = site("lb2", &url, &[&web], "max_conns = 2", "");
    let config = lb2.config().replace("name = \"local\"", "name = \"other\"");
    let lb2 = lb2
        .start_as_with(crate::support::BIN, &config, |_| {})
        .await;
    let all = vec![lb1, lb2];
    for member in &all {
        wait_members(member, 2).await;
    }
    let status = status(&all[0]).await;
    assert_eq!(
        status["members"][1]["other_configuration"], true,
        "{status}"
    );
    let open = [
        connect(all[0].main(), 1).await.expect("an admitted client"),
        connect(all[1].main(), 1).await.expect("an admitted client"),
    ];
    for member in &all {
        wait_elsewhere(member, 1.0).await;
    }
    for member in &all {
        assert!(connect(member.main(), 1).await.is_none());
    }
    drop(open);
    stop(all).await;
}
