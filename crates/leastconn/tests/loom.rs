//! Loom models of the core, which explore every interleaving of two or three threads.
//!
//! Run with
//! ```text
//! RUSTFLAGS="--cfg loom" CARGO_TARGET_DIR=target/loom \
//!     cargo test -p leastconn --no-default-features --release --test loom
//! ```
//! The `tokio` feature is off because Tokio has no networking under `--cfg loom`. A debug build
//! would be too slow for the number of interleavings. The target directory is separate, because the
//! flag applies to all dependencies and would cause them to be rebuilt. The core takes the time as
//! an argument, so no clock has to be modelled.
#![cfg(loom)]
#![allow(clippy::unwrap_used, reason = "a panic fails the model")]

#[path = "loom/external.rs"]
mod external;
#[path = "loom/limiter.rs"]
mod limiter;

use std::{
    num::NonZeroU32,
    pin::Pin,
    sync::{Arc, LazyLock},
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use leastconn::{
    AdminState, Balance, Candidates, Lease, PanicPolicy, PickRequest, Pool, QueuePolicy, Selector,
    ServerSpec, Source, Waiting,
    health::{ActivePolicy, PassivePolicy, Ratio},
};
use loom::thread;

#[expect(
    clippy::disallowed_methods,
    reason = "an Instant cannot be constructed otherwise; only differences are used"
)]
static START: LazyLock<Instant> = LazyLock::new(Instant::now);

fn at(seconds: u64) -> Instant {
    *START + Duration::from_secs(seconds)
}

fn spec(name: &str) -> ServerSpec {
    ServerSpec::new(name, std::net::SocketAddr::from(([127, 0, 0, 1], 80)))
}

/// A pool with all of its servers. A failed connect ejects a server for ten seconds, and ejected
/// servers are not picked.
#[derive(Clone)]
struct Setup {
    pool: Arc<Pool>,
    all: Candidates,
}

impl Setup {
    fn new(servers: impl IntoIterator<Item = ServerSpec>) -> Self {
        Self::seeded(servers, 7)
    }

    fn seeded(servers: impl IntoIterator<Item = ServerSpec>, seed: u64) -> Self {
        let pool = Pool::builder("pool")
            .servers(servers)
            .passive(eject_all())
            .panic(PanicPolicy::Refuse)
            .seed(seed)
            .build()
            .unwrap();
        let all = pool.all();
        let pool = Arc::new(pool);
        Self { pool, all }
    }

    /// Like [`Self::new`], but uses `balance` instead of least connections.
    fn by(servers: impl IntoIterator<Item = ServerSpec>, balance: Balance) -> Self {
        let pool = Pool::builder("pool")
            .servers(servers)
            .balance(balance)
            .seed(7)
            .build();
        let pool = Arc::new(pool.unwrap());
        let all = pool.all();
        Self { pool, all }
    }

    fn pick(&self, now: Instant) -> Option<Lease> {
        let source = Source::from(std::net::IpAddr::from([127, 0, 0, 1]));
        let request = PickRequest::new(now).source(source);
        self.pool.pick_for(&self.all, &request)
    }

    fn spawn<T: 'static>(&self, run: impl FnOnce(Self) -> T + 'static) -> thread::JoinHandle<T> {
        let setup = self.clone();
        thread::spawn(move || run(setup))
    }

    fn in_flight(&self) -> Vec<u32> {
        let members = self.pool.members();
        members
            .iter()
            .map(|member| member.server.in_flight())
            .collect()
    }
}

/// A policy under which all servers may be ejected.
fn eject_all() -> PassivePolicy {
    let mut passive = PassivePolicy::default();
    passive.max_ejected = Ratio::ALL;
    passive
}

/// Explores only interleavings with at most three preemptions. Used for models whose full
/// exploration would take hours.
fn model_with_bounded_preemption(model: impl Fn() + Sync + Send + 'static) {
    model_with_preemptions(3, model);
}

fn model_with_preemptions(bound: usize, model: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(bound);
    builder.check(model);
}

