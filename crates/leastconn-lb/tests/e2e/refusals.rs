//! The recent refusals in the API, and an access log that omits early handshake failures.

use std::process::Command;

use leastconn_testkit::client::read_to_close;
use leastconn_testkit::{DEADLINE, TestCa, TlsClient, Upstream, eventually};
use serde_json::Value;
use tokio::io::AsyncWriteExt;

use crate::support::{BIN, CLIENT1, Running, Site, refused, talk, tcp};

async fn list(lb: &Running, query: &str) -> Value {
    let (status, body) = lb.http_get(&format!("/api/v1/refusals{query}")).await;
    assert_eq!(status, 200, "{body}");
    serde_json::from_str(&body).unwrap()
}

#[tokio::test]
async fn refusals_show_identity_and_reason() {
    let web = Upstream::named("web1").await;
    let site = Site::usual(&[&web]).admin("socket = \"lb.sock\"");
    let stranger = site
        .ca
        .leaf("stranger")
        .dns("a.lb.com")
        .uri("https://x/y")
        .build();
    let lb = site.start().await;
    assert_eq!(list(&lb, "").await["total"], 0);

    talk(lb.client(CLIENT1).connect(lb.main()).await.unwrap())
        .await
        .unwrap();
    lb.expect_record(0, "ok").await;
    refused(&lb.client_with(&stranger), lb.main()).await;
    lb.expect_record(1, "unknown_client").await;
    let other = TestCa::new("another CA");
    let foreign = TlsClient::new(lb.ca(), Some(&other.leaf(CLIENT1).build()));
    refused(&foreign, lb.main()).await;
    lb.expect_record(2, "untrusted_certificate").await;
    let mut http = tcp(lb.main()).await;
    http.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let _ = read_to_close(&mut http).await;
    let source = http.local_addr().unwrap().to_string();
    lb.expect_record(3, "handshake_failed").await;

    let all = list(&lb, "").await;
    assert_eq!(all["total"], 3);
    let [http, untrusted, unknown] = &all["refusals"].as_array().unwrap()[..] else {
        panic!("{all}");
    };
    assert_eq!(http["outcome"], "handshake_failed");
    assert_eq!(http["source"], source);
    assert!(http["detail"].as_str().unwrap().contains("HTTP"), "{http}");
    assert_eq!(untrusted["outcome"], "untrusted_certificate");
    assert_eq!(untrusted["subject"], "CN=client1.lb.com");
    assert_eq!(untrusted["issuer"], "CN=another CA");
    assert_eq!(unknown["outcome"], "unknown_client");
    assert_eq!(unknown["listener"], "main");
    let names = serde_json::json!(["cn:stranger", "dns:a.lb.com", "uri:https://x/y"]);
    assert_eq!(unknown["names"], names);
    assert_eq!(
        unknown["serial"].as_str().unwrap().to_lowercase(),
        stranger.serial_hex
    );

    assert_eq!(
        list(&lb, "?limit=1").await["refusals"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
    assert_eq!(list(&lb, "?search=STRANGER").await["total"], 1);
    let latest = list(&lb, "?limit=0&latest=true").await["latest"].take();
    let codes = latest.as_array().unwrap().iter();
    let codes: Vec<_> = codes.map(|one| one["outcome"].as_str().unwrap()).collect();
    assert_eq!(
        codes,
        [
            "handshake_failed",
            "untrusted_certificate",
            "unknown_client"
        ]
    );
    let ctl = |args: &[&str]| {
        let mut ctl = Command::new(BIN);
        ctl.args(["ctl", "--socket"])
            .arg(lb.dir().join("lb.sock"))
            .args(args);
        let ended = ctl.output().unwrap();
        assert!(ended.status.success(), "{ended:?}");
        String::from_utf8(ended.stdout).unwrap()
    };
    let text = ctl(&["refusals"]);
    assert!(
        text.contains("unknown_client") && text.contains("cn:stranger"),
        "{text}"
    );
    let json: Value = serde_json::from_str(&ctl(&["refusals", "--json"])).unwrap();
    assert_eq!(json["total"], 3);
    lb.quiet().await;
}

#[tokio::test]
async fn access_filter_leaves_out_unidentified_clients() {
    let web = Upstream::named("web1").await;
    let site = Site::usual(&[&web]).log("access_filter = \"identified\"");
    let stranger = site.ca.leaf("stranger").build();
    let lb = site.start().await;
    // A port scan or a health check connects and sends no data.
    drop(tcp(lb.main()).await);
    let counted = eventually(DEADLINE, || async {
        let all = list(&lb, "").await;
        (all["total"] == 1)
            .then_some(())
            .ok_or(all)
            .map_err(|all| all.to_string())
    });
    counted.await.unwrap();
    // A refused client with a known identity is logged.
    refused(&lb.client_with(&stranger), lb.main()).await;
    lb.expect_record(0, "unknown_client").await;
    let all = lb.config().replace("\"identified\"", "\"all\"");
    assert_eq!(lb.reload(&all).await, "applied");
    drop(tcp(lb.main()).await);
    lb.expect_record(1, "handshake_failed").await;
    lb.quiet().await;
}
