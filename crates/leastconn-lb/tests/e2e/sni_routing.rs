//! Routing of connections: by the server name (SNI) if it matches, otherwise to the
//! listener's upstream. A listener without an upstream uses the rule's `allow`.

use leastconn_testkit::{Upstream, client::read_to_close};

use crate::support::{CLIENT1, NO_PROBES, Site, TLS, cn, entries, entry, talk};

#[tokio::test]
async fn routes_then_upstream_then_the_rules_allow() {
    let [web, db, app] = [
        Upstream::named("web").await,
        Upstream::named("db").await,
        Upstream::named("app").await,
    ];
    let routes = r#"routes = [
        { sni = "db.lb.com", upstream = "db" },
        { sni = "*.apps.lb.com", upstream = "app" },
    ]"#;
    let lb = Site::new()
        .listener("main", &["upstream = \"web\"", routes, TLS])
        .upstream("web", &[NO_PROBES], &entries(&[&web]))
        .upstream("db", &[NO_PROBES], &entries(&[&db]))
        .upstream("app", &[NO_PROBES], &entries(&[&app]))
        .client("all", &cn("all.lb.com"), "web\", \"db\", \"app", "")
        .client("dba", &cn("dba.lb.com"), "db", "")
        .client("client1", &cn(CLIENT1), "web", "")
        .start()
        .await;
    let all = lb.client("all.lb.com");
    for (n, (sni, expected)) in [
        ("db.lb.com", "db"),
        ("DB.lb.com", "db"),
        ("blue.apps.lb.com", "app"),
        ("web.lb.com", "web"),
        ("localhost", "web"),
    ]
    .into_iter()
    .enumerate()
    {
        let stream = all.connect_sni(lb.main(), sni).await.unwrap();
        assert_eq!(talk(stream).await.unwrap(), expected, "{sni}");
        let record = lb.expect_record(n, "ok").await;
        assert_eq!(record["sni"], sni.to_lowercase());
        assert_eq!(record["upstream"], expected);
    }
    // A route does not permit a client to use the upstream.
    let served = db.accepted();
    let mut stream = lb
        .client(CLIENT1)
        .connect_sni(lb.main(), "db.lb.com")
        .await
        .unwrap();
    assert!(read_to_close(&mut stream).await.unwrap().is_empty());
    lb.expect_record(5, "not_allowed").await;
    assert_eq!(db.accepted(), served);
    lb.quiet().await;
}

#[tokio::test]
async fn allow_of_the_rule_is_the_fallback() {
    let [web, db] = [Upstream::named("web").await, Upstream::named("db").await];
    let lb = Site::new()
        .listener("main", &[TLS])
        .upstream("web", &[NO_PROBES], &entries(&[&web]))
        .upstream("db", &[NO_PROBES], &entries(&[&db]))
        .client("dba", &cn("dba.lb.com"), "db/web1", "")
        .client("client1", &cn(CLIENT1), "web", "")
        .start()
        .await;
    for (n, (client, expected)) in [("dba.lb.com", "db"), (CLIENT1, "web")]
        .into_iter()
        .enumerate()
    {
        let stream = lb.client(client).connect(lb.main()).await.unwrap();
        assert_eq!(talk(stream).await.unwrap(), expected);
        assert_eq!(lb.expect_record(n, "ok").await["upstream"], expected);
    }
    lb.quiet().await;
}

#[tokio::test]
async fn only_allowed_servers_are_used() {
    let [one, two] = [Upstream::named("one").await, Upstream::named("two").await];
    let servers = [
        entry("webapp1", one.addr(), ""),
        entry("webapp2", two.addr(), ""),
    ];
    let lb = Site::new()
        .listener("main", &["upstream = \"web\"", TLS])
        .upstream("web", &[NO_PROBES], &servers)
        .client("client1", &cn(CLIENT1), "web", "")
        .client("client2", &cn("client2.lb.com"), "web/webapp2", "")
        .start()
        .await;
    let client = lb.client("client2.lb.com");
    let mut held = Vec::new();
    // From the second connection on, `webapp1` has the fewest connections, but is not allowed.
    for _ in 0..6 {
        let mut stream = client.connect(lb.main()).await.unwrap();
        let name = leastconn_testkit::client::read_line(&mut stream)
            .await
            .unwrap();
        assert_eq!(name, "two");
        held.push(stream);
    }
    assert_eq!(one.accepted(), 0);
    let stream = lb.client(CLIENT1).connect(lb.main()).await.unwrap();
    assert_eq!(talk(stream).await.unwrap(), "one");
    drop(held);
    lb.quiet().await;
}
