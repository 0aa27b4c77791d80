//! The record of a failed handshake describes the client: the rejected certificate, TLS
//! versions, names, alerts, and an explanation of the failure.

use leastconn_testkit::{Cert, TestCa, TlsClient, Upstream, client::read_to_close};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;

use crate::support::{CLIENT1, Records, Running, Site, both_record_layers, refused, tcp};

both_record_layers! {
    #[tokio::test]
    rejected_certificate_is_logged,
    #[tokio::test]
    alert_from_a_distrusting_client_is_logged,
    #[tokio::test]
    outdated_client_gets_an_alert_and_a_record,
    #[tokio::test]
    certificate_cannot_forge_or_flood_log_lines,
}

async fn record_with_detail(lb: &Running, n: usize, outcome: &str, text: &str) -> Value {
    let record = lb.expect_record(n, outcome).await;
    let detail = record["detail"].as_str().unwrap();
    assert!(detail.contains(text), "{record}");
    record
}

/// A certificate that must be rejected, and the expected fields of its access record.
struct Rejection {
    cert: Cert,
    outcome: &'static str,
    alert: &'static str,
    /// Text that the detail must contain.
    detail: &'static str,
    issuer: &'static str,
    subject: &'static str,
}

/// Returns one case for each reason of a rejection, except for revocation.
fn rejections(ca: &TestCa) -> Vec<Rejection> {
    let untrusted = |cert, alert, detail| Rejection {
        cert,
        outcome: "untrusted_certificate",
        alert,
        detail,
        issuer: "CN=test CA",
        subject: "CN=client1.lb.com",
    };
    let leaf = ca.leaf(CLIENT1).build();
    // Another CA with the same name.
    let namesake = TestCa::new("test CA");
    vec![
        untrusted(
            ca.leaf(CLIENT1).version_1().build(),
            "certificate_unknown",
            "is of X.509 version 1, which is not supported: issue it again with extensions",
        ),
        Rejection {
            issuer: "CN=client1.lb.com",
            ..untrusted(
                TestCa::from_leaf(&leaf).leaf(CLIENT1).build(),
                "certificate_unknown",
                "was issued by a certificate that is not a CA",
            )
        },
        Rejection {
            subject: "CN=test CA",
            ..untrusted(
                ca.cert().clone(),
                "certificate_unknown",
                "is a CA certificate (CA:TRUE): issue one with CA:FALSE",
            )
        },
        Rejection {
            issuer: "CN=some other CA",
            subject: "CN=intruder",
            ..untrusted(
                TestCa::new("some other CA").leaf("intruder").build(),
                "unknown_ca",
                "its issuer is `CN=some other CA`, and `client_ca` has `CN=test CA`",
            )
        },
        untrusted(
            namesake.leaf(CLIENT1).build(),
            "decrypt_error",
            "another CA with the same name signed it",
        ),
        Rejection {
            subject: "CN=test CA",
            ..untrusted(
                namesake.cert().clone(),
                "certificate_unknown",
                "names the authority `CN=test CA` of `client_ca` as its issuer",
            )
        },
        Rejection {
            issuer: "CN=client1.lb.com",
            ..untrusted(
                ca.leaf(CLIENT1).self_signed().build(),
                "unknown_ca",
                "it is self-signed (`CN=client1.lb.com`); issue one with a CA of `client_ca`",
            )
        },
        untrusted(
            ca.leaf(CLIENT1).eku_server_only().build(),
            "unsupported_certificate",
            "clientAuth",
        ),
        Rejection {
            outcome: "expired_certificate",
            ..untrusted(
                ca.leaf(CLIENT1).validity(-7200, -3600).build(),
                "certificate_expired",
                "was valid until",
            )
        },
    ]
}

impl Rejection {
    /// Connects with the certificate, and checks record number `n`.
    async fn assert_logged(&self, lb: &Running, n: usize, client: &TlsClient, version: &str) {
        refused(client, lb.main()).await.unwrap();
        let record = record_with_detail(lb, n, self.outcome, self.detail).await;
        let serial = self.cert.serial_hex.to_uppercase();
        assert_eq!(record["serial"], serial, "{record}");
        assert_eq!(record["certificate"]["issuer"], self.issuer, "{record}");
        assert_eq!(record["certificate"]["subject"], self.subject, "{record}");
        assert!(record["certificate"]["not_after"].is_string(), "{record}");
        assert_eq!(record["alert_sent"], self.alert, "{record}");
        assert_eq!(record["tls_version"], version, "{record}");
        assert_eq!(record["sni"], "localhost", "{record}");
    }
}

