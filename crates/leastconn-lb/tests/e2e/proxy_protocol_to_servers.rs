//! The balancer sends a PROXY header with the client's address to the server, before all
//! other bytes.

use leastconn_testkit::{
    Behaviour, DEADLINE, TlsClient, Upstream,
    client::{read_line, read_to_close, roundtrip},
    proxy::Prefixed,
};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};

use crate::support::{
    CLIENT1, NO_PROBES, Records, Site, TLS, both_record_layers, cn, entries, entry,
    refusing_address, tcp,
};

both_record_layers! {
    #[tokio::test]
    tls_details_of_the_client_are_sent,
    #[tokio::test]
    resumed_session_sends_the_original_certificate,
    #[tokio::test]
    second_balancer_forwards_the_original_source,
}

async fn server() -> Upstream {
    Upstream::start(Behaviour::ProxyHeader).await
}

/// Exchanges data, closes the connection cleanly, and returns the line in which the server reports
/// the header.
async fn reported_header<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S) -> String {
    let line = read_line(&mut stream).await.unwrap();
    let sent = b"and the client's own bytes";
    assert_eq!(roundtrip(&mut stream, sent).await.unwrap(), sent);
    stream.shutdown().await.unwrap();
    assert!(read_to_close(&mut stream).await.unwrap().is_empty());
    line
}

fn plain(version: &str, servers: &[String]) -> Site {
    let header = format!("proxy_protocol = \"{version}\"");
    Site::new()
        .listener("main", &["upstream = \"web\""])
        .upstream("web", &[NO_PROBES, &header], servers)
        .client("local", "source = \"127.0.0.0/8\"", "web", "")
}

#[tokio::test]
async fn plain_connection_sends_both_addresses() {
    let web = server().await;
    for (word, version) in [("v1", "v1"), ("v2", "v2"), ("v2-tls", "v2")] {
        let lb = plain(word, &entries(&[&web])).start().await;
        let stream = tcp(lb.main()).await;
        let client = stream.local_addr().unwrap();
        let expected = format!("{version} {client} {}", lb.main());
        assert_eq!(reported_header(stream).await, expected);
        // The header does not count as data from the client.
        let record = lb.expect_record(0, "ok").await;
        assert_eq!(record["bytes_received"], 26, "{record}");
        lb.quiet().await;
    }
    // Without `proxy_protocol`, no header is sent.
    let lb = plain("off", &entries(&[&web])).start().await;
    let mut stream = tcp(lb.main()).await;
    stream.write_all(b"not a header at all\r\n").await.unwrap();
    let line = read_line(&mut stream).await.unwrap();
    assert!(line.starts_with("no header"), "{line}");
    drop(stream);
    lb.wait_records(1).await;
    lb.quiet().await;
}

#[tokio::test]
async fn ipv6_addresses_are_sent() {
    let web = server().await;
    for version in ["v1", "v2"] {
        let header = format!("proxy_protocol = \"{version}\"");
        let lb = Site::new()
            .listener("main", &["bind = \"[::1]:0\"", "upstream = \"web\""])
            .upstream("web", &[NO_PROBES, &header], &entries(&[&web]))
            .client("local", "source = \"::1\"", "web", "")
            .start()
            .await;
        let stream = tcp(lb.main()).await;
        let expected = format!("{version} {} {}", stream.local_addr().unwrap(), lb.main());
        assert_eq!(reported_header(stream).await, expected);
        lb.expect_record(0, "ok").await;
        lb.quiet().await;
    }
}

fn hex(text: &str) -> String {
    text.bytes().map(|byte| format!("{byte:02x}")).collect()
}

/// Encodes a TLV of a header in hexadecimal.
fn tlv(kind: u8, value: &str) -> String {
    format!("{kind:02x}{:04x}{}", value.len(), hex(value))
}

