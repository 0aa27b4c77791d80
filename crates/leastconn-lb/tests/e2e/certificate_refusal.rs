//! Each kind of bad client certificate is refused with its own reason code and TLS alert,
//! before any server is dialled.

use leastconn_testkit::{DEADLINE, TestCa, TlsClient, Upstream, client::alert};
use rustls::AlertDescription as Alert;

use crate::support::{
    CLIENT1, Records, Running, Site, TLS, both_record_layers, eventually_refused, refused, talk,
};

both_record_layers! {
    #[tokio::test]
    each_bad_certificate_has_its_own_reason,
    #[tokio::test]
    intermediate_without_crl_is_refused,
    #[tokio::test]
    early_data_of_refused_clients_reaches_no_server,
    #[tokio::test]
    cached_verification_does_not_outlive_expiry,
    #[tokio::test]
    client_certificate_in_client_ca_issues_nothing,
}

/// Asserts that the client is refused with this outcome and this alert in both TLS versions.
async fn assert_refused(lb: &Running, client: TlsClient, outcome: &str, expected: Alert) {
    for (version, client) in [("1.2", client.clone().tls12()), ("1.3", client.tls13())] {
        let before = lb.records().len();
        let alert = refused(&client, lb.main()).await;
        assert_eq!(alert, Some(expected), "{outcome}, TLS {version}");
        let record = lb.expect_record(before, outcome).await;
        assert!(record.get("client").is_none(), "{record}");
        assert!(record.get("server").is_none(), "{record}");
        assert_eq!(record["bytes_received"], 0, "{record}");
    }
}

/// Rows 5 to 8 and 15 of docs/threats.md: clients without a certificate, or with an
/// untrusted, expired, unsuitable or revoked one.
async fn each_bad_certificate_has_its_own_reason(records: Records) {
    let web = Upstream::named("web1").await;
    let site = Site::usual(&[&web]).records(records);
    let revoked = site.cert(CLIENT1);
    site.ca.write_crl(&site.dir, &[&revoked]);
    let lb = site.start().await;
    let good = lb.ca().leaf(CLIENT1).build();

    let anonymous = TlsClient::new(lb.ca(), None);
    assert_refused(&lb, anonymous, "no_certificate", Alert::CertificateRequired).await;

    let other = TestCa::new("other CA").leaf(CLIENT1).build();
    let namesake = TestCa::new("test CA").leaf(CLIENT1).build();
    let own = lb.ca().leaf(CLIENT1).self_signed().build();
    let poser = TestCa::from_leaf(&good).leaf(CLIENT1).build();
    let unfit = lb.ca().leaf(CLIENT1).eku_server_only().build();
    let untrusted = "untrusted_certificate";
    for (cert, alert) in [
        (&other, Alert::UnknownCA),
        (&namesake, Alert::DecryptError),
        (&own, Alert::UnknownCA),
        (&poser, Alert::CertificateUnknown),
        (&unfit, Alert::UnsupportedCertificate),
    ] {
        assert_refused(&lb, lb.client_with(cert), untrusted, alert).await;
    }

    let past = lb.ca().leaf(CLIENT1).validity(-7200, -3600).build();
    let future = lb.ca().leaf(CLIENT1).validity(3600, 7200).build();
    for cert in [&past, &future] {
        let client = lb.client_with(cert);
        assert_refused(
            &lb,
            client,
            "expired_certificate",
            Alert::CertificateExpired,
        )
        .await;
    }
    let client = lb.client_with(&revoked);
    assert_refused(
        &lb,
        client,
        "revoked_certificate",
        Alert::CertificateRevoked,
    )
    .await;

    assert_eq!(web.accepted(), 0, "a refused client reached a server");
    for cert in [good, lb.ca().leaf(CLIENT1).no_eku().build()] {
        let stream = lb.client_with(&cert).connect(lb.main()).await.unwrap();
        talk(stream).await.unwrap();
    }
    lb.quiet().await;
}

/// The root's CRL covers the intermediates that the root issued. The intermediates have no
/// CRLs of their own, so the status of the certificates that they issued is unknown, and
/// these certificates are refused.
async fn intermediate_without_crl_is_refused(records: Records) {
    let web = Upstream::named("web1").await;
    let site = Site::usual(&[&web]).records(records).listener(
        "unlisted",
        &["upstream = \"web\"", &TLS.replace(", crl = \"ca.crl\"", "")],
    );
    let below = site.ca.intermediate("below");
    let lb = site.start().await;
    let client = lb.client_with(&below.leaf(CLIENT1).build());
    assert_refused(
        &lb,
        client.clone(),
        "untrusted_certificate",
        Alert::UnknownCA,
    )
    .await;
    assert_eq!(web.accepted(), 0);
    let stream = client.connect(lb.address("unlisted")).await.unwrap();
    talk(stream).await.unwrap();
    lb.quiet().await;
}

