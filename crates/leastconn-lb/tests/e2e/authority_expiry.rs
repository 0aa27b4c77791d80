//! CA certificates that expire while the balancer runs.

use std::time::Duration;

use leastconn_testkit::client::{read_line, read_to_close, roundtrip};
use leastconn_testkit::{Behaviour, Cert, DEADLINE, TestCa, Upstream, eventually};
use rustls::AlertDescription as Alert;

use crate::support::tls_servers::Servers;
use crate::support::{CLIENT1, NO_PROBES, Running, Site, TLS, entries, eventually_refused, tcp};

const DAY: i64 = 86_400;

/// Starts a balancer whose `client_ca` holds `authorities`, without CRLs.
async fn start(web: &Upstream, authorities: &[&TestCa], line: &str) -> Running {
    let tls = TLS
        .replace(", crl = \"ca.crl\"", "")
        .replace("\"ca.crt\"", "\"clients.crt\"");
    let site = Site::new()
        .listener("main", &["upstream = \"web\"", line, &tls])
        .upstream("web", &[NO_PROBES], &entries(&[web]))
        .client("client1", &crate::support::cn(CLIENT1), "web", "");
    let bundle: String = authorities.iter().map(|ca| ca.cert_pem()).collect();
    std::fs::write(site.dir.path().join("clients.crt"), bundle).unwrap();
    site.start().await
}

/// Waits until a client is refused, and returns the record.
async fn refusal(lb: &Running, cert: &Cert) -> serde_json::Value {
    let alert = eventually_refused(&lb.client_with(cert), lb.main()).await;
    assert_eq!(alert, Some(Alert::CertificateExpired));
    let refused = |record: &serde_json::Value| {
        record["outcome"] == "expired_certificate" && record.get("server").is_none()
    };
    lb.wait_record(refused, DEADLINE).await
}

#[tokio::test]
async fn expired_authority_ends_its_clients() {
    let web = Upstream::named("web1").await;
    let (brief, other) = (
        TestCa::with_validity("brief", -DAY, 6),
        TestCa::with_validity("other", -DAY, 3 * DAY),
    );
    let lb = start(&web, &[&brief, &other], "").await;
    let cert = brief.leaf(CLIENT1).validity(-60, DAY).build();
    let mut open = lb.client_with(&cert).connect(lb.main()).await.unwrap();
    read_line(&mut open).await.unwrap();
    let of_other = other.leaf(CLIENT1).build();
    let mut stays = lb.client_with(&of_other).connect(lb.main()).await.unwrap();
    read_line(&mut stays).await.unwrap();

    let _ = read_to_close(&mut open).await;
    lb.wait_record(
        |record| record["outcome"] == "expired_certificate" && record["server"] == "web1",
        DEADLINE,
    )
    .await;
    let record = refusal(&lb, &cert).await;
    let detail = record["detail"].as_str().unwrap();
    assert!(
        detail.starts_with("the authority `CN=brief` above the client's certificate expired at "),
        "{detail}"
    );
    // The status shows the CA certificate that is still valid, not the expired one.
    let file = lb.dir().join("clients.crt").display().to_string();
    let (_, status) = lb.http_get("/api/v1/status").await;
    let status: serde_json::Value = serde_json::from_str(&status).unwrap();
    let entry = status["certificates"].as_array().unwrap().iter();
    let entry = entry.clone().find(|entry| entry["file"] == *file).unwrap();
    assert_eq!(entry["name"], "CN=other");
    assert_eq!(entry["days_left"], 2);
    assert_eq!(entry["expired"], serde_json::json!(["CN=brief"]));

    // Reloading an unchanged configuration changes nothing.
    assert_eq!(lb.reload(&lb.config()).await, "applied");
    assert_eq!(roundtrip(&mut stays, b"on").await.unwrap(), b"on");
    let before = lb.records().len();
    let _ = lb.client_with(&cert).tls12().connect(lb.main()).await;
    lb.expect_record(before, "expired_certificate").await;
    drop(stays);
    lb.quiet().await;
}

#[tokio::test]
async fn connections_may_outlive_their_authority() {
    let web = Upstream::named("web1").await;
    let brief = TestCa::with_validity("brief", -DAY, 6);
    let other = TestCa::with_validity("other", -DAY, DAY);
    let lb = start(&web, &[&brief, &other], "on_expiry = \"keep\"").await;
    let cert = brief.leaf(CLIENT1).validity(-60, DAY).build();
    let mut kept = lb.client_with(&cert).connect(lb.main()).await.unwrap();
    read_line(&mut kept).await.unwrap();
    refusal(&lb, &cert).await;
    // Nothing must happen to the connection. The balancer checks for expired certificates
    // every second, so it checks at least once during this sleep.
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(roundtrip(&mut kept, b"on").await.unwrap(), b"on");
    assert_eq!(lb.reload(&lb.config()).await, "applied");
    assert_eq!(roundtrip(&mut kept, b"on").await.unwrap(), b"on");
    drop(kept);
    lb.quiet().await;
}

#[tokio::test]
async fn expired_intermediate_ends_its_clients() {
    let web = Upstream::named("web1").await;
    let root = TestCa::new("root");
    let below = root.intermediate_with_validity("below", -DAY, 6);
    let lb = start(&web, &[&root], "").await;
    let cert = below.leaf(CLIENT1).validity(-60, DAY).build();
    let mut open = lb.client_with(&cert).connect(lb.main()).await.unwrap();
    read_line(&mut open).await.unwrap();
    let _ = read_to_close(&mut open).await;
    lb.expect_record(0, "expired_certificate").await;
    let record = refusal(&lb, &cert).await;
    let detail = record["detail"].as_str().unwrap();
    assert!(
        detail.starts_with("the intermediate `CN=below` that the client sent expired at "),
        "{detail}"
    );
    lb.quiet().await;
}

#[tokio::test]
async fn server_of_an_expired_authority_is_refused() {
    let servers = Servers {
        ca: TestCa::with_validity("brief", -DAY, 6),
    };
    let web = Upstream::start_tls(Behaviour::Named("web1".to_owned()), &servers.cert(), None).await;
    let tls = "tls = { ca = \"servers.crt\", server_name = \"web.internal\" }";
    let lines = [
        NO_PROBES,
        "passive = { max_fails = 0 }\nretry_for = \"0s\"",
        tls,
    ];
    let lb = servers.site(&lines, &entries(&[&web])).start().await;
    let mut stream = tcp(lb.address("plain")).await;
    assert_eq!(read_line(&mut stream).await.unwrap(), "web1");
    let refused = eventually(DEADLINE, || async {
        let mut stream = tcp(lb.address("plain")).await;
        match read_line(&mut stream).await.unwrap_or_default() {
            refused if refused.is_empty() => Ok(()),
            greeting => Err(greeting),
        }
    });
    refused.await.unwrap();
    let record = lb
        .wait_record(|record| record["outcome"] == "connect_failed", DEADLINE)
        .await;
    let detail = record["detail"].as_str().unwrap();
    assert!(
        detail.contains("the authority `CN=brief` above the server's certificate expired at "),
        "{detail}"
    );
    drop(stream);
    lb.quiet().await;
}
