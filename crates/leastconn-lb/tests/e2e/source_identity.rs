//! On listeners without TLS, the source network identifies a client. All addresses of an IPv6
//! /64 network are one client.

use leastconn_testkit::{
    Upstream,
    client::{read_line, read_to_close},
};
use tokio::net::TcpStream;

use crate::support::{NO_PROBES, Running, Site, connect_proxied, entries};

async fn start(web: &Upstream, lines: &str) -> Running {
    let lines = [
        "upstream = \"web\"",
        "proxy_protocol = \"required\"",
        "proxy_protocol_from = \"127.0.0.0/8\"",
        lines,
    ];
    Site::new()
        .listener("main", &lines)
        .upstream("web", &[NO_PROBES], &entries(&[web]))
        .client(
            "anyone",
            "source = [\"::/0\", \"0.0.0.0/0\"]",
            "web",
            "max_conns = 5",
        )
        .start()
        .await
}

/// Connects with a proxied address. Returns `None` if the connection was refused.
async fn connect_as(lb: &Running, source: &str) -> Option<TcpStream> {
    let mut stream = connect_proxied(lb.main(), source).await;
    if read_line(&mut stream)
        .await
        .is_ok_and(|line| !line.is_empty())
    {
        return Some(stream);
    }
    let _ = read_to_close(&mut stream).await;
    None
}

#[tokio::test]
async fn ipv6_network_is_one_client_of_a_plain_listener() {
    let web = Upstream::named("web1").await;
    let lb = start(&web, "").await;
    let mut held = Vec::new();
    for n in 1..=50 {
        let source = format!("2001:db8:0:1::{n:x}");
        if let Some(stream) = connect_as(&lb, &source).await {
            held.push(stream);
        } else {
            let record = lb.expect_record(n - 6, "too_many_connections").await;
            assert_eq!(record["source"], format!("[{source}]:4660"));
            assert_eq!(record["identity"], "source:2001:db8:0:1::/64");
        }
    }
    assert_eq!(held.len(), 5);
    // Another IPv6 network and other IPv4 addresses are different clients.
    for source in ["2001:db8:0:2::1", "192.0.2.1", "192.0.2.2"] {
        held.push(connect_as(&lb, source).await.unwrap());
    }
    drop(held);
    lb.wait_records(53).await;
    lb.quiet().await;
}

#[tokio::test]
async fn identity_has_the_prefixes_of_the_source_limit() {
    let web = Upstream::named("web1").await;
    let limit = "source_rate_limit = { rate = 1000, prefix_v4 = 24, prefix_v6 = 48 }";
    let lb = start(&web, limit).await;
    let mut held = Vec::new();
    for n in 1..=8 {
        held.extend(connect_as(&lb, &format!("192.0.2.{n}")).await);
        held.extend(connect_as(&lb, &format!("2001:db8:0:{n:x}::1")).await);
    }
    assert_eq!(held.len(), 10);
    for record in lb.wait_records(6).await {
        assert_eq!(record["outcome"], "too_many_connections", "{record}");
        let identity = record["identity"].as_str().unwrap();
        assert!(
            ["source:192.0.2.0/24", "source:2001:db8::/48"].contains(&identity),
            "{identity}"
        );
    }
    drop(held);
    lb.quiet().await;
}
