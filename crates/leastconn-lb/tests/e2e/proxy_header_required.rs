//! A required PROXY header must arrive in time, be complete and valid, and come from a
//! trusted proxy.

use std::time::Duration;

use leastconn_testkit::{DEADLINE, Upstream, client::read_to_close, proxy, within};
use serde_json::Value;
use tokio::{
    io::AsyncWriteExt,
    time::{MissedTickBehavior, interval},
};

use crate::support::{
    CLIENT1, DEBUG_SLACK, NO_PROBES, Running, Site, TLS, client_hello, cn, entries, tcp,
};

const REQUIRED: &str = "proxy_protocol = \"required\"\nproxy_protocol_from = \"127.0.0.1\"";

async fn start(web: &Upstream, lines: &[&str]) -> Running {
    let lines = [&["upstream = \"web\""], lines].concat();
    Site::new()
        .listener("main", &lines)
        .upstream("web", &[NO_PROBES], &entries(&[web]))
        .client("client1", &cn(CLIENT1), "web", "")
        .client("all", "source = [\"0.0.0.0/0\", \"::/0\"]", "web", "")
        .start()
        .await
}

/// Returns the detail of record `n`. Asserts that the balancer refused the connection because
/// of its header.
async fn detail(lb: &Running, n: usize) -> String {
    let record = lb.expect_record(n, "handshake_failed").await;
    assert_eq!(record.get("proxy"), None, "{record}");
    assert!(record["source"].as_str().unwrap().starts_with("127.0.0.1:"));
    // The balancer refuses the connection before the handshake timeout of ten seconds.
    assert!(record["duration_ms"].as_f64().unwrap() < 7000.0, "{record}");
    record["detail"].as_str().unwrap_or_default().to_owned()
}

#[tokio::test]
async fn invalid_header_is_refused_and_described() {
    let web = Upstream::named("web1").await;
    for tls in [&[REQUIRED, TLS][..], &[REQUIRED]] {
        let lb = start(&web, tls).await;
        let udp = proxy::v2(0x21, 0x12, &[0; 12]);
        let unix = proxy::v2(0x21, 0x31, &[0; 216]);
        let long = proxy::v2(0x21, 0x11, &[0; 5000]);
        let forged = proxy::v2(0x21, 0x11, &[&[0; 12][..], &[3, 0, 4, 1, 2, 3, 4]].concat());
        let hello = client_hello(lb.ca());
        let endless = b"PROXY UNKNOWN ".repeat(20);
        let cases: &[(&[u8], &str)] = &[
            (&hello, "expected a PROXY header, got a TLS ClientHello"),
            (
                b"GET / HTTP/1.1\r\n\r\n",
                "expected a PROXY header, got an HTTP request",
            ),
            (b"hello", "expected a PROXY header, got \"hello\""),
            (
                b"PROXY TCP4 1.2.3.4 1.2.3.4 1\r\n",
                "malformed PROXY header: expected two addresses and two ports",
            ),
            (
                &endless,
                "malformed PROXY header: no line end within 107 bytes",
            ),
            (&udp, "PROXY header for UDP: only TCP is supported"),
            (
                &unix,
                "PROXY header for a UNIX socket: only TCP is supported",
            ),
            (
                &long,
                "PROXY header too long: 5000 bytes after the first 16, limit 4132",
            ),
            (&forged, "PROXY header with a wrong checksum"),
        ];
        for (n, (bytes, expected)) in cases.iter().enumerate() {
            let mut stream = tcp(lb.main()).await;
            // The balancer may close the connection before the client has sent everything. It
            // detects the error without a FIN, which this client does not send.
            let _ = stream.write_all(bytes).await;
            let _ = read_to_close(&mut stream).await;
            assert_eq!(detail(&lb, n).await, *expected);
        }
        lb.quiet().await;
    }
    assert_eq!(web.accepted(), 0);
}

#[tokio::test]
async fn fin_before_the_header_ends_is_refused() {
    let web = Upstream::named("web1").await;
    let lb = start(&web, &[REQUIRED]).await;
    let v2 = proxy::v2(0x21, 0x11, &[0; 12]);
    let mut n = 0;
    for header in [&b"PROXY TCP4 1.2.3.4 1.2.3.4 1 2\r\n"[..], &v2] {
        for (sent, place) in [
            (0, "before"),
            (1, "in the middle of"),
            (27, "in the middle of"),
        ] {
            let mut stream = tcp(lb.main()).await;
            stream.write_all(&header[..sent]).await.unwrap();
            stream.shutdown().await.unwrap();
            let _ = read_to_close(&mut stream).await;
            assert_eq!(
                detail(&lb, n).await,
                format!("connection closed {place} a PROXY header")
            );
            n += 1;
        }
    }
    assert_eq!(web.accepted(), 0);
    lb.quiet().await;
}

