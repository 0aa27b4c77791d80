//! Both processes of an upgrade are members.

use leastconn_testkit::{DEADLINE, StoreKind, StoreServer, Upstream, eventually};

use super::{
    both_stores,
    harness::{connect, members, site, status, stop, wait_members},
};
use crate::{
    ctl::ctl,
    support::{
        named_servers,
        upgrading::{shut_down_all, upgrade},
    },
};

both_stores! {
    limits_count_the_connections_of_both_processes,
    upgrade_that_changes_secret_and_store_keeps_operator_states,
}

async fn upgrade_that_changes_secret_and_store_keeps_operator_states(kind: StoreKind) {
    let store = StoreServer::start(kind).await;
    let next_store = StoreServer::start(kind).await;
    let web = named_servers(2).await;
    let web: Vec<_> = web.iter().collect();
    let url = format!("{:?}", store.url());
    let mut all = members(1, &url, &web, "", "").await;
    let lb = all.pop().unwrap();
    ctl(&lb, &["drain", "web/web1"]).await.ok();
    let block = ["block", "--identity", "source:127.0.0.1"];
    ctl(&lb, &block).await.ok();

    let secret = lb.dir().join("fleet.secret");
    std::fs::write(secret, "another-secret-of-the-test").unwrap();
    let next_url = format!("{:?}", next_store.url());
    lb.write_config(&lb.config().replace(&url, &next_url));
    let newest = upgrade(&lb, lb.pid()).await;
    wait_members(&lb, 1).await;
    let (_, name) = connect(lb.main(), 2).await.expect("an admitted client");
    assert_eq!(name, "web2");
    assert!(connect(lb.main(), 1).await.is_none());
    // A member that starts later finds the states in the new store.
    let later = site("lb2", &next_url, &web, "", "");
    let later = later.start().await;
    std::fs::write(
        later.dir().join("fleet.secret"),
        "another-secret-of-the-test",
    )
    .unwrap();
    assert_eq!(later.reload(&later.config()).await, "applied");
    wait_members(&later, 2).await;
    let (_, name) = connect(later.main(), 2).await.expect("an admitted client");
    assert_eq!(name, "web2");
    stop(vec![later]).await;
    shut_down_all(&lb, newest).await;
}

async fn limits_count_the_connections_of_both_processes(kind: StoreKind) {
    let store = StoreServer::start(kind).await;
    let web = Upstream::named("web1").await;
    let url = format!("{:?}", store.url());
    let mut all = members(1, &url, &[&web], "max_conns = 4", "").await;
    let lb = all.pop().unwrap();
    let mut open = Vec::new();
    for _ in 0..3 {
        open.push(connect(lb.main(), 1).await.expect("an admitted client"));
    }
    let newest = upgrade(&lb, lb.pid()).await;
    let both = eventually(DEADLINE, || async {
        let status = status(&lb).await;
        let members = status["members"].as_array().unwrap();
        let statuses: Vec<_> = members.iter().map(|one| one["status"].as_str()).collect();
        match statuses[..] {
            [Some("serving"), Some("leaving")] => Ok(()),
            _ => Err(status.to_string()),
        }
    });
    both.await.unwrap();
    // Without the fleet, the new process would admit four more.
    open.push(connect(lb.main(), 1).await.expect("the fourth client"));
    assert!(connect(lb.main(), 1).await.is_none());
    drop(open);
    shut_down_all(&lb, newest).await;
}
