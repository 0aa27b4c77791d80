//! Key exchange groups and cipher suites: `groups` and `ciphers` of `tls`.

use std::sync::Arc;

use leastconn_testkit::{Behaviour, Cert, TestCa, Upstream};
use rustls::crypto::aws_lc_rs::{self, kx_group};
use rustls::crypto::{CryptoProvider, SupportedKxGroup};
use rustls::{ClientConfig, NamedGroup, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::support::{
    CLIENT1, NO_PROBES, Records, Running, Site, TLS, both_record_layers, cn, entries, talk, tcp,
};

both_record_layers! {
    #[tokio::test]
    post_quantum_group_is_preferred,
    #[tokio::test]
    configured_groups_and_ciphers_are_used,
}

fn config(ca: &TestCa, cert: &Cert, groups: &[&'static dyn SupportedKxGroup]) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(ca.cert().der().clone()).unwrap();
    let provider = CryptoProvider {
        kx_groups: groups.to_vec(),
        ..aws_lc_rs::default_provider()
    };
    ClientConfig::builder_with_provider(provider.into())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_client_auth_cert(cert.chain_der.clone(), cert.key_der.clone_key())
        .unwrap()
}

async fn connect(config: ClientConfig, lb: &Running) -> TlsStream<TcpStream> {
    let name = "localhost".try_into().unwrap();
    let connector = TlsConnector::from(Arc::new(config));
    connector.connect(name, tcp(lb.main()).await).await.unwrap()
}

fn group(stream: &TlsStream<TcpStream>) -> NamedGroup {
    let session = stream.get_ref().1;
    session.negotiated_key_exchange_group().unwrap().name()
}

async fn post_quantum_group_is_preferred(records: Records) {
    let web = Upstream::named("web1").await;
    let site = Site::usual(&[&web]).records(records);
    let cert = site.cert(CLIENT1);
    let lb = site.start().await;
    let (hybrid, classic) = (kx_group::X25519MLKEM768, kx_group::X25519);
    for (offered, expected) in [
        (&[hybrid, classic][..], NamedGroup::X25519MLKEM768),
        // The balancer chooses the hybrid group even if the client prefers X25519 and sent no
        // hybrid key share.
        (&[classic, hybrid], NamedGroup::X25519MLKEM768),
        (&[classic], NamedGroup::X25519),
        (
            &[kx_group::SECP384R1, kx_group::SECP256R1],
            NamedGroup::secp256r1,
        ),
        (&[kx_group::SECP384R1], NamedGroup::secp384r1),
    ] {
        let stream = connect(config(lb.ca(), &cert, offered), &lb).await;
        assert_eq!(group(&stream), expected, "{offered:?}");
        assert_eq!(talk(stream).await.unwrap(), "web1");
    }
    lb.quiet().await;
}

async fn configured_groups_and_ciphers_are_used(records: Records) {
    let web = Upstream::start(Behaviour::Named("web1".to_owned())).await;
    let algorithms = ", groups = [\"P-384\", \"X25519\"], \
         ciphers = [\"TLS_CHACHA20_POLY1305_SHA256\", \"ECDHE-ECDSA-AES256-GCM-SHA384\"] }";
    let tls = TLS.replace(" }", algorithms);
    let site = Site::new()
        .records(records)
        .listener("main", &["upstream = \"web\"", &tls])
        .upstream("web", &[NO_PROBES], &entries(&[&web]))
        .client("client1", &cn(CLIENT1), "web", "");
    let cert = site.cert(CLIENT1);
    let lb = site.start().await;
    let all = aws_lc_rs::ALL_KX_GROUPS;
    let stream = connect(config(lb.ca(), &cert, all), &lb).await;
    assert_eq!(group(&stream), NamedGroup::secp384r1);
    talk(stream).await.unwrap();
    let record = lb.expect_record(0, "ok").await;
    assert_eq!(record["cipher"], "TLS_CHACHA20_POLY1305_SHA256");
    let client = lb.client_with(&cert).tls12();
    talk(client.connect(lb.main()).await.unwrap())
        .await
        .unwrap();
    let record = lb.expect_record(1, "ok").await;
    assert_eq!(record["cipher"], "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384");
    lb.quiet().await;
}