#[test]
fn concurrent_picks_differ_by_at_most_one() {
    // Each thread makes the same number of picks. The total is even, so equal counts are expected;
    // with an odd total, a difference of one would be correct. With some of the seeds, both threads
    // prefer the same server.
    for (each, seed) in (1..=2).flat_map(|each| (0..8).map(move |seed| (each, seed))) {
        loom::model(move || {
            let setup = Setup::seeded([spec("a"), spec("b")], seed);
            let picks = move |setup: Setup| -> Vec<_> {
                (0..each).map(|_| setup.pick(at(0)).unwrap()).collect()
            };
            let other = setup.spawn(picks);
            let held = (picks(setup.clone()), other.join().unwrap());
            assert_eq!(setup.in_flight(), [each, each]);
            drop(held);
            assert_eq!(setup.in_flight(), [0, 0]);
        });
    }
}

#[test]
fn concurrent_picks_respect_max_conns() {
    loom::model(|| {
        let setup = Setup::new([spec("a").max_conns(NonZeroU32::new(1))]);
        let other = setup.spawn(|setup| setup.pick(at(0)));
        let one = setup.pick(at(0));
        let two = other.join().unwrap();
        assert_eq!(u32::from(one.is_some()) + u32::from(two.is_some()), 1);
        assert_eq!(setup.in_flight(), [1]);
    });
}

#[test]
fn concurrent_round_robin_picks_are_exact() {
    for each in 1..=2 {
        model_with_bounded_preemption(move || {
            let setup = Setup::by([spec("a"), spec("b")], Balance::RoundRobin);
            let picks = move |setup: Setup| -> Vec<_> {
                (0..each).map(|_| setup.pick(at(0)).unwrap()).collect()
            };
            let other = setup.spawn(picks);
            let _held = (picks(setup.clone()), other.join().unwrap());
            assert_eq!(setup.in_flight(), [each, each]);
        });
    }
}

#[test]
fn concurrent_picks_respect_max_conns_with_each_algorithm() {
    for balance in [
        Balance::P2c,
        Balance::RoundRobin,
        Balance::Random,
        Balance::SourceHash,
    ] {
        loom::model(move || {
            let one = |name| spec(name).max_conns(NonZeroU32::new(1));
            let setup = Setup::by([one("a"), one("b")], balance);
            let other = setup.spawn(|setup| setup.pick(at(0)));
            let held = (setup.pick(at(0)), other.join().unwrap());
            assert!(held.0.is_some() && held.1.is_some(), "{balance:?}");
            assert_eq!(setup.in_flight(), [1, 1]);
            assert!(setup.pick(at(0)).is_none());
        });
    }
}

#[test]
fn concurrent_picks_start_one_slow_start() {
    model_with_bounded_preemption(|| {
        let pool = Pool::builder("pool")
            .servers([spec("a")])
            .slow_start(Duration::from_secs(10))
            .seed(7)
            .build()
            .unwrap();
        let pool = Arc::new(pool);
        let all = pool.all();
        let setup = Setup { pool, all };
        let server = &setup.pool.members()[0].server;
        server.set_admin(AdminState::Maint);
        server.set_admin(AdminState::Ready);
        let other = setup.spawn(|setup| setup.pick(at(0)));
        let one = setup.pick(at(0));
        let two = other.join().unwrap();
        // The pool has only one server, which therefore gets all connections even during its ramp.
        assert!(one.is_some() && two.is_some());
        let other = setup.spawn(|setup| setup.pick(at(10)));
        let three = setup.pick(at(10));
        let four = other.join().unwrap();
        assert!(three.is_some() && four.is_some());
        assert_eq!(setup.in_flight(), [4]);
    });
}

#[test]
fn drained_server_is_never_picked() {
    loom::model(|| {
        let setup = Setup::new([spec("a")]);
        let other = setup.spawn(|setup| setup.pick(at(0)));
        setup.pool.members()[0].server.set_admin(AdminState::Drain);
        // The other thread's pick has either counted its connection by now, or will fail. No
        // connection is added after this line.
        let then = setup.in_flight();
        assert!(setup.pick(at(0)).is_none());
        let lease = other.join().unwrap();
        assert_eq!(then, [u32::from(lease.is_some())]);
        assert_eq!(setup.in_flight(), then);
    });
}

#[test]
fn concurrent_drop_and_pick_keep_counts() {
    loom::model(|| {
        let setup = Setup::new([spec("a"), spec("b")]);
        let held = setup.pick(at(0)).unwrap();
        let other = setup.spawn(|setup| setup.pick(at(0)).unwrap());
        drop(held);
        let lease = other.join().unwrap();
        assert_eq!(setup.in_flight().iter().sum::<u32>(), 1);
        assert_eq!(lease.server().in_flight(), 1);
        drop(lease);
        assert_eq!(setup.in_flight(), [0, 0]);
    });
}