/// In TLS 1.3 a client may send data before the server has verified its certificate.
async fn early_data_of_refused_clients_reaches_no_server(records: Records) {
    use tokio::io::AsyncWriteExt;
    let web = Upstream::named("web1").await;
    let lb = Site::usual(&[&web]).records(records).start().await;
    let stranger = TestCa::new("other").leaf(CLIENT1).build();
    let mut stream = lb
        .client_with(&stranger)
        .tls13()
        .connect(lb.main())
        .await
        .unwrap();
    // The balancer may have closed the socket already, so the write may fail.
    let _ = stream.write_all(&[0; 4096]).await;
    let error = leastconn_testkit::client::read_to_close(&mut stream)
        .await
        .unwrap_err();
    assert_eq!(alert(&error), Some(Alert::UnknownCA));
    assert_eq!(
        lb.expect_record(0, "untrusted_certificate").await["bytes_received"],
        0
    );
    assert_eq!(web.accepted(), 0);
    lb.quiet().await;
}

/// A certificate in `client_ca` that is not a CA must not be able to issue certificates.
/// rustls trusts every certificate in its root store, so the balancer must prevent this.
async fn client_certificate_in_client_ca_issues_nothing(records: Records) {
    let web = Upstream::named("web1").await;
    let site = Site::usual(&[&web]).records(records);
    let client = site.cert("client2");
    let authorities = site.ca.cert_pem() + &client.cert_pem;
    std::fs::write(site.dir.path().join("ca.crt"), authorities).unwrap();
    let lb = site.start().await;
    let forged = TestCa::from_leaf(&client).leaf(CLIENT1).build();
    let untrusted = "untrusted_certificate";
    let forged = lb.client_with(&forged);
    assert_refused(&lb, forged.clone(), untrusted, Alert::CertificateUnknown).await;
    assert_eq!(web.accepted(), 0);

    // After a reload of the files, the certificate must still not be able to issue others.
    let later = lb.ca().leaf("client3").build();
    let authorities = [lb.ca().cert_pem(), TestCa::new("more").cert_pem()].concat();
    let (new, path) = (lb.dir().join("ca.crt.new"), lb.dir().join("ca.crt"));
    std::fs::write(&new, authorities + &later.cert_pem).unwrap();
    std::fs::rename(new, path).unwrap();
    let loaded = |event: &serde_json::Value| event.to_string().contains("changed TLS files loaded");
    lb.wait_log(loaded, DEADLINE).await;
    let forged_later = TestCa::from_leaf(&later).leaf(CLIENT1).build();
    for client in [forged, lb.client_with(&forged_later)] {
        assert_refused(&lb, client, untrusted, Alert::CertificateUnknown).await;
    }
    talk(lb.client(CLIENT1).connect(lb.main()).await.unwrap())
        .await
        .unwrap();
    lb.quiet().await;
}

/// A verified chain is cached, but not beyond its own expiry or that of the CRLs.
async fn cached_verification_does_not_outlive_expiry(records: Records) {
    let web = Upstream::named("web1").await;
    let brief_list = TLS.replace("ca.crl", "brief.crl");
    let site = Site::usual(&[&web])
        .records(records)
        .listener("brief", &["upstream = \"web\"", &brief_list]);
    let brief = site.ca.leaf(CLIENT1).validity(-60, 5).build();
    let list = site.ca.crl_until(&[], 5);
    std::fs::write(site.dir.path().join("brief.crl"), list).unwrap();
    let lb = site.start().await;
    let lasting = lb.client(CLIENT1);
    let cases = [
        (
            "main",
            lb.client_with(&brief),
            "expired_certificate",
            Alert::CertificateExpired,
        ),
        ("brief", lasting.clone(), "crl_expired", Alert::UnknownCA),
    ];
    for (listener, client, ..) in &cases {
        let stream = client.connect(lb.address(listener)).await.unwrap();
        talk(stream).await.unwrap();
    }
    for (listener, client, outcome, expected) in cases {
        let addr = lb.address(listener);
        let alert = eventually_refused(&client, addr).await;
        assert_eq!(alert, Some(expected), "{outcome}");
        lb.wait_record(|record| record["outcome"] == outcome, DEADLINE)
            .await;
    }
    talk(lasting.connect(lb.main()).await.unwrap())
        .await
        .unwrap();
    lb.quiet().await;
}
