//! Certificates that clients send. Their number, their size and the cost of verifying them
//! are limited, and intermediates are accepted in all orders that real clients use.

use leastconn_testkit::{TestCa, Upstream, pki::Cert};

use crate::support::{
    CLIENT1, NO_PROBES, Records, Running, Site, TLS, both_record_layers, cn, entries, refused, talk,
};

both_record_layers! {
    #[tokio::test] too_many_intermediates_are_refused_with_a_reason,
    #[tokio::test] chains_of_real_clients_are_accepted,
    #[tokio::test] certificates_with_equal_names_are_refused,
    #[tokio::test] too_many_extensions_are_refused_with_a_reason,
    #[tokio::test] too_many_subject_attributes_are_refused_with_a_reason,
}

async fn start(records: Records, web: &Upstream, lines: &str) -> Running {
    Site::new()
        .records(records)
        .listener("main", &["upstream = \"web\"", lines, TLS])
        .upstream("web", &[NO_PROBES], &entries(&[web]))
        .client("client1", &cn(CLIENT1), "web", "")
        .start()
        .await
}

/// A client certificate issued by `ca`, sent together with the certificates of the CAs in
/// `above`.
fn sent_with(ca: &TestCa, above: &[&TestCa]) -> Cert {
    let mut cert = ca.leaf(CLIENT1).build();
    cert.chain_der.truncate(1);
    let above = above.iter().map(|ca| ca.cert().der().clone());
    cert.chain_der.extend(above);
    cert
}

async fn too_many_intermediates_are_refused_with_a_reason(records: Records) {
    let web = Upstream::named("web1").await;
    for (lines, max) in [
        ("", 8),
        ("max_intermediates = 2", 2),
        ("max_intermediates = 0", 0),
    ] {
        let lb = start(records, &web, lines).await;
        let cert = sent_with(lb.ca(), &vec![lb.ca(); max]);
        talk(lb.client_with(&cert).connect(lb.main()).await.unwrap())
            .await
            .unwrap();
        let cert = sent_with(lb.ca(), &vec![lb.ca(); max + 1]);
        assert!(refused(&lb.client_with(&cert), lb.main()).await.is_some());
        let record = lb.expect_record(1, "untrusted_certificate").await;
        let detail = record["detail"].as_str().unwrap();
        let sent = format!("the client sent {} intermediate certificates", max + 1);
        assert!(detail.starts_with(&sent), "{detail}");
        let key = format!("`max_intermediates` of the listener is {max}");
        assert!(detail.contains(&key), "{detail}");
        let subject = record["certificate"]["subject"].as_str().unwrap();
        assert!(subject.contains(CLIENT1), "{record}");
        lb.quiet().await;
    }
}

async fn chains_of_real_clients_are_accepted(records: Records) {
    let web = Upstream::named("web1").await;
    let site = Site::new()
        .records(records)
        .listener(
            "main",
            &[
                "upstream = \"web\"",
                r#"tls = { cert = "server.crt", key = "server.key", client_ca = "ca.crt" }"#,
            ],
        )
        .upstream("web", &[NO_PROBES], &entries(&[&web]))
        .client("client1", &cn(CLIENT1), "web", "");
    let first = site.ca.intermediate("first");
    let second = first.intermediate("second");
    let foreign = TestCa::new("foreign");
    let crossed = foreign.cross_sign(&second, "second");
    let lb = site.start().await;
    let root = lb.ca();
    let mut cross_signed = sent_with(&second, &[&foreign, &second, &first]);
    cross_signed.chain_der.insert(1, crossed);
    let chains = [
        sent_with(&second, &[&second, &first]),
        sent_with(&second, &[&first, &second]),
        sent_with(&second, &[&second, &first, root]),
        sent_with(&second, &[root, root, &first, &first, &second, &second]),
        cross_signed,
    ];
    for (n, cert) in chains.iter().enumerate() {
        talk(lb.client_with(cert).connect(lb.main()).await.unwrap())
            .await
            .unwrap();
        lb.expect_record(n, "ok").await;
    }
    lb.quiet().await;
}

async fn certificates_with_equal_names_are_refused(records: Records) {
    let web = Upstream::named("web1").await;
    let lb = start(records, &web, "").await;
    for name in ["maze", "test CA"] {
        let maze: Vec<_> = (0..8).map(|_| TestCa::new(name)).collect();
        let cert = sent_with(&maze[0], &maze.iter().collect::<Vec<_>>());
        assert!(refused(&lb.client_with(&cert), lb.main()).await.is_some());
    }
    for record in lb.wait_records(2).await {
        assert_eq!(record["outcome"], "untrusted_certificate", "{record}");
    }
    assert_eq!(web.accepted(), 0);
    lb.quiet().await;
}

async fn too_many_extensions_are_refused_with_a_reason(records: Records) {
    let web = Upstream::named("web1").await;
    let lb = start(records, &web, "").await;
    let ordinary = lb.ca().leaf(CLIENT1).private_extensions(50).build();
    talk(lb.client_with(&ordinary).connect(lb.main()).await.unwrap())
        .await
        .unwrap();
    lb.expect_record(0, "ok").await;

    let large = lb.ca().leaf(CLIENT1).private_extensions(3000).build();
    let mut large_above = sent_with(lb.ca(), &[lb.ca()]);
    large_above.chain_der.push(large.der().clone());
    for (n, cert, owner) in [
        (1, large, "the client's certificate has 300"),
        (
            2,
            large_above,
            "an intermediate certificate that the client sent has 300",
        ),
    ] {
        assert!(refused(&lb.client_with(&cert), lb.main()).await.is_some());
        let record = lb.expect_record(n, "untrusted_certificate").await;
        let detail = record["detail"].as_str().unwrap();
        assert!(detail.starts_with(owner), "{detail}");
        assert!(
            detail.ends_with(" extensions; at most 64 are accepted"),
            "{detail}"
        );
        assert!(record.to_string().contains(CLIENT1), "{record}");
    }
    assert_eq!(web.accepted(), 1);
    lb.quiet().await;
}

async fn too_many_subject_attributes_are_refused_with_a_reason(records: Records) {
    let web = Upstream::named("web1").await;
    let lb = start(records, &web, "").await;
    let units = |count| {
        let units = (0..count).fold(lb.ca().leaf(CLIENT1), |leaf, n| leaf.ou(&format!("{n}")));
        lb.client_with(&units.build())
    };
    talk(units(256).connect(lb.main()).await.unwrap())
        .await
        .unwrap();
    lb.expect_record(0, "ok").await;
    assert!(refused(&units(2000), lb.main()).await.is_some());
    let record = lb.expect_record(1, "untrusted_certificate").await;
    let detail = record["detail"].as_str().unwrap();
    assert!(detail.contains("2002 attributes; at most 1024"), "{detail}");
    assert_eq!(web.accepted(), 1);
    lb.quiet().await;
}
