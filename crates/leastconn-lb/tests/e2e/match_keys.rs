//! Rules that match by URI, key, organizational unit and issuer, and rules that expire.

use leastconn_testkit::{Cert, TestCa, Upstream, client::read_to_close, metrics};
use tokio::io::AsyncWriteExt;

use crate::support::{CLIENT1, NO_PROBES, Running, Site, TLS, cn, entries, refused, spki, talk};

fn site(web: &Upstream) -> Site {
    Site::new()
        .listener("main", &["upstream = \"web\"", TLS])
        .upstream("web", &[NO_PROBES], &entries(&[web]))
}

/// Returns the `client` and the `identity` of a connection with this certificate.
async fn identify(lb: &Running, cert: &Cert) -> (String, String) {
    let before = lb.records().len();
    talk(lb.client_with(cert).connect(lb.main()).await.unwrap())
        .await
        .unwrap();
    let record = lb.expect_record(before, "ok").await;
    let text = |key: &str| record[key].as_str().unwrap().to_owned();
    (text("client"), text("identity"))
}

#[tokio::test]
async fn each_match_key_selects_its_identity() {
    let web = Upstream::named("web1").await;
    let site = site(&web);
    let pinned = site.ca.leaf("pinned").ou("payments").build();
    let key = spki(&pinned);
    let below = site.ca.intermediate("Partner CA");
    // Without a CRL of the intermediate CA, its certificates would be refused.
    let lists = [site.ca.crl(&[]), below.crl(&[])].concat();
    std::fs::write(site.dir.path().join("ca.crl"), lists).unwrap();
    let authorities = [site.ca.cert_pem(), below.cert_pem()].concat();
    std::fs::write(site.dir.path().join("ca.crt"), authorities).unwrap();
    let lb = site
        .client("pinned", &format!("spki = \"{key}\""), "web", "")
        .client(
            "both",
            "uri = \"spiffe://td/both\", cn = \"both\"",
            "web",
            "",
        )
        .client("ns", "uri = \"spiffe://td/ns/*/sa/web\"", "web", "")
        .client("literal", "uri = \"https://x/%61?b\"", "web", "")
        .client("users", "uri = \"https://idp.x/users/*\"", "web", "")
        .client("partner", "issuer_cn = \"Partner CA\"", "web", "")
        .client("payments", "ou = [\"payments\", \"billing\"]", "web", "")
        .start()
        .await;
    let leaf = |cn| lb.ca().leaf(cn);
    let unnamed = leaf("x").no_cn().ou("billing").build();
    let by_key = format!("spki:{}", spki(&unnamed));
    for (cert, client, identity) in [
        (pinned, "pinned", format!("spki:{key}")),
        (
            leaf("both").uri("spiffe://td/both").build(),
            "both",
            "cn:both".to_owned(),
        ),
        (
            leaf("a").uri("spiffe://td/ns/prod/sa/web").build(),
            "ns",
            "uri:spiffe://td/ns/prod/sa/web".to_owned(),
        ),
        (
            leaf("a").uri("urn:other").uri("https://x/%61?b").build(),
            "literal",
            "uri:https://x/%61?b".to_owned(),
        ),
        (
            leaf("a")
                .uri("https://idp.x/users/../a")
                .uri("https://idp.x/users/joe@x")
                .build(),
            "users",
            "uri:https://idp.x/users/joe@x".to_owned(),
        ),
        (
            below.leaf("p.example").build(),
            "partner",
            "cn:p.example".to_owned(),
        ),
        (
            leaf("o").ou("staff").ou("billing").build(),
            "payments",
            "cn:o".to_owned(),
        ),
        (unnamed, "payments", by_key),
    ] {
        assert_eq!(identify(&lb, &cert).await, (client.to_owned(), identity));
    }
    for cert in [
        leaf("a").uri("spiffe://td/both").build(),
        leaf("a").uri("spiffe://td/ns/a/b/sa/web").build(),
        leaf("a").uri("https://x/a?b").build(),
        leaf("a").uri("https://idp.x/users/..").build(),
        leaf("a").uri("https://idp.x/users/a%2Fb").build(),
        leaf("a").uri("https://idp.x/users/*").build(),
        leaf("a").uri("https://IDP.x/users/joe").build(),
        leaf("a").dns("spiffe://td/ns/prod/sa/web").build(),
        leaf("a").email("spiffe://td/ns/prod/sa/web").build(),
        leaf("Partner CA").ou("Payments").build(),
    ] {
        let before = lb.records().len();
        let _ = refused(&lb.client_with(&cert), lb.main()).await;
        lb.expect_record(before, "unknown_client").await;
    }
    let evil = leaf("a")
        .uri("spiffe://td/ns/prod/sa/web")
        .uri("spiffe://td/ns/prod/sa/db")
        .build();
    let before = lb.records().len();
    let _ = refused(&lb.client_with(&evil), lb.main()).await;
    lb.expect_record(before, "ambiguous_identity").await;
    lb.quiet().await;
}

