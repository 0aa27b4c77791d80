use std::path::Path;

use leastconn::net;

use super::*;

const TEXT: &str = r#"
[[listener]]
name = "main"
bind = "127.0.0.1:0"
upstream = "web"

[[upstream]]
name = "web"
health_check = { type = "none" }
servers = ["127.0.0.1:1", "127.0.0.1:2"]

[[upstream]]
name = "db"
health_check = { type = "none" }
servers = ["127.0.0.1:3"]

[[client]]
name = "a"
match = { source = "0.0.0.0/0" }
allow = ["web", "db"]
"#;

fn load(text: &str) -> Config {
    let loaded = leastconn_config::load_text("test.toml", text, Path::new("/"));
    loaded
        .unwrap_or_else(|problems| panic!("{problems}"))
        .config
}

#[tokio::test]
async fn unchanged_parts_are_shared() {
    let first = Snapshot::start(load(TEXT)).unwrap();
    let (web, db) = (UpstreamId::from("web"), UpstreamId::from("db"));
    let same = |a: &Snapshot, b: &Snapshot, id| Arc::ptr_eq(&a.upstreams[id], &b.upstreams[id]);

    let reloaded = first.succeed(load(TEXT)).unwrap();
    assert_eq!(reloaded.generation, 1);
    assert!(same(&first, &reloaded, &web) && same(&first, &reloaded, &db));
    // The rules were read again and may differ.
    assert!(!Arc::ptr_eq(&first.policy, &reloaded.policy));
    let copied = first.succeed(first.config.clone()).unwrap();
    assert!(Arc::ptr_eq(&first.policy, &copied.policy));

    let lease = {
        let pool = first.upstreams[&web].pool();
        pool.pick(&pool.all(), &Default::default(), net::now())
            .unwrap()
    };
    let text = TEXT.replace("[\"127.0.0.1:1\", ", "[\"127.0.0.1:9\", \"127.0.0.1:1\", ");
    let changed = first.succeed(load(&text)).unwrap();
    assert!(!same(&first, &changed, &web) && same(&first, &changed, &db));
    let pool = changed.upstreams[&web].pool();
    assert_eq!(pool.members().len(), 3);
    let server = pool.server(lease.server().id().as_str()).unwrap();
    assert_eq!(server.in_flight(), 1, "the connection count was lost");
}

#[tokio::test]
async fn changed_balancing_keeps_connection_counts() {
    let web = UpstreamId::from("web");
    let mut snapshot = Snapshot::start(load(TEXT)).unwrap();
    let mut held = Vec::new();
    for balance in ["p2c", "round_robin", "random", "source_hash", "least_conn"] {
        let keys = format!("name = \"web\"\nbalance = \"{balance}\"\nslow_start = \"1m\"\n");
        snapshot = snapshot
            .succeed(load(&TEXT.replace("name = \"web\"\n", &keys)))
            .unwrap();
        let pool = snapshot.upstreams[&web].pool();
        assert_eq!(pool.balance().as_str(), balance);
        assert_eq!(pool.slow_start().as_secs(), 60);
        for _ in 0..10 {
            let lease = pool.pick(&pool.all(), &Default::default(), net::now());
            held.push(lease.unwrap());
        }
        let members = pool.members();
        let counted = members.iter().map(|m| m.server.in_flight());
        assert_eq!(counted.sum::<u32>() as usize, held.len());
    }
    let snapshot = snapshot.succeed(load(TEXT)).unwrap();
    let pool = snapshot.upstreams[&web].pool();
    assert_eq!(pool.slow_start().as_secs(), 0);
    drop(held);
    assert!(pool.members().iter().all(|m| m.server.in_flight() == 0));
}