async fn tls_details_of_the_client_are_sent(records: Records) {
    let web = server().await;
    let lb = Site::new()
        .records(records)
        .listener("main", &["upstream = \"web\"", TLS])
        .listener(
            "anonymous",
            &[
                "upstream = \"web\"",
                "tls = { cert = \"server.crt\", key = \"server.key\", client_auth = \"none\" }",
            ],
        )
        .upstream(
            "web",
            &[NO_PROBES, "proxy_protocol = \"v2-tls\""],
            &entries(&[&web]),
        )
        .client("client1", &cn(CLIENT1), "web", "")
        .client("local", "source = \"127.0.0.1\"", "web", "")
        .start()
        .await;
    let with = "0700000000";
    let without = "0100000001";
    let certificate = lb.client(CLIENT1);
    let anonymous = TlsClient::new(lb.ca(), None);
    let v13 = format!(
        "{}{}",
        tlv(0x21, "TLSv1.3"),
        tlv(0x23, "TLS_AES_128_GCM_SHA256")
    );
    let v12 = format!(
        "{}{}",
        tlv(0x21, "TLSv1.2"),
        tlv(0x23, "ECDHE-ECDSA-AES128-GCM-SHA256")
    );
    let named = tlv(0x22, CLIENT1);
    let cases = [
        (
            "main",
            certificate.clone().tls13(),
            format!("{with}{v13}{named}"),
        ),
        ("main", certificate.tls12(), format!("{with}{v12}{named}")),
        (
            "anonymous",
            anonymous.clone().tls13(),
            format!("{without}{v13}"),
        ),
        ("anonymous", anonymous.tls12(), format!("{without}{v12}")),
    ];
    for (n, (listener, client, ssl)) in cases.into_iter().enumerate() {
        let addr = lb.address(listener);
        let stream = client.connect_sni(addr, "web.lb.com").await.unwrap();
        let source = stream.get_ref().0.local_addr().unwrap();
        let authority = hex("web.lb.com");
        let identity = match listener {
            "main" => format!(" e5={}", hex(&format!("cn:{CLIENT1}"))),
            _ => String::new(),
        };
        assert_eq!(
            reported_header(stream).await,
            format!("v2 {source} {addr} 02={authority}{identity} 20={ssl}")
        );
        lb.expect_record(n, "ok").await;
    }
    lb.quiet().await;
}

/// In a resumed session, the flags in the header say that the certificate belongs to the
/// session, not to this connection.
async fn resumed_session_sends_the_original_certificate(records: Records) {
    let web = server().await;
    let resuming = TLS.replace(" }", ", resumption = \"on\" }");
    let header = "proxy_protocol = \"v2-tls\"";
    let lb = Site::new()
        .records(records)
        .listener("main", &["upstream = \"web\"", &resuming])
        .upstream("web", &[NO_PROBES, header], &entries(&[&web]))
        .client("client1", &cn(CLIENT1), "web", "")
        .start()
        .await;
    let client = lb.client(CLIENT1).with_resumption();
    let mut n = 0;
    for client in [client.clone().tls12(), client.tls13()] {
        for (resumed, ssl) in [(false, "0700000000"), (true, "0500000000")] {
            let stream = client.connect(lb.main()).await.unwrap();
            let line = reported_header(stream).await;
            assert!(line.contains(&format!(" 20={ssl}")), "{line}");
            assert!(line.contains(&tlv(0x22, CLIENT1)), "{line}");
            let record = lb.expect_record(n, "ok").await;
            assert_eq!(record["resumed"] == true, resumed, "{record}");
            n += 1;
        }
    }
    lb.quiet().await;
}

/// The inner balancer matches rules by the address that the outer balancer
/// sends.
async fn second_balancer_forwards_the_original_source(records: Records) {
    let web = server().await;
    let required = "proxy_protocol = \"required\"\nproxy_protocol_from = \"127.0.0.1\"";
    let inner = Site::new()
        .records(records)
        .listener("main", &["upstream = \"web\"", required, TLS])
        .upstream(
            "web",
            &[NO_PROBES, "proxy_protocol = \"v2-tls\""],
            &entries(&[&web]),
        )
        .client(
            "far",
            &format!("{}, source = \"192.0.2.0/24\"", cn(CLIENT1)),
            "web",
            "",
        )
        .start()
        .await;
    for (n, version) in ["v1", "v2", "v2-tls"].into_iter().enumerate() {
        let header = format!("proxy_protocol = \"{version}\"");
        let outer = Site::new()
            .listener("main", &["upstream = \"inner\"", required])
            .upstream(
                "inner",
                &[NO_PROBES, &header],
                &[entry("inner", inner.main(), "")],
            )
            .client("all", "source = \"192.0.2.0/24\"", "inner", "")
            .start()
            .await;
        let header = b"PROXY TCP4 192.0.2.7 198.51.100.1 4660 443\r\n";
        let stream = Prefixed::new(tcp(outer.main()).await, header);
        let client = inner.client(CLIENT1).tls13();
        let line = reported_header(client.handshake(stream, "localhost").await.unwrap()).await;
        let start = "v2 192.0.2.7:4660 198.51.100.1:443 02=";
        assert!(line.starts_with(start), "{line}");
        assert!(line.contains(&tlv(0x22, CLIENT1)), "{line}");
        for record in [
            inner.expect_record(n, "ok").await,
            outer.expect_record(0, "ok").await,
        ] {
            assert_eq!(record["source"], "192.0.2.7:4660", "{record}");
        }
        assert_eq!(inner.records()[n]["client"], "far");
        outer.quiet().await;
    }
    inner.quiet().await;
}

/// Each connection attempt starts with one header.
#[tokio::test]
async fn retried_server_gets_the_header() {
    let web = server().await;
    let servers = [
        entry("dead", refusing_address(), ""),
        entry("web1", web.addr(), ", backup = true"),
    ];
    let lb = plain("v2", &servers).start().await;
    let stream = tcp(lb.main()).await;
    let expected = format!("v2 {} {}", stream.local_addr().unwrap(), lb.main());
    assert_eq!(reported_header(stream).await, expected);
    let record = lb.expect_record(0, "ok").await;
    assert_eq!(record["attempts"], 2, "{record}");
    lb.quiet().await;
}

