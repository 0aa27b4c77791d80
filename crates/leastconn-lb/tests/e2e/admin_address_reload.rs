//! A reload changes, removes or adds the admin address.

use std::net::SocketAddr;

use leastconn_testkit::client::{read_line, roundtrip};
use leastconn_testkit::{DEADLINE, Port, Signal, Upstream, eventually, within};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::{CLIENT1, Running, Site, listen, talk, tcp, wait_refused};

const ADMIN: &str = "[admin]\nbind = \"127.0.0.1:0\"\n";

fn admin_at(address: SocketAddr) -> String {
    format!("[admin]\nbind = \"{address}\"\n")
}

/// Reloads and waits for the log message, because the admin address may be closed.
async fn reload(lb: &Running, config: &str) {
    let applied = || lb.stderr().matches("configuration reloaded").count();
    let before = applied();
    lb.write_config(config);
    lb.signal(Signal::HUP);
    eventually(DEADLINE, || async {
        let done = (applied() > before).then_some(());
        done.ok_or_else(|| "not reloaded".to_owned())
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn old_admin_address_finishes_its_requests() {
    let web = Upstream::named("web1").await;
    let lb = Site::usual(&[&web]).start().await;
    let config = lb.config();
    let mut open = lb.client(CLIENT1).connect(lb.main()).await.unwrap();
    read_line(&mut open).await.unwrap();

    let old = lb.admin();
    let mut request = tcp(old).await;
    request
        .write_all(b"GET /healthz HTTP/1.1\r\nhost: lb\r\n")
        .await
        .unwrap();
    // Connections are accepted in order: an answer on a later connection shows that the
    // balancer has accepted `request`.
    assert_eq!(lb.http_get("/healthz").await.0, 200);
    let port = Port::reserve();
    let new = port.address;
    assert_eq!(
        lb.reload(&config.replace(ADMIN, &admin_at(new))).await,
        "applied"
    );
    assert_eq!(
        lb.wait_address("admin").await,
        old,
        "the first logged admin address changed"
    );
    lb.wait_listening("admin", new).await;
    assert_eq!(lb.admin(), new);
    assert_eq!(lb.http_get("/readyz").await.0, 200);
    wait_refused(old).await;

    request.write_all(b"\r\n").await.unwrap();
    let mut answer = String::new();
    within(DEADLINE, "the answer", request.read_to_string(&mut answer))
        .await
        .unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert!(answer.ends_with("alive\n"), "{answer}");

    // Client connections are not affected.
    assert_eq!(roundtrip(&mut open, b"x").await.unwrap(), b"x");
    open.shutdown().await.unwrap();
    lb.quiet().await;
}

#[tokio::test]
async fn unchanged_admin_address_stays_open() {
    let web = Upstream::named("web1").await;
    let lb = Site::usual(&[&web]).start().await;
    let mut kept = tcp(lb.admin()).await;
    for _ in 0..3 {
        // The configured port is 0. A reload keeps the port that the kernel chose.
        assert_eq!(lb.reload(&lb.config()).await, "applied");
        kept.write_all(b"GET /healthz HTTP/1.1\r\nhost: lb\r\n\r\n")
            .await
            .unwrap();
        let mut answer = [0; 1024];
        let read = within(DEADLINE, "the answer", kept.read(&mut answer)).await;
        assert!(answer[..read.unwrap()].starts_with(b"HTTP/1.1 200 "));
    }
    assert_eq!(lb.stderr().matches("\"admin\"").count(), 1);
    drop(kept);
    lb.quiet().await;
}

#[tokio::test]
async fn admin_table_can_be_removed_and_added() {
    let web = Upstream::named("web1").await;
    let lb = Site::usual(&[&web]).start().await;
    let config = lb.config();
    let first = lb.admin();
    reload(&lb, &config.replace(ADMIN, "")).await;
    wait_refused(first).await;
    talk(lb.client(CLIENT1).connect(lb.main()).await.unwrap())
        .await
        .unwrap();
    let port = Port::reserve();
    reload(&lb, &config.replace(ADMIN, &admin_at(port.address))).await;
    assert_eq!(lb.admin(), port.address);
    assert_eq!(lb.http_get("/readyz").await.0, 200);
    assert_eq!(lb.reloads().await, [2.0, 0.0]);
    lb.quiet().await;
}

#[tokio::test]
async fn admin_address_in_use_rejects_the_reload() {
    let web = Upstream::named("web1").await;
    let lb = Site::usual(&[&web]).start().await;
    let config = lb.config();
    let port = Port::reserve();
    let taken_at = port.address;
    let taken = listen(taken_at);
    let changed = config
        .replace(ADMIN, &admin_at(taken_at))
        .replace("\"web\"]", "\"web/web1\"]");
    assert_eq!(lb.reload(&changed).await, "rejected");
    lb.wait_log(
        |event| {
            let message = event["fields"]["message"].as_str().unwrap_or_default();
            message.contains(&format!("`[admin] bind` cannot listen on {taken_at}"))
        },
        DEADLINE,
    )
    .await;
    // The wildcard address conflicts with the current admin address, which has the same
    // port.
    let wildcard = SocketAddr::from(([0, 0, 0, 0], lb.admin().port()));
    let changed = config.replace(ADMIN, &admin_at(wildcard));
    assert_eq!(lb.reload(&changed).await, "rejected");
    lb.wait_log(
        |event| {
            let message = event["fields"]["message"].as_str().unwrap_or_default();
            message.contains("which is in the way; that change needs a restart")
        },
        DEADLINE,
    )
    .await;
    drop(taken);
    assert_eq!(
        lb.reload(&config.replace(ADMIN, &admin_at(taken_at))).await,
        "applied"
    );
    lb.wait_listening("admin", taken_at).await;
    assert_eq!(lb.admin(), taken_at);
    lb.quiet().await;
}
