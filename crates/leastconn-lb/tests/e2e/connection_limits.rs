//! Limits on connections and handshakes: connections above a limit are refused and counted, and
//! all other connections are served.

use leastconn_testkit::client::{read_line, read_to_close};
use leastconn_testkit::{DEADLINE, Upstream, within};
use serde_json::Value;

use crate::ctl::ctl;
use crate::support::{CLIENT1, NO_PROBES, Site, TLS, cn, entry, refused, talk, tcp};

const OVERLOADED: &str = r#"leastconn_connections_total{listener="main",outcome="overloaded"}"#;
const ACTIVE: &str = r#"leastconn_connections_active{listener="main"}"#;

#[tokio::test]
async fn connections_above_the_limit_are_overloaded() {
    let web = Upstream::named("web1").await;
    let lb = Site::plain(&[&web])
        .process("max_connections = 5")
        .start()
        .await;
    let mut held = Vec::new();
    for _ in 0..5 {
        let mut stream = tcp(lb.main()).await;
        read_line(&mut stream).await.unwrap();
        held.push(stream);
    }
    for n in 0..20 {
        let mut stream = tcp(lb.main()).await;
        let closed = within(DEADLINE, "the close", read_to_close(&mut stream));
        assert!(closed.await.unwrap_or_default().is_empty());
        lb.expect_record(n, "overloaded").await;
    }
    lb.wait_metric(OVERLOADED, 20.0, DEADLINE).await;
    lb.wait_metric(ACTIVE, 5.0, DEADLINE).await;
    assert_eq!(web.accepted(), 5);
    drop(held);
    lb.wait_metric(ACTIVE, 0.0, DEADLINE).await;
    talk(tcp(lb.main()).await).await.unwrap();
    lb.quiet().await;
}

#[tokio::test]
async fn reached_connection_limit_is_logged_once() {
    let web = Upstream::named("web1").await;
    let lb = Site::plain(&[&web])
        .process("max_connections = 1")
        .admin("socket = \"lb.sock\"")
        .start()
        .await;
    let mut held = tcp(lb.main()).await;
    read_line(&mut held).await.unwrap();
    for n in 0..3 {
        let mut stream = tcp(lb.main()).await;
        assert!(
            read_to_close(&mut stream)
                .await
                .unwrap_or_default()
                .is_empty()
        );
        let record = lb.expect_record(n, "overloaded").await;
        assert_eq!(
            record["detail"],
            "the connection limit of the process is reached (`max_connections`)"
        );
    }
    let start = "connection limit reached: refusing connections";
    let is = |event: &Value, message: &str| event["fields"]["message"] == message;
    let reached = lb.wait_log(|event| is(event, start), DEADLINE).await;
    assert_eq!(reached["fields"]["reason"], "max_connections", "{reached}");
    let status = ctl(&lb, &["status"]).await.ok();
    let line = "1 open (limit 1): new connections are REFUSED";
    assert!(status.contains(line), "{status}");
    drop(held);
    let end = |event: &Value| is(event, "connection limit no longer reached");
    let end = lb.wait_log(end, DEADLINE).await;
    assert_eq!(end["fields"]["refused"], 3, "{end}");
    assert_eq!(lb.stderr().matches(start).count(), 1);
    lb.quiet().await;
}

#[tokio::test]
async fn silent_sockets_do_not_use_handshake_permits() {
    let web = Upstream::named("web1").await;
    let lb = Site::long_handshake_timeout(&[&web])
        .process("max_handshakes = 4")
        .start()
        .await;
    let mut silent = Vec::new();
    for _ in 0..300 {
        silent.push(tcp(lb.main()).await);
    }
    lb.wait_metric(ACTIVE, 300.0, DEADLINE).await;
    let client = lb.client(CLIENT1);
    for _ in 0..5 {
        let served = async {
            talk(client.connect(lb.main()).await.unwrap())
                .await
                .unwrap()
        };
        within(DEADLINE, "being served", served).await;
    }
    let handshakes = r#"leastconn_handshakes_active{listener="main"}"#;
    lb.wait_metric(handshakes, 300.0, DEADLINE).await;
    drop(silent);
    lb.wait_records(305).await;
    lb.quiet().await;
}

#[tokio::test]
async fn refused_clients_reach_no_server() {
    let web = Upstream::named("web1").await;
    // If a refused connection still counted against a limit, a later client would wait or fail.
    let lb = Site::new()
        .process("max_connections = 5")
        .listener("main", &["upstream = \"web\"", TLS])
        .upstream(
            "web",
            &[NO_PROBES],
            &[entry("web1", web.addr(), ", max_conns = 1")],
        )
        .client("client1", &cn(CLIENT1), "web", "")
        .start()
        .await;
    let stranger = lb.client("stranger.lb.com");
    for n in 0..30 {
        assert_eq!(refused(&stranger, lb.main()).await, None);
        lb.expect_record(n, "unknown_client").await;
    }
    talk(lb.client(CLIENT1).connect(lb.main()).await.unwrap())
        .await
        .unwrap();
    assert_eq!(web.accepted(), 1);
    lb.quiet().await;
}
