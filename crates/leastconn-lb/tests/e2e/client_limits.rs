//! Rate limits and `max_conns` are exact, and apply to each identity, not to the whole
//! rule.

use std::time::Duration;

use leastconn_testkit::client::{read_line, read_to_close};
use leastconn_testkit::{DEADLINE, TlsClient, Upstream, within};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::support::{
    CLIENT1, NO_PROBES, Running, Site, TLS, cn, entries, entry, refused, refusing_address, talk,
    tcp,
};

/// The rate is so low that no token is added during a test.
const SLOW: &str = "rate_limit = { rate = 0.001, burst = 20 }";

fn site(web: &Upstream) -> Site {
    Site::new()
        .listener("main", &["upstream = \"web\"", TLS])
        .upstream("web", &[NO_PROBES], &entries(&[web]))
}

async fn assert_served(lb: &Running, client: &TlsClient) {
    talk(client.connect(lb.main()).await.unwrap())
        .await
        .unwrap();
}

#[tokio::test]
async fn rate_limit_applies_per_client() {
    let web = Upstream::named("web1").await;
    let lb = site(&web)
        .client("client1", &cn(CLIENT1), "web", SLOW)
        .client("client2", &cn("client2.lb.com"), "web", SLOW)
        .start()
        .await;
    let (client, addr) = (lb.client(CLIENT1), lb.main());
    let mut connections = JoinSet::new();
    for _ in 0..21 {
        let client = client.clone();
        connections.spawn(async move {
            let mut stream = client.connect(addr).await.unwrap();
            let greeted = read_line(&mut stream).await.is_ok();
            // Keep all connections open until each of them has been admitted or refused.
            (greeted, stream)
        });
    }
    assert_served(&lb, &lb.client("client2.lb.com")).await;
    let connections = within(DEADLINE, "21 answers", connections.join_all()).await;
    assert_eq!(
        connections.iter().filter(|(greeted, _)| *greeted).count(),
        20
    );
    assert_eq!(web.accepted(), 21);
    assert_served(&lb, &lb.client("client2.lb.com")).await;
    drop(connections);

    let records = lb.wait_records(23).await;
    let refused: Vec<_> = records
        .iter()
        .filter(|record| record["outcome"] == "rate_limited")
        .collect();
    assert_eq!(refused.len(), 1);
    assert_eq!(refused[0]["client"], "client1");
    assert!(refused[0].get("server").is_none());
    let name = r#"leastconn_client_connections_total{client="client1",outcome="rate_limited"}"#;
    lb.wait_metric(name, 1.0, DEADLINE).await;
    lb.quiet().await;
}

