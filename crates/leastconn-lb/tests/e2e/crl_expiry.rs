//! A CRL that expires while the balancer runs.

use std::process::Command;

use leastconn_testkit::client::{read_line, roundtrip};
use leastconn_testkit::{DEADLINE, TestCa, Upstream, eventually};
use rustls::AlertDescription as Alert;
use serde_json::Value;

use crate::ctl::{SOCKET, ctl};
use crate::support::upgrading::message;
use crate::support::{BIN, CLIENT1, Site, eventually_refused, refused};

#[tokio::test]
async fn expired_crl_is_reported_everywhere() {
    let web = Upstream::named("web1").await;
    let site = Site::usual(&[&web]);
    let list = site.ca.crl_builder().number(1).validity(-3600, 7).pem();
    std::fs::write(site.dir.path().join("ca.crl"), list).unwrap();
    let lb = site.start().await;
    assert!(
        lb.stderr().contains("the CRL of `CN=test CA` expires at "),
        "{}",
        lb.stderr()
    );
    let mut open = lb.client(CLIENT1).connect(lb.main()).await.unwrap();
    read_line(&mut open).await.unwrap();

    let alert = eventually_refused(&lb.client(CLIENT1), lb.main()).await;
    assert_eq!(alert, Some(Alert::UnknownCA));
    let record = lb
        .wait_record(|record| record["outcome"] == "crl_expired", DEADLINE)
        .await;
    let detail = record["detail"].as_str().unwrap();
    assert!(
        detail.starts_with("the CRL of `CN=test CA` in \"ca.crl\" expired at "),
        "{detail}"
    );
    lb.wait_log(|line| message(line).starts_with("CRL expired"), DEADLINE)
        .await;
    assert_eq!(
        roundtrip(&mut open, b"on").await.unwrap(),
        b"on",
        "the open connection was closed"
    );
    assert_eq!(lb.http_get("/readyz").await.0, 200);
    let (_, status) = lb.http_get("/api/v1/status").await;
    let status: Value = serde_json::from_str(&status).unwrap();
    let lists = status["certificates"].as_array().unwrap().iter();
    let list: Vec<_> = lists.filter(|entry| entry["kind"] == "crl").collect();
    assert_eq!(list.len(), 1);
    assert_eq!(
        (&list[0]["state"], &list[0]["name"]),
        (&"expired".into(), &"CN=test CA".into())
    );
    assert!(
        status["connections"]["outcomes"]["crl_expired"]
            .as_u64()
            .unwrap()
            > 0
    );
    lb.wait_metric("leastconn_ready", 1.0, DEADLINE).await;

    // `explain` runs as another process, which reads the expired CRL from its file.
    let (cert, _) = lb.ca().leaf(CLIENT1).build().write(lb.dir(), "asked");
    let explained = Command::new(BIN)
        .current_dir(lb.dir())
        .args(["explain", "--config", "leastconn.toml", "--cert"])
        .arg(cert)
        .output()
        .unwrap();
    let output = String::from_utf8(explained.stdout).unwrap();
    assert!(
        output.contains("crl_expired: the CRL of `CN=test CA`"),
        "{output}"
    );

    // A new CRL is loaded without a reload.
    lb.ca().write_crl(lb.dir(), &[]);
    let admitted = eventually(DEADLINE, || async {
        let stream = lb.client(CLIENT1).tls12().connect(lb.main()).await;
        stream.map(drop).map_err(|error| error.to_string())
    });
    admitted.await.unwrap();
    drop(open);
    lb.quiet().await;
}

#[tokio::test]
async fn expired_crl_does_not_block_other_issuers() {
    let web = Upstream::named("web1").await;
    let site = Site::usual(&[&web]);
    let other = TestCa::new("other CA");
    let authorities = site.ca.cert_pem() + &other.cert_pem();
    std::fs::write(site.dir.path().join("ca.crt"), authorities).unwrap();
    let path = site.dir.path().join("ca.crl");
    let expiring = other.crl_builder().validity(-3600, 5).pem();
    std::fs::write(&path, site.ca.crl_builder().number(1).pem() + &expiring).unwrap();
    let lb = site.start().await;
    let [first, second] = ["a", "b"].map(|_| lb.ca().leaf(CLIENT1).build());
    let expired = |line: &Value| line.to_string().contains("CRL expired");
    lb.wait_log(expired, DEADLINE).await;

    let lists = lb.ca().crl_builder().number(2).revoke(&first).pem() + &expiring;
    let loaded = lb.reloading(|| std::fs::write(&path, lists).unwrap());
    assert_eq!(loaded.await, "applied");
    refused(&lb.client_with(&first), lb.main()).await;
    lb.expect_record(0, "revoked_certificate").await;
    refused(&lb.client_with(&other.leaf(CLIENT1).build()), lb.main()).await;
    lb.expect_record(1, "crl_expired").await;

    let lists = lb.ca().crl_builder().number(3).revoke(&second).pem() + &expiring;
    std::fs::write(&path, lists).unwrap();
    assert_eq!(lb.reload(&lb.config()).await, "applied");
    refused(&lb.client_with(&second), lb.main()).await;
    lb.expect_record(2, "revoked_certificate").await;
    lb.quiet().await;
}

/// Two of three hours are left: the CRL is not in the last quarter of its validity period.
#[tokio::test]
async fn status_names_the_first_file_to_expire() {
    let web = Upstream::named("web1").await;
    let site = Site::usual(&[&web]).admin(SOCKET);
    let list = site.ca.crl_builder().number(1).validity(-3600, 7200).pem();
    std::fs::write(site.dir.path().join("ca.crl"), list).unwrap();
    let lb = site.start().await;
    let status = ctl(&lb, &["status"]).await.ok();
    let mut lines = status.lines();
    let is_named = |line: &str| {
        line.starts_with("certificates   none expires soon; the first to expire is ")
            && line.contains("ca.crl at 2")
            && line.ends_with(", in less than a day")
    };
    assert!(lines.any(is_named), "{status}");

    // In the last quarter, all places agree.
    let list = lb.ca().crl_builder().number(2).validity(-9000, 1800).pem();
    lb.reloading(|| std::fs::write(lb.dir().join("ca.crl"), list).unwrap())
        .await;
    let status = ctl(&lb, &["status"]).await.ok();
    assert!(
        status.contains("ca.crl (CN=test CA) expires in less than a day, at 2"),
        "{status}"
    );
    let json = ctl(&lb, &["status", "--json"]).await.ok();
    assert!(json.contains("\"state\": \"expires_soon\""), "{json}");
    let checked = Command::new(BIN)
        .args(["check", "--config", "leastconn.toml"])
        .current_dir(lb.dir())
        .output()
        .unwrap();
    let warnings = String::from_utf8(checked.stderr).unwrap();
    assert!(
        warnings.contains("the CRL of `CN=test CA` expires at"),
        "{warnings}"
    );
    lb.quiet().await;
}
