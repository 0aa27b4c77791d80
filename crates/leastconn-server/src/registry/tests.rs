use std::{
    future::{pending, ready},
    time::Duration,
};

use leastconn::net;

use super::*;
use leastconn_proxy_protocol::Endpoints;

use crate::telemetry::metrics::Metrics;

fn register(registry: &Arc<Registry>) -> ConnectionGuard {
    let listener = Metrics::new().listener("main");
    registry.register(
        "main".into(),
        listener,
        "127.0.0.1:9".parse().unwrap(),
        net::now(),
    )
}

#[test]
fn open_connections_are_listed_and_counted() {
    let registry = Arc::new(Registry::default());
    let open: Vec<_> = (0..100).map(|_| register(&registry)).collect();
    assert_eq!(registry.open(), 100);
    let mut ids: Vec<_> = registry.list().iter().map(|handle| handle.id).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 100, "an ID was used twice");
    drop(open);
    assert_eq!(registry.open(), 0);
    assert!(registry.list().is_empty());
}

#[test]
fn first_stop_reason_wins() {
    let registry = Arc::new(Registry::default());
    let (one, _two) = (register(&registry), register(&registry));
    assert!(one.stop(ReasonCode::Killed));
    assert!(!one.stop(ReasonCode::Drained));
    // `stop_all` does not count connections that were already stopped.
    assert_eq!(registry.stop_all(ReasonCode::Drained), 1);
    assert_eq!(registry.stop_all(ReasonCode::Drained), 0);
}

#[test]
fn finished_connection_is_not_stopped() {
    let registry = Arc::new(Registry::default());
    let refused = register(&registry);
    refused.finish(ReasonCode::UnknownClient);
    assert_eq!(registry.stop_all(ReasonCode::Drained), 0);
}

#[tokio::test]
async fn stop_is_seen_before_and_during_a_wait() {
    let registry = Arc::new(Registry::default());
    let before = register(&registry);
    before.stop(ReasonCode::Killed);
    assert_eq!(before.stopped().await, ReasonCode::Killed);
    // A stopped connection does not even run a phase that is ready.
    assert_eq!(
        before.unless_stopped(ready(())).await,
        Err(ReasonCode::Killed)
    );

    let during = register(&registry);
    let wait = during.unless_stopped(pending::<()>());
    let stop = async {
        tokio::task::yield_now().await;
        registry.stop_all(ReasonCode::Drained)
    };
    let (ended, stopped) = tokio::join!(wait, stop);
    assert_eq!((ended, stopped), (Err(ReasonCode::Drained), 1));
    let untouched = register(&registry);
    assert_eq!(untouched.unless_stopped(ready(7)).await, Ok(7));
}

#[tokio::test]
async fn wait_empty_ends_with_the_last_connection() {
    let registry = Arc::new(Registry::default());
    registry.wait_empty().await;
    let open: Vec<_> = (0..3).map(|_| register(&registry)).collect();
    let close = async {
        for one in open {
            tokio::task::yield_now().await;
            drop(one);
        }
    };
    tokio::join!(registry.wait_empty(), close);
    assert_eq!(registry.open(), 0);
}

#[test]
fn max_lifetime_is_shortened_randomly() {
    let registry = Arc::new(Registry::default());
    let age = Duration::from_secs(1000);
    let mut ends = std::collections::HashSet::new();
    for _ in 0..20 {
        let handle = register(&registry);
        let start = net::now();
        handle.set_max_lifetime(Some(age));
        assert_eq!(
            handle.expired(start + age * 9 / 10 - Duration::from_secs(1), 0),
            None
        );
        assert_eq!(handle.expired(net::now() + age, 0), Some(Expired::Lifetime));
        ends.insert(handle.lifetime_end().unwrap());
    }
    assert!(ends.len() > 10, "too many end at the same time");
    let handle = register(&registry);
    for never in [None, Some(Duration::MAX)] {
        handle.set_max_lifetime(never);
        assert_eq!(handle.expired(net::now() + age * 1_000_000, 0), None);
    }
}

#[test]
fn certificate_expiry_follows_the_wall_clock() {
    let registry = Arc::new(Registry::default());
    let handle = register(&registry);
    let now = net::now();
    assert_eq!(handle.expired(now, i64::MAX), None);
    handle.set_chain_expiry(Some(1000));
    // The first time is the last valid second. The other times simulate a clock that is set forward
    // and back.
    for (seconds, expired) in [
        (1000, None),
        (1001, Some(Expired::Certificate)),
        (i64::MAX, Some(Expired::Certificate)),
        (-5, None),
    ] {
        assert_eq!(handle.expired(now, seconds), expired);
    }
    handle.finish(ReasonCode::Ok);
    assert_eq!(handle.expired(now, 1001), None);
}

#[test]
fn first_proxy_header_sets_the_source() {
    let registry = Arc::new(Registry::default());
    let handle = register(&registry);
    let peer = handle.source();
    assert_eq!(handle.proxy(), None);
    let ends = |source: &str| {
        let destination = "198.51.100.1:443".parse().unwrap();
        Endpoints::new(source.parse().unwrap(), destination)
    };
    handle.set_proxied(ends("192.0.2.7:1"));
    handle.set_proxied(ends("192.0.2.8:2"));
    let listed = &registry.list()[0];
    assert_eq!(listed.source(), "192.0.2.7:1".parse().unwrap());
    assert_eq!(listed.proxy(), Some(peer));
}
