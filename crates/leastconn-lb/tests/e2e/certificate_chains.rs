//! Certificate chains with intermediates, and bundles of several CAs with a CRL for each. A
//! client is refused if any certificate of its chain is revoked.

use leastconn_testkit::{Cert, TestCa, Upstream};
use rustls::AlertDescription as Alert;

use crate::support::{
    CLIENT1, NO_PROBES, Records, Running, Site, both_record_layers, cn, entries, refused, talk,
};

both_record_layers! {
    #[tokio::test]
    client_sends_its_intermediates,
    #[tokio::test]
    every_authority_of_a_bundle_is_trusted,
    #[tokio::test]
    revoked_intermediate_revokes_its_certificates,
}

async fn assert_served(lb: &Running, listener: &str, cert: &Cert) {
    for client in [lb.client_with(cert).tls12(), lb.client_with(cert).tls13()] {
        let before = lb.records().len();
        let stream = client.connect(lb.address(listener)).await.unwrap();
        talk(stream).await.unwrap();
        lb.expect_record(before, "ok").await;
    }
}

async fn assert_refused(lb: &Running, listener: &str, cert: &Cert, outcome: &str, alert: Alert) {
    for client in [lb.client_with(cert).tls12(), lb.client_with(cert).tls13()] {
        let before = lb.records().len();
        assert_eq!(refused(&client, lb.address(listener)).await, Some(alert));
        lb.expect_record(before, outcome).await;
    }
}

fn site(records: Records, web: &Upstream) -> Site {
    Site::new()
        .records(records)
        .upstream("web", &[NO_PROBES], &entries(&[web]))
        .client("client1", &cn(CLIENT1), "web", "")
}

fn listener(site: Site, name: &str, ca: &str, crl: &str) -> Site {
    let tls = format!(
        "tls = {{ cert = \"server.crt\", key = \"server.key\", client_ca = \"{ca}\"{crl} }}"
    );
    site.listener(name, &["upstream = \"web\"", &tls])
}

async fn client_sends_its_intermediates(records: Records) {
    let web = Upstream::named("web1").await;
    let site = listener(site(records, &web), "main", "ca.crt", "");
    let below = site.ca.intermediate("below");
    let further = below.intermediate("further below");
    let lb = site.start().await;
    assert_served(&lb, "main", &below.leaf(CLIENT1).build()).await;
    let deep = further.leaf(CLIENT1).build();
    assert_eq!(deep.chain_der.len(), 3);
    assert_served(&lb, "main", &deep).await;
    let mut gap = deep.clone();
    gap.chain_der.remove(1);
    assert_refused(&lb, "main", &gap, "untrusted_certificate", Alert::UnknownCA).await;
    let mut alone = deep;
    alone.chain_der.truncate(1);
    assert_refused(
        &lb,
        "main",
        &alone,
        "untrusted_certificate",
        Alert::UnknownCA,
    )
    .await;
    lb.quiet().await;
}

async fn every_authority_of_a_bundle_is_trusted(records: Records) {
    let web = Upstream::named("web1").await;
    let site = listener(site(records, &web), "main", "both.crt", "");
    let site = listener(site, "listed", "both.crt", ", crl = \"both.crl\"");
    let second = TestCa::new("second CA");
    let revoked = second.leaf(CLIENT1).build();
    let both = format!("{}{}", site.ca.cert_pem(), second.cert_pem());
    std::fs::write(site.dir.path().join("both.crt"), both).unwrap();
    let lists = format!("{}{}", site.ca.crl(&[]), second.crl(&[&revoked]));
    std::fs::write(site.dir.path().join("both.crl"), lists).unwrap();
    let lb = site.start().await;
    let of_first = lb.ca().leaf(CLIENT1).build();
    for listener in ["main", "listed"] {
        assert_served(&lb, listener, &of_first).await;
        assert_served(&lb, listener, &second.leaf(CLIENT1).build()).await;
        let third = TestCa::new("third CA").leaf(CLIENT1).build();
        assert_refused(
            &lb,
            listener,
            &third,
            "untrusted_certificate",
            Alert::UnknownCA,
        )
        .await;
    }
    assert_served(&lb, "main", &revoked).await;
    assert_refused(
        &lb,
        "listed",
        &revoked,
        "revoked_certificate",
        Alert::CertificateRevoked,
    )
    .await;
    lb.quiet().await;
}

async fn revoked_intermediate_revokes_its_certificates(records: Records) {
    let web = Upstream::named("web1").await;
    let site = listener(site(records, &web), "main", "ca.crt", ", crl = \"ca.crl\"");
    let below = site.ca.intermediate("below");
    site.ca.write_crl(&site.dir, &[below.cert()]);
    let lb = site.start().await;
    let cert = below.leaf(CLIENT1).build();
    for client in [lb.client_with(&cert).tls12(), lb.client_with(&cert).tls13()] {
        let before = lb.records().len();
        // The revocation status of the leaf is also unknown, and webpki may report either
        // error first.
        let alert = refused(&client, lb.main()).await.unwrap();
        assert!(matches!(
            alert,
            Alert::CertificateRevoked | Alert::UnknownCA
        ));
        let record = lb.wait_records(before + 1).await.swap_remove(before);
        let outcome = record["outcome"].as_str().unwrap();
        assert!(
            ["revoked_certificate", "untrusted_certificate"].contains(&outcome),
            "{record}"
        );
    }
    assert_served(&lb, "main", &lb.ca().leaf(CLIENT1).build()).await;
    assert_eq!(web.accepted(), 2);
    lb.quiet().await;
}
