//! Both processes of an upgrade are members.

use leastconn_testkit::{DEADLINE, StoreKind, StoreServer, Upstream, eventually};

use super::{
    both_stores,
    harness::{connect, members, status},
};
use crate::support::upgrading::{shut_down_all, upgrade};

both_stores! {
    limits_count_the_connections_of_both_processes,
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
