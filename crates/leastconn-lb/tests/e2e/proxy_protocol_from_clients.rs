//! The PROXY header of a trusted proxy sets the source address for rules, limits and the
//! log.

use std::net::SocketAddr;

use leastconn_testkit::{
    FaultProxy, Faults, Upstream,
    client::read_to_close,
    proxy::{self, Prefixed},
};
use tokio::{io::AsyncWriteExt, net::TcpStream};

use crate::support::{
    CLIENT1, NO_PROBES, Records, Running, Site, TLS, both_record_layers, client_hello, cn, entries,
    talk, tcp,
};

both_record_layers! {
    #[tokio::test]
    source_comes_from_the_header,
    #[tokio::test]
    data_after_the_header_is_not_lost,
}

const REQUIRED: &str = "proxy_protocol = \"required\"\nproxy_protocol_from = \"127.0.0.0/8\"";

/// A TLS listener with two rules that match by source address.
async fn start(records: Records, web: &Upstream) -> Running {
    Site::new()
        .records(records)
        .listener("main", &["upstream = \"web\"", REQUIRED, TLS])
        .upstream("web", &[NO_PROBES], &entries(&[web]))
        .client(
            "there",
            &format!("{}, source = \"192.0.2.0/24\"", cn(CLIENT1)),
            "web",
            "",
        )
        .client(
            "v6",
            &format!("{}, source = \"2001:db8::/32\"", cn(CLIENT1)),
            "web",
            "",
        )
        .start()
        .await
}

/// A listener without TLS, with one rule that matches by source address.
fn plain(web: &Upstream) -> Site {
    Site::new()
        .listener("main", &["upstream = \"web\"", REQUIRED])
        .upstream("web", &[NO_PROBES], &entries(&[web]))
        .client("there", "source = \"192.0.2.0/24\"", "web", "")
}

async fn connect_and_send(addr: SocketAddr, first: &[u8]) -> TcpStream {
    let mut stream = tcp(addr).await;
    stream.write_all(first).await.unwrap();
    stream
}

const V1: &[u8] = b"PROXY TCP4 192.0.2.7 198.51.100.1 4660 443\r\n";

async fn source_comes_from_the_header(records: Records) {
    let web = Upstream::named("web1").await;
    let lb = start(records, &web).await;
    let headers = [
        (V1.to_vec(), "there", "192.0.2.7:4660"),
        (
            b"PROXY TCP6 2001:db8::7 2001:db8::1 4660 443\r\n".to_vec(),
            "v6",
            "[2001:db8::7]:4660",
        ),
        (
            b"PROXY TCP6 ::ffff:192.0.2.7 ::ffff:198.51.100.1 4660 443\r\n".to_vec(),
            "there",
            "192.0.2.7:4660",
        ),
        (
            proxy::v2(
                0x21,
                0x11,
                &[192, 0, 2, 7, 198, 51, 100, 1, 0x12, 0x34, 1, 187],
            ),
            "there",
            "192.0.2.7:4660",
        ),
    ];
    for (n, (header, rule, source)) in headers.into_iter().enumerate() {
        let stream = connect_and_send(lb.main(), &header).await;
        let front = stream.local_addr().unwrap();
        let client = lb.client(CLIENT1);
        talk(client.handshake(stream, "localhost").await.unwrap())
            .await
            .unwrap();
        let record = lb.expect_record(n, "ok").await;
        assert_eq!(record["client"], rule, "{record}");
        assert_eq!(record["source"], source, "{record}");
        assert_eq!(record["proxy"], front.to_string(), "{record}");
    }
    // No rule matches this address.
    let header = b"PROXY TCP4 203.0.113.1 198.51.100.1 1 443\r\n";
    let stream = connect_and_send(lb.main(), header).await;
    let client = lb.client(CLIENT1);
    let mut stream = client.handshake(stream, "localhost").await.unwrap();
    assert!(read_to_close(&mut stream).await.unwrap().is_empty());
    let record = lb.expect_record(4, "unknown_client").await;
    assert_eq!(record["source"], "203.0.113.1:1");
    assert_eq!(web.accepted(), 4);
    lb.quiet().await;
}

async fn data_after_the_header_is_not_lost(records: Records) {
    let web = Upstream::named("web1").await;
    let lb = start(records, &web).await;
    let v2 = proxy::v2(
        0x21,
        0x11,
        &[
            &[192, 0, 2, 7, 198, 51, 100, 1, 0x12, 0x34, 1, 187][..],
            // The header contains an unknown TLV and is longer than one read.
            &[4, 0x03, 0x00],
            &[7; 0x300],
        ]
        .concat(),
    );
    let mut n = 0;
    for header in [V1, &v2] {
        for slice in [None, Some(1), Some(3)] {
            let slices = Faults {
                slice,
                ..Faults::default()
            };
            let path = FaultProxy::start(lb.main(), slices, Faults::default()).await;
            // The client sends the header and the ClientHello with one write.
            let client = lb.client(CLIENT1);
            let together = Prefixed::new(tcp(path.addr()).await, header);
            talk(client.handshake(together, "localhost").await.unwrap())
                .await
                .unwrap();
            let record = lb.expect_record(n, "ok").await;
            assert_eq!(record["source"], "192.0.2.7:4660", "{record}");
            n += 1;
        }
    }
    lb.quiet().await;
}

