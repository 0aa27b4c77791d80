//! Certificates and rules that expire while their clients are connected, and
//! `max_lifetime`.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use leastconn_testkit::client::{read_line, read_to_close, roundtrip};
use leastconn_testkit::{DEADLINE, Upstream, within};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf},
    net::TcpStream,
    time::{Sleep, sleep},
};

use crate::support::{CLIENT1, DEBUG_SLACK, NO_PROBES, Running, Site, TLS, cn, entries};

/// A time at which something expires. The balancer checks for expiry every second.
struct Moment(jiff::Timestamp);

impl Moment {
    fn in_seconds(seconds: u64) -> Self {
        Self(jiff::Timestamp::now() + Duration::from_secs(seconds))
    }

    /// Asserts that the moment has just passed. It may also be up to 1.1 seconds ahead,
    /// because certificates have a resolution of one second.
    fn assert_now(&self) {
        let late = jiff::Timestamp::now().duration_since(self.0).as_secs_f64();
        let most = 2.5 + DEBUG_SLACK.as_secs_f64();
        assert!(
            (-1.1..most).contains(&late),
            "ended {late} seconds after the expiry"
        );
    }
}

async fn site(web: &Upstream, line: &str) -> Running {
    Site::new()
        .listener("main", &["upstream = \"web\"", line, TLS])
        .upstream("web", &[NO_PROBES], &entries(&[web]))
        .client("client1", &cn(CLIENT1), "web", "")
        .start()
        .await
}

#[tokio::test]
async fn expired_certificate_ends_its_connection() {
    let web = Upstream::named("web1").await;
    let lb = site(&web, "").await;
    let keeping = site(&web, "on_expiry = \"keep\"").await;
    let mut other = lb.client(CLIENT1).connect(lb.main()).await.unwrap();
    read_line(&mut other).await.unwrap();
    let expiry = Moment::in_seconds(10);
    let short = |lb: &Running| lb.client_with(&lb.ca().leaf(CLIENT1).validity(-60, 10).build());
    let mut kept = short(&keeping).connect(keeping.main()).await.unwrap();
    read_line(&mut kept).await.unwrap();
    let mut stream = short(&lb).connect(lb.main()).await.unwrap();
    read_line(&mut stream).await.unwrap();
    let mut rest = Vec::new();
    let _ = within(DEADLINE, "the close", stream.read_to_end(&mut rest)).await;
    expiry.assert_now();
    lb.expect_record(0, "expired_certificate").await;
    assert_eq!(roundtrip(&mut other, b"on").await.unwrap(), b"on");
    assert_eq!(roundtrip(&mut kept, b"on").await.unwrap(), b"on");
    // A reload re-authorizes the connection and keeps it while `on_expiry` is "keep".
    assert_eq!(keeping.reload(&keeping.config()).await, "applied");
    assert_eq!(roundtrip(&mut kept, b"on").await.unwrap(), b"on");
    let strict = keeping.config().replace("on_expiry = \"keep\"", "");
    assert_eq!(keeping.reload(&strict).await, "applied");
    keeping.expect_record(0, "expired_certificate").await;
    other.shutdown().await.unwrap();
    read_to_close(&mut other).await.unwrap();
    lb.quiet().await;
    keeping.quiet().await;
}

/// A client stream that delays its Finished message until the certificate has expired.
struct DelayedFinished {
    stream: TcpStream,
    until: Pin<Box<Sleep>>,
}

/// Type of the TLS 1.2 record that precedes the client's Finished message.
const CHANGE_CIPHER_SPEC: u8 = 20;

