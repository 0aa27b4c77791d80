use std::time::Duration;

use super::*;
use crate::TestCa;

#[tokio::test]
async fn server_restarts_empty_on_the_same_port() {
    for kind in StoreKind::installed() {
        let mut store = StoreServer::start(kind).await;
        let address = store.address();
        store.command(&["SET", "key", "value"]).await;
        assert_eq!(store.keys().await, ["key"]);
        store.restart_empty().await;
        assert_eq!(store.address(), address);
        assert_eq!(store.keys().await, [""; 0]);
        assert!(store.socket().exists());
    }
}

#[tokio::test]
async fn paused_server_does_not_answer() {
    for kind in StoreKind::installed() {
        let store = StoreServer::start(kind).await;
        store.pause();
        let ping = store.command(&["PING"]);
        assert!(
            tokio::time::timeout(Duration::from_millis(200), ping)
                .await
                .is_err()
        );
        store.resume();
        assert_eq!(store.command(&["PING"]).await.text(), "PONG");
    }
}

#[tokio::test]
async fn server_listens_with_tls() {
    // The packaged Valkey has no TLS.
    let ca = TestCa::new("store");
    let options = StoreOptions::new(StoreKind::Redis).tls(&ca);
    let store = StoreServer::start_with(options).await;
    tokio::net::TcpStream::connect(store.tls_address())
        .await
        .unwrap();
}

#[tokio::test]
async fn sentinel_fails_over() {
    for kind in StoreKind::installed() {
        let primary = StoreServer::start_with(StoreOptions::new(kind).password("secret")).await;
        let options = StoreOptions::new(kind)
            .password("secret")
            .config("masterauth secret");
        let replica = StoreServer::start_with(options.replica_of(primary.address())).await;
        let sentinel = Sentinel::start_with(kind, &primary, 1, Some("other")).await;
        assert_eq!(sentinel.primary().await, primary.address());
        primary.pause();
        let promoted = sentinel.wait_primary_other_than(primary.address()).await;
        assert_eq!(promoted, replica.address());
        primary.resume();
    }
}

#[tokio::test]
async fn cluster_redirects_to_another_node() {
    for kind in StoreKind::installed() {
        let node = StoreServer::start_with(StoreOptions::new(kind).cluster()).await;
        let empty = StoreServer::start_empty_node(kind).await;
        empty.join_cluster(&node).await;
        let Reply::Error(moved) = empty.try_command(&["GET", "key"]).await else {
            panic!("not redirected");
        };
        let port = node.address().port();
        assert_eq!(moved, format!("MOVED 12539 127.0.0.1:{port}"));
    }
}
