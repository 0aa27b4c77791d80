//! Client rules are tried in the order of the file. All keys of a rule must match. If a key has a
//! list, one of its values must match. Names of different types are never compared with each
//! other, and nothing in a certificate acts as a wildcard.

use leastconn_testkit::{Cert, Upstream, client::read_to_close};

use crate::support::{
    NO_PROBES, Running, Site, TLS, cn, connect_from, entries, refused, talk, tcp,
};

async fn site(web: &Upstream) -> Site {
    Site::new()
        .listener("main", &["upstream = \"web\"", TLS])
        .upstream("web", &[NO_PROBES], &entries(&[web]))
}

async fn assert_served(lb: &Running, cert: &Cert, client: &str, identity: &str) {
    let before = lb.records().len();
    let stream = lb.client_with(cert).connect(lb.main()).await.unwrap();
    talk(stream).await.unwrap();
    let record = lb.expect_record(before, "ok").await;
    assert_eq!(record["client"], client, "{record}");
    assert_eq!(record["identity"], identity, "{record}");
}

async fn assert_refused(lb: &Running, cert: &Cert, outcome: &str) {
    let before = lb.records().len();
    // Rules are applied after the handshake, so the connection ends without an alert.
    assert_eq!(refused(&lb.client_with(cert), lb.main()).await, None);
    let record = lb.expect_record(before, outcome).await;
    assert!(record.get("server").is_none(), "{record}");
}

