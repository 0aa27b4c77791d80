//! Retry rounds, and dialling while no server is available.

use std::sync::Arc;

use tokio::task::JoinSet;

use super::*;
use crate::Reason;

fn retrying() -> ConnectPolicy {
    ConnectPolicy::default()
}

/// A pool with the default policies: at most half of the servers may be ejected, and ejected
/// servers are dialled while no server is available.
fn default_pool(addresses: &[SocketAddr]) -> Pool {
    servers(addresses, PassivePolicy::default(), PanicPolicy::Dial)
}

#[tokio::test]
async fn server_restart_fails_no_connection() {
    let (address, upstream) = refusing().await;
    let pool = Arc::new(default_pool(&[address]));
    let mut clients = JoinSet::new();
    for _ in 0..20 {
        let pool = Arc::clone(&pool);
        clients.spawn(async move { connect(&pool, &Selector::all(), &retrying()).await });
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(
        server(&pool, 0).in_flight(),
        0,
        "connections that wait between rounds are not counted"
    );
    upstream.restart().await;
    let connected = within(DEADLINE, "all clients", clients.join_all()).await;
    for connected in &connected {
        let connected = connected.as_ref().unwrap();
        assert!(connected.attempts >= 3, "{connected:?}");
    }
    assert_eq!(server(&pool, 0).in_flight(), 20);
    drop(connected);
    assert_eq!(server(&pool, 0).in_flight(), 0);
}

#[tokio::test]
async fn retries_end_after_retry_for() {
    let (address, _keep) = refusing().await;
    let pool = default_pool(&[address]);
    let mut policy = retrying();
    policy.retry_for = Duration::from_millis(400);
    let start = now();
    let error = connect_all(&pool, &policy).await.unwrap_err();
    let took = now() - start;
    assert!(took >= policy.retry_for, "{took:?}");
    assert!(took < Duration::from_secs(2), "{took:?}");
    assert_eq!(error.reason(), Reason::ConnectFailed);
    let failures = server(&pool, 0).status().connect_failures;
    assert_eq!(u64::from(error.attempts()), failures);
    assert!((3..=6).contains(&failures), "{failures}");
}

#[tokio::test]
async fn full_and_drained_servers_fail_at_once() {
    let upstream = Upstream::start(Behaviour::Echo).await;
    let full = ServerSpec::new("web0", upstream.addr()).max_conns(std::num::NonZeroU32::new(1));
    let drained = ServerSpec::new("web1", upstream.addr());
    let pool = Pool::builder("web")
        .servers([full, drained])
        .seed(1)
        .build()
        .unwrap();
    server(&pool, 1).set_admin(crate::AdminState::Drain);
    let _held = connect_all(&pool, &retrying()).await.unwrap();
    let start = now();
    let error = connect_all(&pool, &retrying()).await.unwrap_err();
    assert_eq!(error.reason(), Reason::NoServerAvailable);
    assert_eq!(
        error.to_string(),
        "1 of 2 allowed servers is at `max_conns`, the other is not available"
    );
    assert!(now() - start < Duration::from_secs(1));
}

/// A pool whose only server, `web0`, is drained and to which servers may be added.
fn changing_pool(address: SocketAddr) -> Pool {
    let pool = Pool::builder("web").server(ServerSpec::new("web0", address));
    let pool = pool.may_be_empty(true).seed(1).build().unwrap();
    server(&pool, 0).set_admin(crate::AdminState::Drain);
    pool
}

#[tokio::test]
async fn connection_waits_for_its_absent_server() {
    let upstream = Upstream::start(Behaviour::Echo).await;
    for selected in [&["web1"][..], &["web0", "web1"]] {
        let pool = Arc::new(changing_pool(upstream.addr()));
        let waiting = {
            let (pool, selector) = (Arc::clone(&pool), Selector::named(selected.iter().copied()));
            tokio::spawn(async move { connect(&pool, &selector, &retrying()).await })
        };
        tokio::time::sleep(Duration::from_millis(50)).await;
        let specs = ["web0", "web1"].map(|name| ServerSpec::new(name, upstream.addr()));
        pool.update(specs).unwrap();
        let connected = within(DEADLINE, "the connection", waiting).await.unwrap();
        assert_eq!(connected.unwrap().lease.server().id().as_str(), "web1");
    }
}

#[tokio::test]
async fn absent_servers_do_not_delay_refusal_by_full_servers() {
    let upstream = Upstream::start(Behaviour::Echo).await;
    let pool = changing_pool(upstream.addr());
    let full = ServerSpec::new("web0", upstream.addr()).max_conns(std::num::NonZeroU32::new(1));
    pool.update([full]).unwrap();
    server(&pool, 0).set_admin(crate::AdminState::Ready);
    let _held = connect_all(&pool, &retrying()).await.unwrap();
    let start = now();
    let selector = Selector::named(["web0", "web1"]);
    let error = connect(&pool, &selector, &retrying()).await.unwrap_err();
    assert_eq!(error.reason(), Reason::NoServerAvailable);
    assert_eq!(
        error.to_string(),
        "the only allowed server is at `max_conns`"
    );
    assert!(now() - start < Duration::from_secs(1));
}

#[tokio::test]
async fn drain_of_all_servers_ends_the_wait() {
    for state in [crate::AdminState::Drain, crate::AdminState::Maint] {
        let (address, _keep) = refusing().await;
        let pool = Arc::new(default_pool(&[address]));
        let mut policy = retrying();
        policy.retry_for = Duration::from_secs(3600);
        let attempts = Arc::new(Attempts::default());
        let waiting = {
            let (pool, attempts) = (Arc::clone(&pool), Arc::clone(&attempts));
            tokio::spawn(async move {
                let all = Selector::all();
                let connecting = Connect::new(&pool, &all, &policy).attempts(&attempts);
                connecting.run().await
            })
        };
        while attempts.get() < 2 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        server(&pool, 0).set_admin(state);
        let error = within(DEADLINE, "the error", waiting).await.unwrap();
        assert_eq!(error.unwrap_err().reason(), Reason::ConnectFailed);
    }
}

#[tokio::test]
async fn recovered_server_is_dialled_at_once() {
    let upstream = Upstream::start(Behaviour::Echo).await;
    // The pool does not dial down servers, so only a probe can bring the server up.
    let active = crate::health::ActivePolicy {
        rise: std::num::NonZeroU32::MIN,
        fall: std::num::NonZeroU32::MIN,
    };
    let spec = ServerSpec::new("web0", upstream.addr());
    let pool = Pool::builder("web")
        .servers([spec])
        .active(active)
        .panic(PanicPolicy::Refuse)
        .seed(1)
        .build()
        .unwrap();
    let pool = Arc::new(pool);
    server(&pool, 0).probed(false);
    let mut policy = retrying();
    policy.retry_for = Duration::from_secs(60);
    // The delay between rounds is random, so a single connection might start its next round by
    // chance.
    let mut waiting = JoinSet::new();
    for _ in 0..16 {
        let pool = Arc::clone(&pool);
        waiting.spawn(async move { connect(&pool, &Selector::all(), &policy).await });
    }
    // Let simulated time pass until the delay between rounds has grown.
    tokio::time::pause();
    tokio::time::sleep(Duration::from_secs(2)).await;
    tokio::time::resume();
    let start = now();
    server(&pool, 0).probed(true);
    let connected = within(DEADLINE, "the connections", waiting.join_all()).await;
    let took = now() - start;
    for connected in connected {
        assert_eq!(connected.unwrap().attempts, 1);
    }
    assert!(took < Duration::from_millis(400), "{took:?}");
}

#[tokio::test]
async fn ejected_server_is_dialled_if_none_is_available() {
    let (dead, _keep) = refusing().await;
    let recovered = Upstream::start(Behaviour::Echo).await;
    let pool = default_pool(&[dead, recovered.addr()]);
    server(&pool, 1).connect_failed(now(), now());
    let connected = connect_all(&pool, &POLICY).await.unwrap();
    assert_eq!(connected.attempts, 2);
    assert_eq!(connected.lease.server().id().as_str(), "web1");
    assert!(
        server(&pool, 1).status().is_up(),
        "the successful connect ends the ejection"
    );
}

#[tokio::test]
async fn attempts_are_readable_after_cancellation() {
    let (address, _keep) = refusing().await;
    let pool = default_pool(&[address]);
    let attempts = Attempts::default();
    let (all, policy) = (Selector::all(), retrying());
    let connecting = Connect::new(&pool, &all, &policy).attempts(&attempts).run();
    assert!(
        timeout(Duration::from_millis(50), connecting)
            .await
            .is_err()
    );
    // A slow machine may have time for only one attempt.
    assert!(attempts.get() >= 1);
    assert_eq!(server(&pool, 0).in_flight(), 0);
}