#[test]
fn trial_admits_one_connection() {
    loom::model(|| {
        let setup = Setup::new([spec("a")]);
        setup.pool.members()[0].server.connect_failed(at(0), at(0));
        let other = setup.spawn(|setup| setup.pick(at(10)));
        let one = setup.pick(at(10));
        let two = other.join().unwrap();
        assert_eq!(u32::from(one.is_some()) + u32::from(two.is_some()), 1);
    });
}

#[test]
fn dropped_lease_does_not_prevent_a_trial() {
    loom::model(|| {
        let setup = Setup::new([spec("a")]);
        let old = setup.pick(at(0)).unwrap();
        old.server().connect_failed(at(0), at(0));
        let ends = thread::spawn(move || drop(old));
        let trial = setup.pick(at(10));
        ends.join().unwrap();
        assert!(trial.is_some());
        assert_eq!(setup.in_flight(), [1]);
    });
}

#[test]
fn concurrent_failure_and_trial_leave_consistent_state() {
    loom::model(|| {
        let setup = Setup::new([spec("a")]);
        setup.pool.members()[0].server.connect_failed(at(0), at(0));
        // A connect fails just when the trial is due. If the trial has already begun, this failure
        // ends it.
        let late = setup.spawn(|setup| {
            setup.pool.members()[0]
                .server
                .connect_failed(at(10), at(10))
        });
        let trial = setup.pick(at(10));
        let _ = late.join().unwrap();
        assert!(
            setup.pick(at(19)).is_none(),
            "either a trial has begun, or none is due yet"
        );
        drop(trial);
        // The second ejection lasts twice as long as the first.
        assert!(setup.pick(at(30)).is_some());
    });
}

#[test]
fn concurrent_failure_and_drain_keep_both() {
    loom::model(|| {
        let setup = Setup::new([spec("a")]);
        let other =
            setup.spawn(|setup| setup.pool.members()[0].server.connect_failed(at(0), at(0)));
        let server = &setup.pool.members()[0].server;
        server.set_admin(AdminState::Drain);
        let _ = other.join().unwrap();
        let status = server.status();
        assert_eq!(status.admin, AdminState::Drain);
        assert!(!status.is_up());
        server.set_admin(AdminState::Ready);
        assert!(setup.pick(at(9)).is_none(), "still ejected");
    });
}

#[test]
fn concurrent_failures_eject_half_of_servers() {
    loom::model(|| {
        let servers = [spec("a"), spec("b")];
        let pool = Pool::builder("pool")
            .servers(servers)
            .seed(7)
            .build()
            .unwrap();
        let all = pool.all();
        let setup = Setup {
            pool: Arc::new(pool),
            all,
        };
        let fails = |setup: &Setup, number: usize| {
            setup.pool.members()[number]
                .server
                .connect_failed(at(0), at(0))
        };
        let other = setup.spawn(move |setup| fails(&setup, 1));
        let one = fails(&setup, 0);
        let two = other.join().unwrap();
        assert_eq!(u32::from(one) + u32::from(two), 1);
        assert!(setup.pick(at(0)).is_some());
        assert!(!setup.pool.is_panicking());
    });
}

#[test]
fn concurrent_picks_of_unavailable_servers_are_counted() {
    loom::model(|| {
        let pool = Pool::builder("pool")
            .servers([spec("a")])
            .passive(eject_all())
            .seed(7)
            .build()
            .unwrap();
        let all = pool.all();
        let setup = Setup {
            pool: Arc::new(pool),
            all,
        };
        setup.pool.members()[0].server.connect_failed(at(0), at(0));
        assert!(setup.pool.is_panicking());
        let other = setup.spawn(|setup| setup.pick(at(1)));
        let one = setup.pick(at(1));
        let two = other.join().unwrap();
        assert!(one.is_some() && two.is_some());
        assert_eq!(setup.in_flight(), [2]);
        drop((one, two));
        assert_eq!(setup.in_flight(), [0]);
    });
}

