//! A listener's `source_rate_limit` is checked before the balancer does anything else for a
//! connection.

use std::net::SocketAddr;

use leastconn_testkit::client::read_to_close;
use leastconn_testkit::{DEADLINE, Upstream, within};

use crate::support::{CLIENT1, NO_PROBES, Site, TLS, cn, connect_from, entries, talk};

/// The rate is so low that no token is added during a test.
const THREE: &str = "source_rate_limit = { rate = 0.001, burst = 3 }";

/// Asserts that the connection is immediately reset or closed, without data.
async fn assert_closed(address: [u8; 4], addr: SocketAddr) {
    // The balancer may reset the connection before connecting has returned.
    let Ok(mut stream) = connect_from(address, addr).await else {
        return;
    };
    let closed = within(DEADLINE, "the close", read_to_close(&mut stream)).await;
    assert!(closed.unwrap_or_default().is_empty());
}

#[tokio::test]
async fn excess_is_refused_before_the_handshake() {
    let web = Upstream::named("web1").await;
    let lb = Site::new()
        .process("max_connections = 4")
        .listener("main", &["upstream = \"web\"", THREE, TLS])
        .upstream("web", &[NO_PROBES], &entries(&[&web]))
        .client("client1", &cn(CLIENT1), "web", "")
        .start()
        .await;
    let client = lb.client(CLIENT1);
    let serve = async |address| {
        let tcp = connect_from(address, lb.main()).await.unwrap();
        talk(client.handshake(tcp, "localhost").await.unwrap())
            .await
            .unwrap()
    };
    for n in 0..3 {
        serve([127, 0, 0, 2]).await;
        lb.expect_record(n, "ok").await;
    }
    for n in 3..20 {
        assert_closed([127, 0, 0, 2], lb.main()).await;
        let record = lb.expect_record(n, "rate_limited").await;
        let detail = record["detail"].as_str().unwrap();
        assert!(
            detail.contains("127.0.0.2") && detail.contains("source_rate_limit"),
            "{detail}"
        );
        assert!(record.get("client").is_none() && record.get("tls_version").is_none());
    }
    serve([127, 0, 0, 3]).await;
    lb.expect_record(20, "ok").await;
    assert_eq!(web.accepted(), 4);
    lb.quiet().await;
}

#[tokio::test]
async fn prefix_counts_as_one_source_per_listener() {
    let web = Upstream::named("web1").await;
    let wide = "source_rate_limit = { rate = 0.001, burst = 3, prefix_v4 = 24 }";
    let lb = Site::new()
        .listener("main", &["upstream = \"web\"", wide])
        .listener("other", &["upstream = \"web\"", wide])
        .upstream("web", &[NO_PROBES], &entries(&[&web]))
        .client("local", "source = \"127.0.0.0/8\"", "web", "")
        .start()
        .await;
    for n in 0..3 {
        talk(connect_from([127, 0, 1, n], lb.main()).await.unwrap())
            .await
            .unwrap();
        lb.expect_record(n.into(), "ok").await;
    }
    assert_closed([127, 0, 1, 77], lb.main()).await;
    let record = lb.expect_record(3, "rate_limited").await;
    assert!(record["detail"].as_str().unwrap().contains("127.0.1.0/24"));
    talk(connect_from([127, 0, 2, 1], lb.main()).await.unwrap())
        .await
        .unwrap();
    talk(
        connect_from([127, 0, 1, 77], lb.address("other"))
            .await
            .unwrap(),
    )
    .await
    .unwrap();
    lb.wait_records(6).await;
    lb.quiet().await;
}