async fn rejected_certificate_is_logged(records: Records) {
    let web = Upstream::named("web1").await;
    let site = Site::usual(&[&web]).records(records);
    let mut cases = rejections(&site.ca);
    cases.push(Rejection {
        cert: site.ca.leaf(CLIENT1).ou("sales").build(),
        outcome: "revoked_certificate",
        alert: "certificate_revoked",
        detail: "revoked",
        issuer: "CN=test CA",
        subject: "CN=client1.lb.com, OU=sales",
    });
    let revoked = &cases.last().unwrap().cert;
    site.ca.write_crl(&site.dir, &[revoked]);
    let lb = site.start().await;
    let mut n = 0;
    for case in &cases {
        let client = lb.client_with(&case.cert);
        for (version, client) in [("1.2", client.clone().tls12()), ("1.3", client.tls13())] {
            case.assert_logged(&lb, n, &client, version).await;
            n += 1;
        }
    }
    let anonymous = TlsClient::new(lb.ca(), None);
    refused(&anonymous, lb.main()).await.unwrap();
    let record = record_with_detail(&lb, n, "no_certificate", "no certificate").await;
    assert_eq!(record["alert_sent"], "certificate_required", "{record}");
    assert_eq!(record.get("certificate"), None, "{record}");
    // Later records contain no fields of the rejected certificates.
    let stream = lb.client(CLIENT1).connect(lb.main()).await.unwrap();
    crate::support::talk(stream).await.unwrap();
    let record = lb.expect_record(n + 1, "ok").await;
    assert_eq!(record.get("certificate"), None, "{record}");
    assert_eq!(web.accepted(), 1);
    lb.quiet().await;
}

async fn alert_from_a_distrusting_client_is_logged(records: Records) {
    let web = Upstream::named("web1").await;
    let lb = Site::usual(&[&web]).records(records).start().await;
    let cert = lb.ca().leaf(CLIENT1).build();
    let distrusting = TlsClient::new(&TestCa::new("trusted by the client"), Some(&cert));
    for (n, client) in [distrusting.clone().tls12(), distrusting.tls13()]
        .into_iter()
        .enumerate()
    {
        assert!(client.connect(lb.main()).await.is_err());
        let text = "the client does not trust our certificate";
        let record = record_with_detail(&lb, n, "handshake_failed", text).await;
        assert_eq!(record["alert_received"], "unknown_ca", "{record}");
    }
    // The server's certificate does not cover the requested name.
    let client = lb.client_with(&cert);
    assert!(
        client
            .connect_sni(lb.main(), "elsewhere.example")
            .await
            .is_err()
    );
    let record = record_with_detail(
        &lb,
        2,
        "handshake_failed",
        "does not contain the requested name",
    )
    .await;
    assert_eq!(record["alert_received"], "bad_certificate", "{record}");
    assert_eq!(record["sni"], "elsewhere.example", "{record}");
    assert_eq!(web.accepted(), 0);
    lb.quiet().await;
}

async fn outdated_client_gets_an_alert_and_a_record(records: Records) {
    let web = Upstream::named("web1").await;
    let lb = Site::usual(&[&web]).records(records).start().await;
    // A ClientHello of TLS 1.1: random, no session ID, one cipher suite, no compression, no
    // extensions.
    let body = [&[3, 2][..], &[7; 32], &[0, 0, 2, 0xc0, 0x2b, 1, 0, 0, 0]].concat();
    let length = u8::try_from(body.len()).unwrap();
    let hello = [&[22, 3, 1, 0, length + 4, 1, 0, 0, length][..], &body].concat();
    let mut socket = tcp(lb.main()).await;
    socket.write_all(&hello).await.unwrap();
    let answer = read_to_close(&mut socket).await.unwrap();
    // The answer is a fatal `handshake_failure` alert.
    assert_eq!(answer, [21, 3, 3, 0, 2, 2, 40]);
    let text = "the client offers TLS 1.1 and nothing newer";
    let record = record_with_detail(&lb, 0, "handshake_failed", text).await;
    assert_eq!(record["tls_offered"], json!(["1.1"]), "{record}");
    assert_eq!(record["alert_sent"], "handshake_failure", "{record}");
    lb.quiet().await;
}

async fn certificate_cannot_forge_or_flood_log_lines(records: Records) {
    let web = Upstream::named("web1").await;
    let lb = Site::usual(&[&web]).records(records).start().await;
    let other = TestCa::new("other CA");
    let forging = "x\"}\n{\"outcome\":\"ok\",\"a\":\"\u{202e}\u{1b}[2J";
    let cert = other.leaf(forging).ou(&"y".repeat(10_000)).build();
    refused(&lb.client_with(&cert), lb.main()).await.unwrap();
    let record = lb.expect_record(0, "untrusted_certificate").await;
    let subject = record["certificate"]["subject"].as_str().unwrap();
    assert!(subject.chars().count() < 350, "{subject}");
    for deceptive in ['\n', '\u{202e}', '\u{1b}'] {
        assert!(!subject.contains(deceptive), "{subject}");
    }
    assert_eq!(lb.records().len(), 1);
    lb.quiet().await;
}