/// Health checks send a header without addresses. Health checks on a separate port send no header.
#[tokio::test]
async fn health_checks_send_a_local_header() {
    for (word, expected) in [
        ("v1", "v1 local"),
        ("v2", "v2 local"),
        ("v2-tls", "v2 local"),
    ] {
        let web = server().await;
        let header = format!("proxy_protocol = \"{word}\"");
        let check = format!(
            "health_check = {{ type = \"tcp\", expect = \"{expected}\\n\", timeout = \"10s\" }}"
        );
        let lb = Site::new()
            .listener("main", &["upstream = \"web\""])
            .upstream("web", &[&check, &header], &entries(&[&web]))
            .client("local", "source = \"127.0.0.1\"", "web", "")
            .start()
            .await;
        web.wait_accepted(1).await;
        let probed = r#"leastconn_server_up{upstream="web",server="web1"}"#;
        web.wait_open(0).await;
        lb.wait_metric(probed, 1.0, DEADLINE).await;
        let stream = tcp(lb.main()).await;
        assert!(
            reported_header(stream)
                .await
                .contains(&lb.main().to_string())
        );
        lb.expect_record(0, "ok").await;
        lb.quiet().await;
    }
    // Health checks on a separate port send no header: the first bytes are those of `send`.
    let (web, health) = (server().await, Upstream::start(Behaviour::Echo).await);
    let port = health.addr().port();
    let check = format!(
        "health_check = {{ type = \"tcp\", port = {port}, send = \"hello\", expect = \"hello\", timeout = \"10s\" }}"
    );
    let lb = Site::new()
        .listener("main", &["upstream = \"web\""])
        .upstream(
            "web",
            &[&check, "proxy_protocol = \"v1\""],
            &entries(&[&web]),
        )
        .client("local", "source = \"127.0.0.1\"", "web", "")
        .start()
        .await;
    health.wait_accepted(1).await;
    assert!(
        reported_header(tcp(lb.main()).await)
            .await
            .starts_with("v1 127.0.0.1")
    );
    lb.expect_record(0, "ok").await;
    lb.quiet().await;
}

/// The header is sent before the TLS handshake, both for clients and for health checks.
#[tokio::test]
async fn header_precedes_upstream_tls() {
    let servers = crate::support::tls_servers::Servers::new();
    for (_, version) in crate::support::tls_servers::VERSIONS {
        let web = servers.mutual(Behaviour::ProxyHeader, version).await;
        let check =
            "health_check = { type = \"tcp\", expect = \"v2 local\\n\", timeout = \"10s\" }";
        let header = "proxy_protocol = \"v2-tls\"";
        let lines = [check, header, crate::support::tls_servers::MUTUAL];
        let lb = servers.site(&lines, &entries(&[&web])).start().await;
        web.wait_accepted(1).await;
        let up = r#"leastconn_server_up{upstream="web",server="web1"}"#;
        lb.wait_metric(up, 1.0, DEADLINE).await;
        let stream = lb.client(CLIENT1).connect(lb.main()).await.unwrap();
        let source = stream.get_ref().0.local_addr().unwrap();
        let line = reported_header(stream).await;
        let start = format!("v2 {source} {} 02=", lb.main());
        assert!(line.starts_with(&start), "{line}");
        assert!(line.contains(&tlv(0x22, CLIENT1)), "{line}");
        lb.expect_record(0, "ok").await;
        lb.quiet().await;
    }
}

#[tokio::test]
async fn matched_name_and_certificate_are_sent() {
    let web = server().await;
    let tls = TLS.replace(" }", ", alpn = [\"h2\"] }");
    let lb = Site::new()
        .listener("main", &["upstream = \"web\"", &tls])
        .upstream(
            "web",
            &[NO_PROBES, "proxy_protocol = \"v2-tls-full\""],
            &entries(&[&web]),
        )
        .client(
            "orders",
            "uri = \"spiffe://lb.com/ns/*/sa/orders\"",
            "web",
            "",
        )
        .start()
        .await;
    let id = "spiffe://lb.com/ns/prod/sa/orders";
    let cert = lb.ca().leaf("ignored").uri(id).build();
    let client = lb.client_with(&cert).alpn(&["h2"]);
    let line = reported_header(client.connect(lb.main()).await.unwrap()).await;
    assert!(
        line.contains(&format!(" e5={}", hex(&format!("uri:{id}")))),
        "{line}"
    );
    assert!(line.contains(&format!(" 01={}", hex("h2"))), "{line}");
    let der: String = cert
        .der()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let length = cert.der().len();
    assert!(line.contains(&format!("28{length:04x}{der}")), "{line}");
    lb.expect_record(0, "ok").await;
    lb.quiet().await;
}