#[test]
fn concurrent_pick_and_recovery_find_the_server() {
    for down in [false, true] {
        loom::model(move || {
            let active = ActivePolicy::new(NonZeroU32::MIN, NonZeroU32::MIN);
            let pool = Pool::builder("pool")
                .servers([spec("a")])
                .active(active)
                .passive(eject_all())
                .seed(7)
                .build()
                .unwrap();
            let all = pool.all();
            let setup = Setup {
                pool: Arc::new(pool),
                all,
            };
            let server = &setup.pool.members()[0].server;
            if down {
                server.probed(false);
            } else {
                server.connect_failed(at(0), at(0));
            }
            let other = setup.spawn(|setup| setup.pool.members()[0].server.probed(true));
            assert!(setup.pick(at(1)).is_some());
            assert!(other.join().unwrap());
            assert!(!setup.pool.is_panicking());
        });
    }
}

/// A pool with a queue and a single server that has one slot.
fn queueing() -> Setup {
    let pool = Pool::builder("pool")
        .servers([spec("a").max_conns(NonZeroU32::new(1))])
        .queue(QueuePolicy::new(2, Duration::from_secs(5)))
        .seed(7)
        .build()
        .unwrap();
    let all = pool.all();
    let pool = Arc::new(pool);
    Setup { pool, all }
}

fn wait(setup: &Setup) -> Waiting {
    let waiting = setup.pool.enqueue(&Selector::all(), None, None, at(0));
    waiting.unwrap()
}

fn poll(waiting: &mut Waiting) -> Option<Lease> {
    let mut context = Context::from_waker(Waker::noop());
    match Pin::new(waiting).poll(&mut context) {
        Poll::Ready(lease) => Some(lease.unwrap()),
        Poll::Pending => None,
    }
}

#[test]
fn freed_slot_is_not_missed() {
    loom::model(|| {
        let setup = queueing();
        let held = setup.pick(at(0)).unwrap();
        let ends = thread::spawn(move || drop(held));
        let mut waiting = wait(&setup);
        let early = poll(&mut waiting);
        ends.join().unwrap();
        // The slot is free, so it must have been handed over.
        let lease = early.or_else(|| poll(&mut waiting));
        assert!(lease.is_some());
        assert_eq!(setup.in_flight(), [1]);
        drop(lease);
        assert!(setup.pick(at(0)).is_some(), "the reservation has ended");
    });
}

#[test]
fn slot_of_a_leaving_waiter_goes_to_the_next() {
    loom::model(|| {
        let setup = queueing();
        let held = setup.pick(at(0)).unwrap();
        let leaving = wait(&setup);
        let mut next = wait(&setup);
        let ends = thread::spawn(move || drop(held));
        drop(leaving);
        ends.join().unwrap();
        assert!(poll(&mut next).is_some());
        assert_eq!(setup.in_flight(), [0]);
    });
}

#[test]
fn new_connection_neither_overtakes_nor_exceeds_max_conns() {
    model_with_bounded_preemption(|| {
        let setup = queueing();
        let held = setup.pick(at(0)).unwrap();
        let mut waiting = wait(&setup);
        let ends = thread::spawn(move || drop(held));
        assert!(setup.pick(at(0)).is_none());
        ends.join().unwrap();
        let lease = poll(&mut waiting);
        assert!(lease.is_some() && setup.pick(at(0)).is_none());
        assert_eq!(setup.in_flight(), [1]);
    });
}

#[test]
fn returning_server_is_not_missed() {
    loom::model(|| {
        let setup = queueing();
        let server = &setup.pool.members()[0].server;
        let held = setup.pick(at(0)).unwrap();
        let mut waiting = wait(&setup);
        server.set_admin(AdminState::Drain);
        drop(held);
        assert!(poll(&mut waiting).is_none());
        let other = setup.spawn(|setup| {
            setup.pool.members()[0].server.set_admin(AdminState::Ready);
        });
        let second = setup.pool.enqueue(&Selector::all(), None, None, at(0));
        other.join().unwrap();
        let first = poll(&mut waiting);
        assert!(first.is_some(), "the first connection is served first");
        let mut second = second.ok();
        assert!(second.as_mut().is_none_or(|second| poll(second).is_none()));
        drop(first);
        assert!(second.is_none_or(|mut second| poll(&mut second).is_some()));
        assert_eq!(setup.in_flight(), [0]);
    });
}
