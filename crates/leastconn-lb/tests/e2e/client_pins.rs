//! Clients that are admitted by their public key, without an authority.

use leastconn_testkit::{Cert, Upstream};

use crate::support::{CLIENT1, NO_PROBES, Running, Site, TLS, cn, entries, refused, spki, talk};

fn pinned_only(pins: &[&Cert]) -> String {
    let pins: Vec<_> = pins
        .iter()
        .map(|cert| format!("{:?}", spki(cert)))
        .collect();
    format!(
        "tls = {{ cert = \"server.crt\", key = \"server.key\", client_pins = [{}] }}",
        pins.join(", ")
    )
}

/// Returns the outcome that `explain` predicts.
fn explained(lb: &Running, cert: &Cert) -> String {
    let path = lb.dir().join("explained.crt");
    std::fs::write(&path, &cert.cert_pem).unwrap();
    lb.explain(&path)["outcome"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn self_signed_client_is_admitted_by_its_key() {
    let web = Upstream::named("web1").await;
    let site = Site::new();
    let self_signed = |cn: &str| site.ca.leaf(cn).self_signed();
    let by_name = self_signed(CLIENT1).build();
    let by_key = self_signed("other.lb.com").rsa().build();
    let expired = self_signed(CLIENT1).validity(-7200, -3600).build();
    let stranger = self_signed(CLIENT1).build();
    let issued = site.ca.leaf(CLIENT1).build();
    let tls = pinned_only(&[&by_name, &by_key, &expired]);
    let lb = site
        .listener("main", &["upstream = \"web\"", &tls])
        .upstream("web", &[NO_PROBES], &entries(&[&web]))
        .client("client1", &cn(CLIENT1), "web", "")
        .client("key", &format!("spki = {:?}", spki(&by_key)), "web", "")
        .start()
        .await;
    let mut n = 0;
    for (cert, outcome, identity) in [
        (&by_name, "ok", format!("cn:{CLIENT1}")),
        (&by_key, "ok", format!("spki:{}", spki(&by_key))),
        (&expired, "expired_certificate", String::new()),
        (&stranger, "untrusted_certificate", String::new()),
        (&issued, "untrusted_certificate", String::new()),
    ] {
        assert_eq!(explained(&lb, cert), outcome);
        for client in [lb.client_with(cert).tls12(), lb.client_with(cert).tls13()] {
            if outcome == "ok" {
                talk(client.connect(lb.main()).await.unwrap())
                    .await
                    .unwrap();
            } else {
                assert!(refused(&client, lb.main()).await.is_some());
            }
            let record = lb.expect_record(n, outcome).await;
            n += 1;
            if outcome == "ok" {
                assert_eq!(record["identity"], identity.as_str(), "{record}");
                assert_eq!(record["serial"], cert.serial_hex.to_uppercase(), "{record}");
            }
        }
    }
    assert_eq!(web.accepted(), 4);
    lb.quiet().await;
}

#[tokio::test]
async fn removed_pin_ends_open_connections() {
    let web = Upstream::named("web1").await;
    let site = Site::new();
    let [kept, removed] = [(); 2].map(|()| site.ca.leaf(CLIENT1).self_signed().build());
    let tls = pinned_only(&[&kept, &removed]);
    let lb = site
        .listener("main", &["upstream = \"web\"", &tls])
        .upstream("web", &[NO_PROBES], &entries(&[&web]))
        .client("client1", &cn(CLIENT1), "web", "")
        .start()
        .await;
    let mut open = lb.client_with(&removed).connect(lb.main()).await.unwrap();
    leastconn_testkit::client::read_line(&mut open)
        .await
        .unwrap();
    let config = lb.config().replace(&tls, &pinned_only(&[&kept]));
    assert_eq!(lb.reload(&config).await, "applied");
    lb.expect_record(0, "untrusted_certificate").await;
    talk(lb.client_with(&kept).connect(lb.main()).await.unwrap())
        .await
        .unwrap();
    lb.expect_record(1, "ok").await;
    lb.quiet().await;
}

#[tokio::test]
async fn pin_does_not_override_revocation() {
    let web = Upstream::named("web1").await;
    let site = Site::new();
    let issued = site.ca.leaf(CLIENT1).build();
    let alone = site.ca.leaf(CLIENT1).self_signed().build();
    site.ca.write_crl(&site.dir, &[&issued]);
    let pins = format!("client_pins = [{:?}, {:?}]", spki(&issued), spki(&alone));
    let tls = TLS.replace(" }", &format!(", {pins} }}"));
    let lb = site
        .listener("main", &["upstream = \"web\"", &tls])
        .upstream("web", &[NO_PROBES], &entries(&[&web]))
        .client("client1", &cn(CLIENT1), "web", "")
        .start()
        .await;
    assert!(refused(&lb.client_with(&issued), lb.main()).await.is_some());
    lb.expect_record(0, "revoked_certificate").await;
    for cert in [alone, lb.ca().leaf(CLIENT1).build()] {
        talk(lb.client_with(&cert).connect(lb.main()).await.unwrap())
            .await
            .unwrap();
    }
    lb.quiet().await;
}
