use std::{
    net::SocketAddr,
    sync::atomic::{AtomicU32, Ordering},
};

use leastconn_testkit::{DEADLINE, within};
use tokio::time::{advance, sleep};

use super::*;

fn name() -> &'static Address {
    static NAME: std::sync::LazyLock<Address> = std::sync::LazyLock::new(|| Address::Name {
        host: "web".into(),
        port: 80,
    });
    &NAME
}

fn found(last: u8) -> io::Result<Addresses> {
    Ok([SocketAddr::from(([10, 0, 0, last], 80))].into())
}

async fn ask(cache: &AddressCache, answer: io::Result<Addresses>) -> io::Result<Addresses> {
    resolve_by(cache, name(), now(), |_, _| async { answer }).await
}

fn failure() -> io::Result<Addresses> {
    Err(io::ErrorKind::TimedOut.into())
}

/// Waits until a lookup that takes no time has completed.
async fn looked_up() {
    tokio::task::yield_now().await;
}

#[tokio::test(start_paused = true)]
async fn stale_answer_is_used_during_refresh() {
    let cache = AddressCache::default();
    assert_eq!(ask(&cache, found(1)).await.unwrap(), found(1).unwrap());
    assert_eq!(ask(&cache, found(2)).await.unwrap(), found(1).unwrap());
    advance(FRESH).await;
    assert_eq!(ask(&cache, found(2)).await.unwrap(), found(1).unwrap());
    looked_up().await;
    assert_eq!(ask(&cache, found(3)).await.unwrap(), found(2).unwrap());
}

#[tokio::test(start_paused = true)]
async fn failed_connects_trigger_rate_limited_lookups() {
    let cache = AddressCache::default();
    ask(&cache, found(1)).await.unwrap();
    let invalidate =
        |to| invalidate_by(&cache, name(), now(), move |_, _| async move { found(to) });
    invalidate(2);
    looked_up().await;
    assert_eq!(ask(&cache, found(9)).await.unwrap(), found(1).unwrap());
    advance(MIN_INTERVAL).await;
    invalidate(2);
    looked_up().await;
    assert_eq!(ask(&cache, found(9)).await.unwrap(), found(2).unwrap());
}

#[tokio::test(start_paused = true)]
async fn slow_or_failing_resolver_delays_no_connection() {
    let cache = AddressCache::default();
    ask(&cache, found(1)).await.unwrap();
    advance(FRESH).await;
    assert_eq!(ask(&cache, failure()).await.unwrap(), found(1).unwrap());
    looked_up().await;
    // While the resolver is failing, connections do not each query it.
    assert_eq!(ask(&cache, found(2)).await.unwrap(), found(1).unwrap());
    looked_up().await;
    assert_eq!(ask(&cache, found(2)).await.unwrap(), found(1).unwrap());
    advance(MIN_INTERVAL).await;
    let start = now();
    let slow = resolve_by(&cache, name(), now(), |_, _| async {
        sleep(Duration::from_secs(30)).await;
        found(3)
    });
    assert_eq!(slow.await.unwrap(), found(1).unwrap());
    assert_eq!(ask(&cache, found(2)).await.unwrap(), found(1).unwrap());
    assert_eq!(now(), start);
    // A late answer is used once it has arrived.
    sleep(Duration::from_secs(31)).await;
    assert_eq!(ask(&cache, found(2)).await.unwrap(), found(3).unwrap());
}

#[tokio::test(start_paused = true)]
async fn old_answer_is_a_fallback_until_it_expires() {
    let cache = AddressCache::default();
    ask(&cache, found(1)).await.unwrap();
    advance(OLD).await;
    assert_eq!(ask(&cache, failure()).await.unwrap(), found(1).unwrap());
    advance(MIN_INTERVAL).await;
    let start = now();
    let slow = resolve_by(&cache, name(), now(), |_, _| async {
        sleep(Duration::from_secs(5)).await;
        failure()
    });
    assert_eq!(slow.await.unwrap(), found(1).unwrap());
    assert_eq!(now() - start, WAIT);
    sleep(Duration::from_secs(10)).await;
    assert_eq!(ask(&cache, found(2)).await.unwrap(), found(2).unwrap());
    advance(EXPIRED).await;
    ask(&cache, failure()).await.unwrap_err();
}

#[tokio::test(start_paused = true)]
async fn lookups_are_shared_and_survive_cancellation() {
    let cache = AddressCache::default();
    let asked = Arc::new(AtomicU32::new(0));
    let slow = || {
        let asked = Arc::clone(&asked);
        resolve_by(&cache, name(), now(), move |_, _| async move {
            asked.fetch_add(1, Ordering::Relaxed);
            sleep(Duration::from_secs(20)).await;
            found(1)
        })
    };
    for _ in 0..10 {
        assert!(timeout(Duration::from_secs(1), slow()).await.is_err());
    }
    let (one, other) = within(2 * DEADLINE, "the answer", async {
        tokio::join!(slow(), slow())
    })
    .await;
    assert_eq!(
        (one.unwrap(), other.unwrap()),
        (found(1).unwrap(), found(1).unwrap())
    );
    assert_eq!(asked.load(Ordering::Relaxed), 1);
}

#[tokio::test(start_paused = true)]
async fn failed_lookup_is_shared_and_keeps_its_error_code() {
    let cache = AddressCache::default();
    let out_of_files = || Err(io::Error::from_raw_os_error(libc::EMFILE));
    let (one, other) = tokio::join!(ask(&cache, out_of_files()), ask(&cache, found(1)));
    for result in [one, other] {
        assert_eq!(
            ConnectFault::of(&result.unwrap_err()),
            ConnectFault::Exhausted
        );
    }
    // The next lookup may succeed, because this process may have closed files in the meantime.
    assert_eq!(ask(&cache, found(1)).await.unwrap(), found(1).unwrap());
}

#[tokio::test(start_paused = true)]
async fn failed_lookups_are_rate_limited_without_an_answer() {
    let cache = AddressCache::default();
    ask(&cache, failure()).await.unwrap_err();
    let error = ask(&cache, found(1)).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    advance(MIN_INTERVAL).await;
    assert_eq!(ask(&cache, found(1)).await.unwrap(), found(1).unwrap());
}

#[tokio::test(start_paused = true)]
async fn failed_lookup_does_not_revive_an_expired_answer() {
    let cache = AddressCache::default();
    ask(&cache, found(1)).await.unwrap();
    advance(EXPIRED).await;
    for _ in 0..2 {
        ask(&cache, failure()).await.unwrap_err();
    }
}

#[test]
fn lookup_is_restarted_after_its_runtime_ended() {
    let cache = AddressCache::default();
    let runtime = || {
        tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap()
    };
    runtime().block_on(async {
        let never = resolve_by(&cache, name(), now(), |_, _| std::future::pending());
        assert!(timeout(Duration::from_secs(1), never).await.is_err());
    });
    runtime().block_on(async {
        assert_eq!(ask(&cache, found(1)).await.unwrap(), found(1).unwrap());
    });
}
