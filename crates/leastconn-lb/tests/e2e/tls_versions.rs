//! TLS 1.2 and TLS 1.3, each with all cipher suites.

use std::sync::Arc;

use leastconn_testkit::{TestCa, Upstream};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::{AlertDescription, ClientConfig, RootCertStore, SupportedCipherSuite};
use tokio_rustls::TlsConnector;

use crate::support::{
    CLIENT1, NO_PROBES, Records, Site, TLS, both_record_layers, cn, entries, refused, talk, tcp,
};

both_record_layers! {
    #[tokio::test]
    both_versions_work_and_are_in_the_record,
    #[tokio::test]
    min_version_1_3_refuses_1_2,
    #[tokio::test]
    each_cipher_suite_works_alone,
}

async fn both_versions_work_and_are_in_the_record(records: Records) {
    let web = Upstream::named("web1").await;
    let site = Site::usual(&[&web]).records(records);
    let cert = site.cert(CLIENT1);
    let lb = site.start().await;
    let client = lb.client_with(&cert);
    for (n, (version, client)) in [("1.2", client.clone().tls12()), ("1.3", client.tls13())]
        .into_iter()
        .enumerate()
    {
        let stream = client.connect(lb.main()).await.unwrap();
        assert_eq!(talk(stream).await.unwrap(), "web1");
        let record = lb.expect_record(n, "ok").await;
        assert_eq!(record["tls_version"], version);
        assert!(record["cipher"].as_str().unwrap().starts_with("TLS_"));
        assert_eq!(record["identity"], "cn:client1.lb.com");
        assert_eq!(record["client"], "client1");
        let serial = record["serial"].as_str().unwrap().to_lowercase();
        assert_eq!(serial, cert.serial_hex);
    }
    lb.quiet().await;
}

async fn min_version_1_3_refuses_1_2(records: Records) {
    let web = Upstream::named("web1").await;
    let tls = TLS.replace(" }", ", min_version = \"1.3\" }");
    let lb = Site::new()
        .records(records)
        .listener("main", &["upstream = \"web\"", &tls])
        .upstream("web", &[NO_PROBES], &entries(&[&web]))
        .client("client1", &cn(CLIENT1), "web", "")
        .start()
        .await;
    let client = lb.client(CLIENT1);
    let alert = refused(&client.clone().tls12(), lb.main()).await;
    assert_eq!(alert, Some(AlertDescription::ProtocolVersion));
    lb.expect_record(0, "handshake_failed").await;
    assert_eq!(web.accepted(), 0);
    talk(client.tls13().connect(lb.main()).await.unwrap())
        .await
        .unwrap();
    lb.expect_record(1, "ok").await;
    lb.quiet().await;
}

/// The six cipher suites of TLS 1.2 and the three of TLS 1.3.
const SUITES: [&str; 9] = [
    "TLS_AES_128_GCM_SHA256",
    "TLS_AES_256_GCM_SHA384",
    "TLS_CHACHA20_POLY1305_SHA256",
    "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
    "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384",
    "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256",
    "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
    "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384",
    "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256",
];

async fn each_cipher_suite_works_alone(records: Records) {
    let web = Upstream::named("web1").await;
    let site = Site::usual(&[&web]).records(records).listener(
        "rsa",
        &["upstream = \"web\"", &TLS.replace("server.", "rsa.")],
    );
    let rsa = site.ca.leaf("localhost").dns("localhost").rsa().build();
    rsa.write(&site.dir, "rsa");
    let cert = site.cert(CLIENT1);
    let lb = site.start().await;
    let mut seen = Vec::new();
    for (n, suite) in aws_lc_rs::ALL_CIPHER_SUITES.iter().enumerate() {
        let name = format!("{:?}", suite.suite()).replace("TLS13_", "TLS_");
        let listener = if name.contains("_RSA_") {
            "rsa"
        } else {
            "main"
        };
        let connector = TlsConnector::from(single_suite(lb.ca(), &cert, *suite));
        let socket = tcp(lb.address(listener)).await;
        let stream = connector
            .connect("localhost".try_into().unwrap(), socket)
            .await
            .unwrap_or_else(|e| panic!("{name}: {e}"));
        talk(stream).await.unwrap();
        assert_eq!(lb.expect_record(n, "ok").await["cipher"], *name);
        seen.push(name);
    }
    seen.sort();
    assert_eq!(seen, SUITES);
    lb.quiet().await;
}

fn single_suite(
    ca: &TestCa,
    cert: &leastconn_testkit::Cert,
    suite: SupportedCipherSuite,
) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(ca.cert().der().clone()).unwrap();
    let provider = CryptoProvider {
        cipher_suites: vec![suite],
        ..aws_lc_rs::default_provider()
    };
    let config = ClientConfig::builder_with_provider(provider.into())
        .with_protocol_versions(&[suite.version()])
        .unwrap()
        .with_root_certificates(roots)
        .with_client_auth_cert(cert.chain_der.clone(), cert.key_der.clone_key())
        .unwrap();
    Arc::new(config)
}