impl AsyncRead for DelayedFinished {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for DelayedFinished {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        // A buffer from rustls contains only complete records.
        let length = |at: usize| usize::from(u16::from_be_bytes([buf[at + 3], buf[at + 4]]));
        let mut end = 0;
        while end < buf.len() && buf[end] != CHANGE_CIPHER_SPEC {
            end += 5 + length(end);
        }
        if end == 0 {
            ready!(self.until.as_mut().poll(cx));
            end = buf.len();
        }
        Pin::new(&mut self.stream).poll_write(cx, &buf[..end])
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Completes a handshake whose client certificate expires after it was verified, but before
/// the connection is admitted.
async fn finish_after_expiry(on_expiry: &str) {
    let web = Upstream::named("web1").await;
    let lb = site(&web, on_expiry).await;
    let leaf = lb.ca().leaf(CLIENT1).validity(-60, 6).build();
    let delayed = DelayedFinished {
        stream: TcpStream::connect(lb.main()).await.unwrap(),
        // Nothing reports that the certificate has expired, so the test waits. `notAfter` has a
        // resolution of one second.
        until: Box::pin(sleep(Duration::from_secs(8))),
    };
    let client = lb.client_with(&leaf).tls12();
    let mut stream = client.handshake(delayed, "localhost").await.unwrap();
    let mut rest = Vec::new();
    let _ = within(DEADLINE, "the close", stream.read_to_end(&mut rest)).await;
    let record = lb.expect_record(0, "expired_certificate").await;
    assert_eq!(record["identity"], "cn:client1.lb.com", "{record}");
    assert!(
        record.get("server").is_none(),
        "no server must be dialled: {record}"
    );
    lb.quiet().await;
    assert_eq!(web.accepted(), 0);
}

#[tokio::test]
async fn certificate_expiring_during_the_handshake_is_refused() {
    tokio::join!(
        finish_after_expiry(""),
        finish_after_expiry("on_expiry = \"keep\"")
    );
}

#[tokio::test]
async fn max_lifetime_ends_the_connection() {
    let web = Upstream::named("web1").await;
    let lb = site(&web, "max_lifetime = \"3s\"").await;
    let mut stream = lb.client(CLIENT1).connect(lb.main()).await.unwrap();
    read_line(&mut stream).await.unwrap();
    let mut rest = Vec::new();
    let _ = within(DEADLINE, "the close", stream.read_to_end(&mut rest)).await;
    let record = lb.expect_record(0, "max_lifetime").await;
    // The balancer ends each connection up to a tenth of `max_lifetime` earlier, so that
    // connections opened together do not end together.
    let took = record["duration_ms"].as_f64().unwrap();
    let most = 3200.0 + DEBUG_SLACK.as_secs_f64() * 1e3;
    assert!((2600.0..most).contains(&took), "{record}");
    lb.quiet().await;
}

#[tokio::test]
async fn expired_rule_ends_its_connections() {
    let web = Upstream::named("web1").await;
    let end = Moment::in_seconds(10);
    let expiry = end.0.to_string();
    let lb = Site::new()
        .listener("main", &["upstream = \"web\"", TLS])
        .upstream("web", &[NO_PROBES], &entries(&[&web]))
        .client("guest", &cn(CLIENT1), "web", &format!("expires = {expiry}"))
        .client("client2", &cn("client2.lb.com"), "web", "")
        .start()
        .await;
    let mut other = lb
        .client("client2.lb.com")
        .connect(lb.main())
        .await
        .unwrap();
    read_line(&mut other).await.unwrap();
    let mut guest = lb.client(CLIENT1).connect(lb.main()).await.unwrap();
    read_line(&mut guest).await.unwrap();
    let mut rest = Vec::new();
    let _ = within(DEADLINE, "the close", guest.read_to_end(&mut rest)).await;
    end.assert_now();
    lb.expect_record(0, "policy_changed").await;
    assert_eq!(roundtrip(&mut other, b"on").await.unwrap(), b"on");
    // New connections no longer match the rule.
    let _refused = lb.client(CLIENT1).connect(lb.main()).await;
    lb.expect_record(1, "unknown_client").await;
    other.shutdown().await.unwrap();
    read_to_close(&mut other).await.unwrap();
    lb.quiet().await;
}
