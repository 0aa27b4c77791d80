use std::path::Path;

use leastconn::net;

use super::*;
use crate::config;

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
    let loaded = config::load_text("test.toml", text, Path::new("/"));
    loaded
        .unwrap_or_else(|problems| panic!("{problems}"))
        .config
}

#[tokio::test]
async fn what_did_not_change_is_the_same() {
    let first = State::start(load(TEXT)).unwrap();
    let (web, db) = (UpstreamId::from("web"), UpstreamId::from("db"));
    let same = |a: &State, b: &State, id| Arc::ptr_eq(&a.upstreams[id], &b.upstreams[id]);

    let read_again = first.succeed(load(TEXT)).unwrap();
    assert_eq!(read_again.epoch, 1);
    assert!(same(&first, &read_again, &web) && same(&first, &read_again, &db));
    // The rules were read anew, and their text may differ.
    assert!(!Arc::ptr_eq(&first.policy, &read_again.policy));
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
    assert_eq!(server.in_flight(), 1, "the server forgot its connection");
}
