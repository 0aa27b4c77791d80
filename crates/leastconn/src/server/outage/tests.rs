#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::{
    num::NonZeroU32,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use super::{Failure, Outage};
use crate::{
    Address, Pool, Server, ServerSpec,
    health::{ActivePolicy, Availability, PassivePolicy, Ratio},
};

const FALL_2: ActivePolicy = ActivePolicy {
    rise: NonZeroU32::MIN,
    fall: NonZeroU32::new(2).unwrap(),
};

fn specs() -> [ServerSpec; 2] {
    ["a", "b"].map(|name| ServerSpec::new(name, "127.0.0.1:1".parse::<Address>().unwrap()))
}

fn pool() -> Pool {
    Pool::builder("web")
        .servers(specs())
        .active(FALL_2)
        .seed(1)
        .build()
        .unwrap()
}

fn server(pool: &Pool) -> Arc<Server> {
    pool.server("a").unwrap()
}

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

fn outage(seconds: u64, reason: &str) -> Option<Outage> {
    Some(Outage {
        since: at(seconds),
        reason: reason.into(),
    })
}

#[expect(
    clippy::disallowed_methods,
    reason = "an Instant cannot be constructed otherwise"
)]
fn now() -> Instant {
    Instant::now()
}

#[test]
fn outage_starts_when_the_state_changes() {
    let pool = pool();
    let server = server(&pool);
    server.probed(true);
    assert!(!server.probe_failed(Failure::new(at(1), &"first")));
    assert_eq!(server.outage(), None);
    assert!(server.probe_failed(Failure::new(at(2), &"second")));
    assert_eq!(server.outage(), outage(2, "second"));
    server.probe_failed(Failure::new(at(3), &"third"));
    assert_eq!(server.outage(), outage(2, "third"));
    server.probed(true);
    assert_eq!(server.outage(), None);
}

#[test]
fn reason_comes_from_the_ejecting_connect() {
    let pool = pool();
    let (server, started) = (server(&pool), now());
    server.connect_failed_with(started, started, Failure::new(at(1), &"refused"));
    assert_eq!(server.outage(), outage(1, "refused"));
    // A connect that fails during the ejection does not change the reason.
    let later = started + Duration::from_secs(1);
    server.connect_failed_with(later, later, Failure::new(at(2), &"timed out"));
    assert_eq!(server.outage(), outage(1, "refused"));
    // The server is ejected first and then goes down: the reason is the probe's error, and the
    // start is the start of the ejection.
    server.probe_failed(Failure::new(at(3), &"HTTP status 503"));
    assert_eq!(server.status().availability, Availability::Down);
    assert_eq!(server.outage(), outage(1, "HTTP status 503"));
    server.connect_succeeded();
    assert_eq!(server.outage(), outage(1, "HTTP status 503"));
}

#[test]
fn outage_survives_a_reload() {
    let pool = pool();
    server(&pool).probe_failed(Failure::new(at(1), &"refused"));
    let next = pool
        .successor()
        .servers(specs())
        .active(FALL_2)
        .passive(PassivePolicy::default())
        .build()
        .unwrap();
    assert_eq!(server(&next).outage(), outage(1, "refused"));
    // Without active checks, the server is up again when its ejection ends.
    let next = next
        .successor()
        .servers(specs())
        .active(None)
        .passive(PassivePolicy::default())
        .build()
        .unwrap();
    assert_eq!(server(&next).outage(), None);
}

/// At most one of the two servers may be ejected.
#[test]
fn server_kept_in_use_shows_its_error() {
    let pool = pool();
    let (a, b, started) = (server(&pool), pool.server("b").unwrap(), now());
    let fail = |server: &Server, seconds, error: &str| {
        let later = started + Duration::from_secs(seconds);
        server.connect_failed_with(later, later, Failure::new(at(seconds), &error));
    };
    fail(&a, 1, "refused");
    assert_eq!(a.kept_in_use(), None);
    fail(&b, 2, "timed out");
    assert!(b.status().is_up());
    assert_eq!(b.kept_in_use(), outage(2, "timed out"));
    fail(&b, 3, "refused");
    assert_eq!(b.kept_in_use(), outage(2, "refused"));
    assert_eq!(b.outage(), None);
    b.connect_succeeded();
    assert_eq!(b.kept_in_use(), None);
    // The next failure ejects the server, because the other one has recovered.
    fail(&b, 4, "refused");
    a.connect_succeeded();
    fail(&b, 5, "reset");
    assert_eq!(b.kept_in_use(), None);
    assert_eq!(b.outage(), outage(5, "reset"));
}

/// A server that accepts connections and closes them.
#[test]
fn early_failures_keep_their_start_across_connects() {
    let never = PassivePolicy {
        max_early: 2,
        max_ejected: Ratio::new(0.0).unwrap(),
        ..PassivePolicy::default()
    };
    let pool = Pool::builder("web").servers(specs()).passive(never).build();
    let pool = pool.unwrap();
    let (a, b, started) = (server(&pool), pool.server("b").unwrap(), now());
    b.connect_succeeded();
    for seconds in 1..=4 {
        a.connect_succeeded();
        let expected = match seconds {
            1 | 2 => None,
            _ => outage(2, "closed"),
        };
        assert_eq!(a.kept_in_use(), expected);
        let later = started + Duration::from_secs(seconds);
        a.failed_early(later, later, Failure::new(at(seconds), &"closed"));
    }
    a.served(started + Duration::from_secs(5));
    assert_eq!(a.kept_in_use(), None);
}