#[tokio::test]
async fn first_matching_rule_decides() {
    let web = Upstream::named("web1").await;
    let lb = site(&web)
        .await
        .client("pair", r#"cn = ["a.lb.com", "b.lb.com"]"#, "web", "")
        .client("barred", &cn("c.lb.com"), "other", "")
        .client("rest", &cn("*.lb.com"), "web", "")
        .client("shadowed", &cn("d.lb.com"), "other", "")
        .upstream("other", &[NO_PROBES], &entries(&[&web]))
        .listener("elsewhere", &["upstream = \"other\"", TLS])
        .start()
        .await;
    let cert = |name: &str| lb.ca().leaf(name).build();
    assert_served(&lb, &cert("a.lb.com"), "pair", "cn:a.lb.com").await;
    assert_served(&lb, &cert("b.lb.com"), "pair", "cn:b.lb.com").await;
    assert_served(&lb, &cert("d.lb.com"), "rest", "cn:d.lb.com").await;
    let served = web.accepted();
    // The first matching rule decides, even if it does not allow this listener's upstream.
    assert_refused(&lb, &cert("c.lb.com"), "not_allowed").await;
    for name in [
        "x.y.lb.com",
        "lb.com",
        ".lb.com",
        "A.LB.COM.",
        "a.lb.com.",
        "*.lb.com",
        "**",
    ] {
        assert_refused(&lb, &cert(name), "unknown_client").await;
    }
    assert_eq!(web.accepted(), served);
    lb.quiet().await;
}

#[tokio::test]
async fn all_keys_of_a_rule_must_match() {
    let web = Upstream::named("web1").await;
    let lb = site(&web)
        .await
        .client("both", r#"cn = "a.lb.com", dns = "a.internal""#, "web", "")
        .client(
            "near",
            r#"cn = "near.lb.com", source = ["127.0.0.1", "::1"]"#,
            "web",
            "",
        )
        .client(
            "far",
            r#"cn = "far.lb.com", source = "10.0.0.0/8""#,
            "web",
            "",
        )
        .start()
        .await;
    let leaf = |name: &str| lb.ca().leaf(name);
    let both = leaf("a.lb.com").dns("b.internal").dns("a.internal").build();
    assert_served(&lb, &both, "both", "cn:a.lb.com").await;
    assert_served(&lb, &leaf("near.lb.com").build(), "near", "cn:near.lb.com").await;
    let served = web.accepted();
    for cert in [
        leaf("a.lb.com").build(),
        leaf("a.lb.com").dns("b.internal").build(),
        leaf("b.lb.com").dns("a.internal").build(),
        leaf("a.internal").dns("a.lb.com").build(),
        leaf("far.lb.com").build(),
    ] {
        assert_refused(&lb, &cert, "unknown_client").await;
    }
    assert_eq!(web.accepted(), served);
    lb.quiet().await;
}

#[tokio::test]
async fn dns_rule_matches_dns_names_literally() {
    let web = Upstream::named("web1").await;
    let lb = site(&web)
        .await
        .client("dns", r#"dns = "*.apps.lb.com""#, "web", "")
        .client("exact", r#"dns = "db.lb.com""#, "web", "")
        .start()
        .await;
    let leaf = || lb.ca().leaf("other");
    let cert = leaf().dns("Blue.Apps.lb.com").build();
    assert_served(&lb, &cert, "dns", "dns:blue.apps.lb.com").await;
    let cert = lb
        .ca()
        .leaf("x")
        .no_cn()
        .dns("other")
        .dns("db.lb.com")
        .build();
    assert_served(&lb, &cert, "exact", "dns:db.lb.com").await;
    let served = web.accepted();
    for cert in [
        // A wildcard certificate does not match rules for names that it covers.
        leaf().dns("*.apps.lb.com").build(),
        leaf().dns("*.lb.com").build(),
        leaf().dns("*").build(),
        // URIs, email addresses and common names are not compared with rules for DNS names.
        leaf().uri("blue.apps.lb.com").build(),
        leaf().email("blue.apps.lb.com").build(),
        lb.ca().leaf("blue.apps.lb.com").build(),
        leaf().dns("blue.apps.lb.com.evil.example").build(),
        leaf().dns("a.blue.apps.lb.com").build(),
    ] {
        assert_refused(&lb, &cert, "unknown_client").await;
    }
    assert_eq!(web.accepted(), served);
    lb.quiet().await;
}

#[tokio::test]
async fn source_address_is_the_identity_without_tls() {
    let web = Upstream::named("web1").await;
    let lb = Site::new()
        .listener("main", &["upstream = \"web\""])
        .upstream("web", &[NO_PROBES], &entries(&[&web]))
        .client("one", r#"source = "127.0.0.1/32""#, "web", "")
        .client(
            "few",
            r#"source = ["127.0.1.0/24", "10.0.0.0/8"]"#,
            "web",
            "",
        )
        .start()
        .await;
    talk(tcp(lb.main()).await).await.unwrap();
    let record = lb.expect_record(0, "ok").await;
    assert_eq!(record["client"], "one");
    assert_eq!(record["identity"], "source:127.0.0.1");
    for (n, (host, client)) in [([127, 0, 1, 7], Some("few")), ([127, 0, 2, 7], None)]
        .into_iter()
        .enumerate()
    {
        let mut stream = connect_from(host, lb.main()).await.unwrap();
        match client {
            Some(client) => {
                talk(stream).await.unwrap();
                assert_eq!(lb.expect_record(n + 1, "ok").await["client"], client);
            }
            None => {
                assert!(read_to_close(&mut stream).await.unwrap().is_empty());
                lb.expect_record(n + 1, "unknown_client").await;
            }
        }
    }
    assert_eq!(web.accepted(), 2);
    lb.quiet().await;
}

#[tokio::test]
async fn source_address_is_the_identity_without_client_certificates() {
    let web = Upstream::named("web1").await;
    let tls = r#"tls = { cert = "server.crt", key = "server.key", client_auth = "none" }"#;
    let lb = Site::new()
        .listener("main", &["upstream = \"web\"", tls])
        .upstream("web", &[NO_PROBES], &entries(&[&web]))
        .client("local", r#"source = "127.0.0.1""#, "web", "")
        .client("named", &cn("a.lb.com"), "web", "")
        .listener("mutual", &["upstream = \"web\"", TLS])
        .start()
        .await;
    // The listener does not request a certificate, so the client sends none.
    for client in [
        leastconn_testkit::TlsClient::new(lb.ca(), None),
        lb.client("a.lb.com"),
    ] {
        let before = lb.records().len();
        talk(client.connect(lb.main()).await.unwrap())
            .await
            .unwrap();
        let record = lb.expect_record(before, "ok").await;
        assert_eq!(record["identity"], "source:127.0.0.1");
        assert!(record.get("serial").is_none(), "{record}");
    }
    lb.quiet().await;
}