#[tokio::test]
async fn expired_rule_admits_no_client() {
    let web = Upstream::named("web1").await;
    let lb = site(&web)
        .client(
            "old",
            &cn(CLIENT1),
            "web",
            "expires = 2020-01-01T00:00:00+01:00",
        )
        .client(
            "next",
            &cn("client2.lb.com"),
            "web",
            "expires = 2020-01-01T00:00:00Z",
        )
        .client(
            "after",
            &cn("client2.lb.com"),
            "web",
            "expires = 9999-01-01T00:00:00Z",
        )
        .start()
        .await;
    assert_eq!(refused(&lb.client(CLIENT1), lb.main()).await, None);
    let record = lb.expect_record(0, "unknown_client").await;
    assert_eq!(
        record["detail"],
        "no client rule matches: the rule of client `old` expired at 2019-12-31T23:00:00Z"
    );
    assert!(record.get("client").is_none(), "{record}");
    let (client, _) = identify(&lb, &lb.ca().leaf("client2.lb.com").build()).await;
    assert_eq!(client, "after");
    assert!(
        lb.stderr()
            .contains("the rule expired at 2019-12-31T23:00:00Z"),
        "{}",
        lb.stderr()
    );
    assert_eq!(web.accepted(), 1);
    lb.quiet().await;
}

/// A rule in shadow mode reports what it would decide. It has its own token bucket and
/// connection count, and decides nothing.
#[tokio::test]
async fn shadow_rule_only_reports_its_decision() {
    let web = Upstream::named("web1").await;
    let limits = "mode = \"shadow\"\nrate_limit = { rate = 0.001, burst = 2 }\nmax_conns = 1";
    let lb = site(&web)
        .upstream("db", &[NO_PROBES], &entries(&[&web]))
        .client("strict", &cn(CLIENT1), "web", limits)
        .client(
            "elsewhere",
            &cn("client2.lb.com"),
            "db",
            "mode = \"shadow\"",
        )
        .client(
            "client1",
            &cn(CLIENT1),
            "web",
            "rate_limit = { rate = 0.001, burst = 4 }",
        )
        .client("client2", &cn("client2.lb.com"), "web", "")
        .client("late", &cn("client2.lb.com"), "web", "mode = \"shadow\"")
        .client("only", &cn("client3.lb.com"), "web", "mode = \"shadow\"")
        .start()
        .await;
    let client = lb.client(CLIENT1);
    // While the first connection is open, the second connection would exceed `max_conns` of
    // the shadow rule.
    let mut held = client.connect(lb.main()).await.unwrap();
    leastconn_testkit::client::read_line(&mut held)
        .await
        .unwrap();
    talk(client.connect(lb.main()).await.unwrap())
        .await
        .unwrap();
    let second = lb.expect_record(0, "ok").await;
    held.shutdown().await.unwrap();
    assert!(read_to_close(&mut held).await.unwrap().is_empty());
    let first = lb.wait_records(2).await.swap_remove(1);
    for n in 2..4 {
        talk(client.connect(lb.main()).await.unwrap())
            .await
            .unwrap();
        lb.expect_record(n, "ok").await;
    }
    let _ = refused(&client, lb.main()).await;
    let fifth = lb.expect_record(4, "rate_limited").await;
    let records = lb.records();
    let shadows: Vec<_> = [&first, &second, &records[2], &records[3], &fifth]
        .map(|record| {
            assert_eq!(record["client"], "client1", "{record}");
            assert_eq!(record["shadow"]["client"], "strict", "{record}");
            record["shadow"]["outcome"].as_str().unwrap().to_owned()
        })
        .into();
    assert_eq!(
        shadows,
        [
            "ok",
            "too_many_connections",
            "ok",
            "rate_limited",
            "rate_limited"
        ]
    );

    talk(
        lb.client("client2.lb.com")
            .connect(lb.main())
            .await
            .unwrap(),
    )
    .await
    .unwrap();
    let record = lb.expect_record(5, "ok").await;
    assert_eq!(record["shadow"]["client"], "elsewhere");
    assert_eq!(record["shadow"]["outcome"], "not_allowed");
    let _ = refused(&lb.client("client3.lb.com"), lb.main()).await;
    let record = lb.expect_record(6, "unknown_client").await;
    assert_eq!(record["shadow"]["outcome"], "ok", "{record}");

    let counts = lb.metrics().await;
    let mut counts: Vec<_> = metrics::family(&counts, "leastconn_client_shadow_total").collect();
    counts.sort_by(|a, b| a.0.cmp(b.0));
    let counts: Vec<_> = counts.iter().map(|(_, count)| *count as u32).collect();
    // The counts are those of `elsewhere`, `only`, and `strict` with the outcomes `ok`,
    // `rate_limited` and `too_many_connections`.
    assert_eq!(counts, [1, 1, 2, 2, 1]);
    lb.quiet().await;
}

