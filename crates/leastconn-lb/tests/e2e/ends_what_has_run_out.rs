//! Certificates that run out while their clients are connected, and connections that
//! have grown too old.

use std::time::Duration;

use leastconn_testkit::client::{read_line, read_to_close, roundtrip};
use leastconn_testkit::{DEADLINE, Upstream, within};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::Instant;

use crate::support::{CLIENT1, NO_PROBES, Running, Site, TLS, cn, entries};

async fn site(web: &Upstream, line: &str) -> Running {
    Site::new()
        .listener("main", &["upstream = \"web\"", line, TLS])
        .upstream("web", &[NO_PROBES], &entries(&[web]))
        .client("client1", &cn(CLIENT1), "web", "")
        .start()
        .await
}

#[tokio::test]
async fn a_certificate_that_runs_out_ends_its_connection_unless_it_is_kept() {
    let web = Upstream::named("web1").await;
    let lb = site(&web, "").await;
    let keeping = site(&web, "on_expiry = \"keep\"").await;
    let short = |lb: &Running| lb.showing(&lb.ca().leaf(CLIENT1).validity(-60, 3).build());
    let mut kept = short(&keeping).connect(keeping.main()).await.unwrap();
    read_line(&mut kept).await.unwrap();
    let mut other = lb.client(CLIENT1).connect(lb.main()).await.unwrap();
    read_line(&mut other).await.unwrap();
    let mut stream = short(&lb).connect(lb.main()).await.unwrap();
    read_line(&mut stream).await.unwrap();
    let start = Instant::now();
    let mut rest = Vec::new();
    let _ = within(DEADLINE, "its end", stream.read_to_end(&mut rest)).await;
    let took = start.elapsed();
    assert!(took > Duration::from_millis(1500), "{took:?}");
    assert!(took < Duration::from_millis(5500), "{took:?}");
    lb.nth(0, "expired_certificate").await;
    assert_eq!(roundtrip(&mut other, b"on").await.unwrap(), b"on");
    assert_eq!(roundtrip(&mut kept, b"on").await.unwrap(), b"on");
    // It is judged again like all others, and may still go on; until it may not.
    assert_eq!(keeping.reload(&keeping.config()).await, "applied");
    assert_eq!(roundtrip(&mut kept, b"on").await.unwrap(), b"on");
    let strict = keeping.config().replace("on_expiry = \"keep\"", "");
    assert_eq!(keeping.reload(&strict).await, "applied");
    keeping.nth(0, "expired_certificate").await;
    other.shutdown().await.unwrap();
    read_to_close(&mut other).await.unwrap();
    lb.quiet().await;
    keeping.quiet().await;
}

#[tokio::test]
async fn a_connection_grows_as_old_as_it_may_and_no_older() {
    let web = Upstream::named("web1").await;
    let lb = site(&web, "max_lifetime = \"3s\"").await;
    let mut stream = lb.client(CLIENT1).connect(lb.main()).await.unwrap();
    read_line(&mut stream).await.unwrap();
    let start = Instant::now();
    let mut rest = Vec::new();
    let _ = within(DEADLINE, "its end", stream.read_to_end(&mut rest)).await;
    let took = start.elapsed();
    assert!(took > Duration::from_millis(2600), "{took:?}");
    assert!(took < Duration::from_millis(5000), "{took:?}");
    lb.nth(0, "max_lifetime").await;
    lb.quiet().await;
}

#[tokio::test]
async fn a_rule_that_expires_ends_the_connections_that_rest_on_it() {
    let web = Upstream::named("web1").await;
    let expiry = (jiff::Timestamp::now() + Duration::from_secs(3)).to_string();
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
    let start = Instant::now();
    let mut rest = Vec::new();
    let _ = within(DEADLINE, "its end", guest.read_to_end(&mut rest)).await;
    let took = start.elapsed();
    assert!(took > Duration::from_millis(1500), "{took:?}");
    assert!(took < Duration::from_millis(5500), "{took:?}");
    lb.nth(0, "policy_changed").await;
    assert_eq!(roundtrip(&mut other, b"on").await.unwrap(), b"on");
    // And nobody comes in by it any more.
    let _refused = lb.client(CLIENT1).connect(lb.main()).await;
    lb.nth(1, "unknown_client").await;
    other.shutdown().await.unwrap();
    read_to_close(&mut other).await.unwrap();
    lb.quiet().await;
}
