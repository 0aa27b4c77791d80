//! The files of `[[upstream]] tls` are reloaded when they change, for connections and
//! health checks.

use std::fs;

use leastconn_testkit::client::{read_line, read_to_close, roundtrip};
use leastconn_testkit::{Behaviour, DEADLINE, TestCa, Upstream};
use rustls::version::TLS13;
use tokio::io::AsyncWriteExt;

use crate::support::tls_servers::{MUTUAL, Servers};
use crate::support::{entry, tcp};

const CHECK: &str =
    r#"health_check = { type = "tcp", interval = "100ms", timeout = "4s", rise = 1, fall = 1 }"#;

const UP: &str = r#"leastconn_server_up{upstream="web",server="web1"}"#;

#[tokio::test]
async fn new_upstream_authority_is_used_without_reload() {
    let servers = Servers::new();
    let renewed = TestCa::new("renewed CA of servers");
    let new_cert = renewed.leaf("web").dns("web.internal").build();
    let named = Behaviour::Named("web1".to_owned());
    let old = servers.mutual(named.clone(), &TLS13).await;
    // The first `ca` does not cover the certificate of this server.
    let web2 = Upstream::start_tls_versions(named, &new_cert, Some(&servers.ca), &[&TLS13]).await;
    let lb = servers
        .site(
            &[CHECK, MUTUAL],
            &[
                entry("web1", old.addr(), ""),
                entry("web2", web2.addr(), ""),
            ],
        )
        .start()
        .await;
    let up2 = r#"leastconn_server_up{upstream="web",server="web2"}"#;
    lb.wait_metric(up2, 0.0, DEADLINE).await;
    let mut open = tcp(lb.address("plain")).await;
    assert_eq!(read_line(&mut open).await.unwrap(), "web1");

    let both = servers.ca.cert_pem() + &renewed.cert_pem();
    let file = lb.dir().join("servers.crt");
    let outcome = lb.reloading(|| fs::write(&file, both).unwrap()).await;
    assert_eq!(outcome, "applied");
    // Health checks and connections use the new CA.
    lb.wait_metric(up2, 1.0, DEADLINE).await;
    lb.wait_metric(UP, 1.0, DEADLINE).await;
    let mut second = tcp(lb.address("plain")).await;
    read_line(&mut second).await.unwrap();
    lb.wait_metric(
        r#"leastconn_server_connections_active{upstream="web",server="web2"}"#,
        1.0,
        DEADLINE,
    )
    .await;
    // The open connection is not affected.
    assert_eq!(roundtrip(&mut open, b"on").await.unwrap(), b"on");
    for mut stream in [open, second] {
        stream.shutdown().await.unwrap();
        read_to_close(&mut stream).await.unwrap();
    }
    lb.quiet().await;
}

#[tokio::test]
async fn invalid_upstream_file_keeps_the_old_one() {
    let servers = Servers::new();
    let web = servers
        .mutual(Behaviour::Named("web1".to_owned()), &TLS13)
        .await;
    let lb = servers
        .site(&[CHECK, MUTUAL], &[entry("web1", web.addr(), "")])
        .start()
        .await;
    lb.wait_metric(UP, 1.0, DEADLINE).await;
    let pem = servers.ca.cert_pem();
    let file = lb.dir().join("servers.crt");
    let half = &pem[..pem.len() / 2];
    assert_eq!(
        lb.reloading(|| fs::write(&file, half).unwrap()).await,
        "rejected"
    );
    lb.wait_log(
        |event| {
            let message = event["fields"]["message"].as_str().unwrap_or_default();
            event["level"] == "ERROR"
                && message.contains("servers.crt")
                && message.contains("upstream `web`")
        },
        DEADLINE,
    )
    .await;
    let mut stream = tcp(lb.address("plain")).await;
    assert_eq!(read_line(&mut stream).await.unwrap(), "web1");
    stream.shutdown().await.unwrap();
    read_to_close(&mut stream).await.unwrap();
    lb.quiet().await;
}