/// Even a valid header from an untrusted source is refused.
#[tokio::test]
async fn untrusted_source_is_refused() {
    let web = Upstream::named("web1").await;
    let elsewhere =
        "proxy_protocol = \"required\"\nproxy_protocol_from = [\"10.0.0.0/8\", \"::1\"]";
    for tls in [&[elsewhere, TLS][..], &[elsewhere]] {
        let lb = start(&web, tls).await;
        for (n, sent) in [
            &b"PROXY TCP4 10.0.0.1 10.0.0.2 1 2\r\n"[..],
            b"PROXY UNKNOWN\r\n",
            &client_hello(lb.ca()),
            b"",
        ]
        .into_iter()
        .enumerate()
        {
            let mut stream = tcp(lb.main()).await;
            let _ = stream.write_all(sent).await;
            let _ = read_to_close(&mut stream).await;
            assert_eq!(
                detail(&lb, n).await,
                "127.0.0.1 is not in `proxy_protocol_from`"
            );
        }
        lb.quiet().await;
    }
    assert_eq!(web.accepted(), 0);
}

const LIMIT: f64 = 700.0;

fn assert_in_time(record: &Value) {
    let took = record["duration_ms"].as_f64().unwrap();
    let most = LIMIT * 1.1 + 250.0 + DEBUG_SLACK.as_secs_f64() * 1e3;
    assert!((LIMIT..most).contains(&took), "{record}");
}

#[tokio::test]
async fn header_bytes_do_not_extend_the_deadline() {
    let web = Upstream::named("web1").await;
    let short_handshake = "handshake_timeout = \"700ms\"";
    for tls in [
        &[REQUIRED, short_handshake, TLS][..],
        &[REQUIRED, short_handshake],
    ] {
        let lb = start(&web, tls).await;
        let mut silent = tcp(lb.main()).await;
        let _ = read_to_close(&mut silent).await;
        let record = lb.expect_record(0, "handshake_timeout").await;
        assert_in_time(&record);
        assert_eq!(record["detail"], "handshake timeout before a PROXY header");
        let mut stream = tcp(lb.main()).await;
        let mut tick = interval(Duration::from_millis(50));
        // If the test stalls, the client must not catch up by sending several bytes together.
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let drip = async {
            // At this speed, sending the whole header would take twenty seconds.
            for byte in proxy::v2(0x21, 0x11, &[0; 400]) {
                tick.tick().await;
                if stream.write_all(&[byte]).await.is_err() {
                    return;
                }
            }
            panic!("the balancer accepted the whole header");
        };
        within(DEADLINE, "the close", drip).await;
        let record = lb.expect_record(1, "handshake_timeout").await;
        assert_in_time(&record);
        assert_eq!(
            record["detail"],
            "handshake timeout in the middle of a PROXY header"
        );
        lb.quiet().await;
    }
    // The header and the handshake share one deadline. The header arrives after five of eight
    // seconds, so three seconds remain for the handshake.
    let lb = start(&web, &[REQUIRED, "handshake_timeout = \"8s\"", TLS]).await;
    let mut stream = tcp(lb.main()).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let header = b"PROXY TCP4 192.0.2.7 198.51.100.1 4660 443\r\n";
    stream.write_all(header).await.unwrap();
    let _ = within(DEADLINE, "the close", read_to_close(&mut stream)).await;
    let record = lb.expect_record(0, "handshake_timeout").await;
    // With a separate deadline, the handshake would end after 13 seconds.
    let took = record["duration_ms"].as_f64().unwrap();
    assert!((8000.0..12900.0).contains(&took), "{record}");
    assert_eq!(record["source"], "192.0.2.7:4660");
    assert_eq!(web.accepted(), 0);
    lb.quiet().await;
}

/// With `drain_timeout = "0s"`, a shutdown immediately closes a connection that is waiting for its
/// header.
#[tokio::test]
async fn shutdown_does_not_wait_for_headers() {
    let web = Upstream::named("web1").await;
    let site = Site::new()
        .process("drain_timeout = \"0s\"")
        .listener("main", &["upstream = \"web\"", REQUIRED])
        .upstream("web", &[NO_PROBES], &entries(&[&web]))
        .client("all", "source = \"0.0.0.0/0\"", "web", "");
    let lb = site.start().await;
    let mut stream = tcp(lb.main()).await;
    stream.write_all(b"PROXY ").await.unwrap();
    lb.wait_metric(
        "leastconn_connections_active{listener=\"main\"}",
        1.0,
        DEADLINE,
    )
    .await;
    lb.signal(leastconn_testkit::Signal::TERM);
    let status = lb.wait_exit(DEADLINE).await;
    assert_eq!(status.code(), Some(1));
    lb.expect_record(0, "drained").await;
}