/// Without TLS, all bytes after the header are data from the client.
#[tokio::test]
async fn plain_data_starts_after_the_header() {
    let web = Upstream::start(leastconn_testkit::Behaviour::Echo).await;
    let lb = plain(&web).start().await;
    for (n, cut) in [0, 1, V1.len() / 2, V1.len()].into_iter().enumerate() {
        let all = [V1, b"hello"].concat();
        let mut stream = connect_and_send(lb.main(), &all[..cut]).await;
        stream.write_all(&all[cut..]).await.unwrap();
        stream.shutdown().await.unwrap();
        assert_eq!(read_to_close(&mut stream).await.unwrap(), b"hello");
        let record = lb.expect_record(n, "ok").await;
        assert_eq!(record["client"], "there");
        assert_eq!(record["bytes_received"], 5);
    }
    lb.quiet().await;
}

/// Limits apply to the address in the header, not to the address of the proxy.
#[tokio::test]
async fn each_proxied_address_has_its_own_bucket() {
    let web = Upstream::named("web1").await;
    let lb = Site::new()
        .listener("main", &["upstream = \"web\"", REQUIRED])
        .upstream("web", &[NO_PROBES], &entries(&[&web]))
        .client(
            "there",
            "source = \"192.0.2.0/24\"",
            "web",
            "rate_limit = { rate = 0.001, burst = 1 }",
        )
        .start()
        .await;
    let from = async |host: u8| {
        let header = format!("PROXY TCP4 192.0.2.{host} 198.51.100.1 1 2\r\n");
        connect_and_send(lb.main(), header.as_bytes()).await
    };
    talk(from(1).await).await.unwrap();
    talk(from(2).await).await.unwrap();
    assert!(talk(from(1).await).await.is_err());
    let record = lb.expect_record(2, "rate_limited").await;
    assert_eq!(record["identity"], "source:192.0.2.1");
    lb.quiet().await;
}

/// Proxies send a header without a client address for their own health checks. The source is
/// then the address of the proxy.
#[tokio::test]
async fn local_header_keeps_the_peer_address() {
    let web = Upstream::named("web1").await;
    let lb = plain(&web)
        .client("front", "source = \"127.0.0.1\"", "web", "")
        .start()
        .await;
    let headers = [
        b"PROXY UNKNOWN\r\n".to_vec(),
        b"PROXY UNKNOWN ::1 ::1 1 2\r\n".to_vec(),
        proxy::v2(0x20, 0x00, &[]),
        proxy::v2(0x20, 0x11, &[192, 0, 2, 7, 198, 51, 100, 1, 0, 1, 0, 2]),
        proxy::v2(0x21, 0x00, &[]),
    ];
    for (n, header) in headers.into_iter().enumerate() {
        let stream = connect_and_send(lb.main(), &header).await;
        let own = stream.local_addr().unwrap();
        talk(stream).await.unwrap();
        let record = lb.expect_record(n, "ok").await;
        assert_eq!(record["client"], "front");
        assert_eq!(record["source"], own.to_string());
        assert_eq!(record.get("proxy"), None, "{record}");
    }
    lb.quiet().await;
}

/// A second header is treated as data from the client.
#[tokio::test]
async fn only_one_header_is_read() {
    let web = Upstream::start(leastconn_testkit::Behaviour::Echo).await;
    let lb = plain(&web).start().await;
    let second = b"PROXY TCP4 203.0.113.9 198.51.100.1 1 2\r\n";
    let mut stream = connect_and_send(lb.main(), &[V1, second].concat()).await;
    stream.shutdown().await.unwrap();
    assert_eq!(read_to_close(&mut stream).await.unwrap(), second);
    let record = lb.expect_record(0, "ok").await;
    assert_eq!(record["source"], "192.0.2.7:4660");
    lb.quiet().await;
}

/// If the listener expects no header, a header is invalid data.
#[tokio::test]
async fn unexpected_header_is_refused() {
    let web = Upstream::named("web1").await;
    let lb = Site::usual(&[&web]).start().await;
    let mut stream = connect_and_send(lb.main(), &[V1, &client_hello(lb.ca())].concat()).await;
    let _ = read_to_close(&mut stream).await;
    let record = lb.expect_record(0, "handshake_failed").await;
    assert!(record["source"].as_str().unwrap().starts_with("127.0.0.1:"));
    assert_eq!(web.accepted(), 0);
    lb.quiet().await;
}

/// The source rate limit applies to the proxied address. A reload that does not change the
/// limit allows no new burst.
#[tokio::test]
async fn source_rate_limit_uses_the_proxied_address() {
    let web = Upstream::named("web1").await;
    let limit = "source_rate_limit = { rate = 0.001, burst = 2 }";
    let lb = Site::new()
        .listener("main", &["upstream = \"web\"", REQUIRED, limit])
        .upstream("web", &[NO_PROBES], &entries(&[&web]))
        .client("there", "source = \"192.0.2.0/24\"", "web", "")
        .start()
        .await;
    let from = |last: u8| format!("PROXY TCP4 192.0.2.{last} 198.51.100.1 4660 443\r\n");
    let mut n = 0;
    for (last, outcome) in [
        (7, "ok"),
        (7, "ok"),
        (7, "rate_limited"),
        (8, "ok"),
        (8, "ok"),
        (8, "rate_limited"),
    ] {
        let mut stream = connect_and_send(lb.main(), from(last).as_bytes()).await;
        if outcome == "ok" {
            talk(stream).await.unwrap();
        } else {
            // The connection ends by a RST or a FIN, without data.
            let received = read_to_close(&mut stream).await.unwrap_or_default();
            assert!(received.is_empty());
        }
        lb.expect_record(n, outcome).await;
        n += 1;
        if n == 2 {
            assert_eq!(lb.reload(&lb.config()).await, "applied");
        }
    }
    assert_eq!(web.accepted(), 4);
    lb.quiet().await;
}