/// Row 14 of docs/threats.md: an authority that is limited to certain URIs.
#[tokio::test]
async fn uri_name_constraints_are_enforced() {
    let web = Upstream::named("web1").await;
    let site = site(&web).client(
        "any",
        "uri = [\"spiffe://td.example/**\", \"spiffe://other.example/**\"]",
        "web",
        "",
    );
    let limited = site
        .ca
        .uri_constrained_intermediate("limited", "td.example");
    std::fs::write(site.dir.path().join("ca.crt"), limited.cert_pem()).unwrap();
    std::fs::write(site.dir.path().join("ca.crl"), limited.crl(&[])).unwrap();
    let lb = site.start().await;
    let inside = limited.leaf("a").uri("spiffe://td.example/web").build();
    talk(lb.client_with(&inside).connect(lb.main()).await.unwrap())
        .await
        .unwrap();
    lb.expect_record(0, "ok").await;
    let outside = limited.leaf("a").uri("spiffe://other.example/web").build();
    assert!(
        refused(&lb.client_with(&outside), lb.main())
            .await
            .is_some()
    );
    let record = lb.expect_record(1, "untrusted_certificate").await;
    let detail = record["detail"].as_str().unwrap();
    assert!(
        detail.contains("name constraints of `CN=limited` do not allow the URIs"),
        "{detail}"
    );
    assert_eq!(web.accepted(), 1);
    lb.quiet().await;
}

/// Row 22 of docs/threats.md: the client sends CA certificates that all sign each other.
/// Trying every path would take too long.
#[tokio::test]
async fn mutually_signed_certificates_are_refused() {
    let web = Upstream::named("web1").await;
    let lb = Site::new()
        .listener(
            "main",
            &["upstream = \"web\"", "max_intermediates = 64", TLS],
        )
        .upstream("web", &[NO_PROBES], &entries(&[&web]))
        .client("client1", &cn(CLIENT1), "web", "")
        .start()
        .await;
    let maze: Vec<_> = (0..7).map(|_| TestCa::new("maze")).collect();
    let mut cert = maze[0].leaf(CLIENT1).build();
    for above in &maze {
        let others = maze.iter().map(|other| above.cross_sign(other, "maze"));
        cert.chain_der.extend(others);
    }
    let bytes: usize = cert.chain_der.iter().map(|der| der.len()).sum();
    assert!((15_000..65_000).contains(&bytes), "{bytes}");
    for _ in 0..3 {
        assert!(refused(&lb.client_with(&cert), lb.main()).await.is_some());
    }
    for record in lb.wait_records(3).await {
        assert_eq!(record["outcome"], "untrusted_certificate", "{record}");
        assert!(record["handshake_ms"].is_null());
    }
    assert_eq!(web.accepted(), 0);
    talk(lb.client(CLIENT1).connect(lb.main()).await.unwrap())
        .await
        .unwrap();
    lb.quiet().await;
}

/// Row 22 of docs/threats.md: more certificates than a handshake message can hold.
#[tokio::test]
async fn overlong_chain_is_refused() {
    let web = Upstream::named("web1").await;
    let lb = Site::usual(&[&web]).start().await;
    let mut cert = lb.ca().leaf(CLIENT1).build();
    let above = lb.ca().intermediate("above").cert().der().clone();
    cert.chain_der.extend(std::iter::repeat_n(above, 300));
    let bytes: usize = cert.chain_der.iter().map(|der| der.len()).sum();
    assert!(bytes > 0xffff, "{bytes}");
    let client = lb.client_with(&cert);
    for (n, client) in [client.clone().tls12(), client.tls13()]
        .into_iter()
        .enumerate()
    {
        // The client gets an alert, or a RST if it was still sending.
        if let Ok(mut stream) = client.connect(lb.main()).await {
            read_to_close(&mut stream).await.unwrap_err();
        }
        lb.expect_record(n, "handshake_failed").await;
    }
    assert_eq!(web.accepted(), 0);
    talk(lb.client(CLIENT1).connect(lb.main()).await.unwrap())
        .await
        .unwrap();
    lb.quiet().await;
}
