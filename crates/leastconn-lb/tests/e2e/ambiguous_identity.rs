//! Certificates that can be read in two ways are refused, even if one reading would match
//! a rule.

use leastconn_testkit::{Cert, Upstream, pki::LeafBuilder};

use crate::support::{CLIENT1, NO_PROBES, Running, Site, TLS, cn, entries, refused, talk};

async fn assert_ambiguous(lb: &Running, cert: &Cert) {
    let before = lb.records().len();
    // Rules are applied after the handshake, so the connection ends without an alert.
    assert_eq!(refused(&lb.client_with(cert), lb.main()).await, None);
    let record = lb.expect_record(before, "ambiguous_identity").await;
    assert!(record.get("client").is_none(), "{record}");
    // The record still identifies the certificate.
    assert_eq!(record["serial"], cert.serial_hex.to_uppercase(), "{record}");
    let certificate = &record["certificate"];
    assert_eq!(certificate["issuer"], "CN=test CA", "{record}");
    let subject = certificate["subject"].as_str().unwrap();
    assert!(!subject.contains(char::is_control), "{record}");
    assert!(certificate["not_after"].is_string(), "{record}");
}

async fn assert_all_ambiguous(make: impl Fn(LeafBuilder<'_>) -> Vec<Cert>) {
    let web = Upstream::named("web1").await;
    let lb = Site::usual(&[&web]).start().await;
    for cert in make(lb.ca().leaf(CLIENT1)) {
        assert_ambiguous(&lb, &cert).await;
    }
    assert_eq!(web.accepted(), 0);
    talk(lb.client(CLIENT1).connect(lb.main()).await.unwrap())
        .await
        .unwrap();
    lb.quiet().await;
}

#[tokio::test]
async fn several_common_names_are_refused() {
    assert_all_ambiguous(|leaf| {
        vec![
            leaf.clone().extra_cn("evil.lb.com").build(),
            leaf.clone().cn("evil.lb.com").extra_cn(CLIENT1).build(),
            leaf.clone().joined_cn("evil.lb.com").build(),
            leaf.clone().extra_cn(CLIENT1).build(),
        ]
    })
    .await;
}

#[tokio::test]
async fn control_characters_in_common_names_are_refused() {
    assert_all_ambiguous(|leaf| {
        let names: [&[u8]; 6] = [
            b"client1.lb.com\0.evil.example",
            b"client1.lb.com\n{\"outcome\":\"ok\"}",
            b"client1.lb.com\r",
            b"\x1b[2Jclient1.lb.com",
            b"client1.lb.com\x7f",
            b"client1.lb.com\xff\xfe",
        ];
        names
            .iter()
            .map(|name| leaf.clone().raw_cn_bytes(name).build())
            .collect()
    })
    .await;
}

#[tokio::test]
async fn control_characters_in_dns_names_are_refused() {
    let web = Upstream::named("web1").await;
    let lb = Site::new()
        .listener("main", &["upstream = \"web\"", TLS])
        .upstream("web", &[NO_PROBES], &entries(&[&web]))
        .client("by-dns", "dns = \"a.lb.com\"", "web", "")
        .client("client1", &cn(CLIENT1), "web", "")
        .start()
        .await;
    for name in ["a.lb.com\0.evil.example", "a.lb.com\n", "a.lb.com evil"] {
        let cert = lb.ca().leaf(CLIENT1).dns(name).build();
        let before = lb.records().len();
        let _ = refused(&lb.client_with(&cert), lb.main()).await;
        let outcome = &lb.wait_records(before + 1).await[before]["outcome"];
        // The TLS library may already reject such a name. Any outcome except "ok" is
        // correct.
        assert!(
            outcome == "ambiguous_identity" || outcome == "untrusted_certificate",
            "{name:?}: {outcome}"
        );
    }
    assert_eq!(web.accepted(), 0);
    lb.quiet().await;
}