#[tokio::test]
async fn wildcard_rule_limits_each_identity() {
    let web = Upstream::named("web1").await;
    let once = "rate_limit = { rate = 0.001, burst = 1 }";
    let lb = site(&web)
        .client("apps", r#"dns = "*.apps.lb.com""#, "web", once)
        .client("people", &cn("*.lb.com"), "web", once)
        .start()
        .await;
    let app = |name: &str| lb.client_with(&lb.ca().leaf("app").dns(name).build());
    for client in [
        app("blue.apps.lb.com"),
        app("green.apps.lb.com"),
        lb.client("ann.lb.com"),
        lb.client("bob.lb.com"),
    ] {
        assert_served(&lb, &client).await;
        assert_eq!(refused(&client, lb.main()).await, None);
    }
    // The bucket belongs to the identity: a new certificate with the same name does not get
    // a new bucket.
    assert_eq!(refused(&lb.client("ann.lb.com"), lb.main()).await, None);
    let records = lb.wait_records(9).await;
    let refused = records.iter().filter(|r| r["outcome"] == "rate_limited");
    assert_eq!(refused.count(), 5);
    assert_eq!(web.accepted(), 4);
    lb.quiet().await;
}

#[tokio::test]
async fn max_conns_counts_open_connections() {
    let web = Upstream::named("web1").await;
    let lb = site(&web)
        .client("client1", &cn(CLIENT1), "web", "max_conns = 2")
        .start()
        .await;
    let client = lb.client(CLIENT1);
    let mut open = Vec::new();
    for _ in 0..2 {
        let mut stream = client.connect(lb.main()).await.unwrap();
        read_line(&mut stream).await.unwrap();
        open.push(stream);
    }
    assert_eq!(refused(&client, lb.main()).await, None);
    let record = lb.expect_record(0, "too_many_connections").await;
    let detail = record["detail"].as_str().unwrap();
    assert!(detail.ends_with("concurrent connections (2)"), "{detail}");
    let active = r#"leastconn_client_connections_active{client="client1"}"#;
    lb.wait_metric(active, 2.0, DEADLINE).await;
    close(open.pop().unwrap()).await;
    lb.wait_metric(active, 1.0, DEADLINE).await;
    web.wait_open(1).await;
    assert_served(&lb, &client).await;
    assert_eq!(web.accepted(), 3);
    drop(open);
    lb.quiet().await;
}

/// A connection for which no server can be reached still uses a token. Otherwise failing
/// servers would raise the client's limit.
#[tokio::test]
async fn failed_connections_use_a_token() {
    let twice = "rate_limit = { rate = 0.001, burst = 2 }\nmax_conns = 1";
    let lb = Site::new()
        .listener("main", &["upstream = \"web\""])
        .upstream(
            "web",
            &[NO_PROBES, "retry_for = \"0s\""],
            &[entry("web1", refusing_address(), "")],
        )
        .client("local", "source = \"127.0.0.1\"", "web", twice)
        .start()
        .await;
    for expected in ["connect_failed", "connect_failed", "rate_limited"] {
        let before = lb.records().len();
        let _ = read_to_close(&mut tcp(lb.main()).await).await;
        let record = lb.wait_records(before + 1).await.swap_remove(before);
        assert_eq!(record["outcome"], expected, "{record}");
    }
    lb.quiet().await;
}

/// Once the record of a connection is written, the connection must no longer count against
/// `max_conns` of its client and of its server.
#[tokio::test]
async fn recorded_connection_is_no_longer_counted() {
    let web = Upstream::named("web1").await;
    let lb = Site::new()
        .listener("main", &["upstream = \"web\""])
        .upstream(
            "web",
            &[NO_PROBES],
            &[entry("web1", web.addr(), ", max_conns = 1")],
        )
        .client("local", "source = \"127.0.0.1\"", "web", "max_conns = 1")
        .start()
        .await;
    for n in 0..200 {
        talk(tcp(lb.main()).await).await.unwrap();
        lb.expect_record(n, "ok").await;
    }
    lb.quiet().await;
}

async fn close(mut stream: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin) {
    tokio::io::AsyncWriteExt::shutdown(&mut stream)
        .await
        .unwrap();
    assert!(read_to_close(&mut stream).await.unwrap().is_empty());
}

#[tokio::test]
async fn busy_client_gets_its_burst_and_rate() {
    const RATE: f64 = 40.0;
    const BURST: f64 = 5.0;
    let web = Upstream::named("web1").await;
    let limit = format!("rate_limit = {{ rate = {RATE}, burst = {BURST} }}");
    let lb = Site::new()
        .listener("main", &["upstream = \"web\""])
        .upstream("web", &[NO_PROBES], &entries(&[&web]))
        .client("local", "source = \"127.0.0.1\"", "web", &limit)
        .start()
        .await;
    let start = Instant::now();
    let mut admitted = 0.0;
    let (mut last, mut longest) = (start, Duration::ZERO);
    while start.elapsed() < Duration::from_secs(1) {
        let mut stream = tcp(lb.main()).await;
        if read_line(&mut stream).await.is_ok() {
            admitted += 1.0;
        }
        longest = longest.max(last.elapsed());
        last = Instant::now();
    }
    let most = BURST + RATE * start.elapsed().as_secs_f64();
    assert!(
        admitted <= most + 1.0,
        "{admitted} connections admitted, at most {most} allowed"
    );
    // A full bucket gets no further tokens. If the test stalled long enough to fill the
    // bucket, the minimum is unknown. The tolerance covers tokens that were lost before the
    // first answer, or that were left after the last request.
    let longest = longest.as_secs_f64();
    if longest < BURST / RATE {
        let least = most - 2.0 - 2.0 * longest * RATE;
        assert!(admitted >= least, "{admitted} of {least}");
    }
    lb.quiet().await;
}
