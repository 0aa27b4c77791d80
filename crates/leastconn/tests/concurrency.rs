//! Tests that counts stay exact under concurrent picks, drops and drains.
#![allow(clippy::unwrap_used, reason = "a panic fails the test")]

use std::{
    net::SocketAddr,
    num::NonZeroU32,
    sync::{
        Barrier, LazyLock,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::Instant,
};

use leastconn::{
    AdminState, Balance, ClientId, Lease, Limiter, Limits, Pool, RateLimit, ServerSpec, Tried,
    Weight,
};

#[expect(
    clippy::disallowed_methods,
    reason = "an Instant cannot be constructed otherwise; no time is measured"
)]
static NOW: LazyLock<Instant> = LazyLock::new(Instant::now);

fn spec(number: usize) -> ServerSpec {
    ServerSpec::new(number.to_string(), SocketAddr::from(([127, 0, 0, 1], 80)))
}

fn pool(servers: impl IntoIterator<Item = ServerSpec>) -> Pool {
    pool_by(Balance::LeastConn, servers)
}

fn pool_by(balance: Balance, servers: impl IntoIterator<Item = ServerSpec>) -> Pool {
    let pool = Pool::builder("pool").servers(servers).balance(balance);
    pool.seed(7).build().unwrap()
}

fn pick(pool: &Pool) -> Option<Lease> {
    pool.pick(&pool.all(), &Tried::default(), *NOW)
}

fn in_flight(pool: &Pool) -> Vec<u32> {
    let members = pool.members();
    members
        .iter()
        .map(|member| member.server.in_flight())
        .collect()
}

/// Runs `run` on each of `threads` threads. All threads start at the same time.
fn at_once<T: Send>(threads: usize, run: impl Fn(usize) -> T + Sync) -> Vec<T> {
    let start = Barrier::new(threads);
    thread::scope(|scope| {
        let (start, run) = (&start, &run);
        let handles: Vec<_> = (0..threads)
            .map(|thread| {
                scope.spawn(move || {
                    start.wait();
                    run(thread)
                })
            })
            .collect();
        handles.into_iter().map(|h| h.join().unwrap()).collect()
    })
}

/// Picks one server on each of `connections` threads. Returns the connection counts while all
/// leases are held.
fn spread(pool: &Pool, connections: usize) -> Vec<u32> {
    let leases = at_once(connections, |_| pick(pool).unwrap());
    let counts = in_flight(pool);
    drop(leases);
    assert!(in_flight(pool).iter().all(|&count| count == 0));
    counts
}

#[test]
fn concurrent_picks_spread_evenly_over_servers() {
    let pool = pool((0..4).map(spec));
    assert_eq!(spread(&pool, 500), [125; 4]);
}

#[test]
fn concurrent_picks_follow_weights_within_one_connection() {
    let weights = [1u32, 2, 5];
    let pool = pool(
        weights
            .iter()
            .enumerate()
            .map(|(number, &weight)| spec(number).weight(Weight::new(weight).unwrap())),
    );
    for connections in [500, 331, 80, 7] {
        let counts = spread(&pool, connections);
        for (count, weight) in counts.iter().zip(weights) {
            let ideal = connections as f64 * f64::from(weight) / 8.0;
            assert!(
                (f64::from(*count) - ideal).abs() <= 1.0,
                "{counts:?} of {connections}"
            );
        }
    }
}

/// The program that this project replaced counted a connection only after dialling. While one
/// connection was being dialled, all others that arrived chose the same server.
#[test]
fn connections_count_before_dialling() {
    let pool = pool((0..4).map(spec));
    // Picks without dialling, like connections that arrive while an earlier one is still being
    // dialled.
    let leases: Vec<_> = (0..8).map(|_| pick(&pool).unwrap()).collect();
    assert_eq!(in_flight(&pool), [2; 4]);
    drop(leases);
    assert_eq!(spread(&pool, 100), [25; 4]);
}

#[test]
fn held_picks_differ_by_at_most_one() {
    for (threads, servers) in [(2, 3), (8, 7), (16, 64)] {
        let pool = pool((0..servers).map(spec));
        let held = at_once(threads, |thread| -> Vec<Lease> {
            (0..50 + thread).map(|_| pick(&pool).unwrap()).collect()
        });
        let counts = in_flight(&pool);
        let (min, max) = (counts.iter().min().unwrap(), counts.iter().max().unwrap());
        assert!(max - min <= 1, "{counts:?}");
        let total: usize = held.iter().map(Vec::len).sum();
        assert_eq!(counts.iter().sum::<u32>() as usize, total);
    }
}

#[test]
fn concurrent_round_robin_is_exact() {
    let weights = [1u32, 2, 5, 2];
    for threads in [2, 8] {
        let pool = pool_by(
            Balance::RoundRobin,
            weights
                .iter()
                .enumerate()
                .map(|(number, &weight)| spec(number).weight(Weight::new(weight).unwrap())),
        );
        let _held = at_once(threads, |_| -> Vec<Lease> {
            (0..100).map(|_| pick(&pool).unwrap()).collect()
        });
        let rounds = threads as u32 * 100 / 10;
        assert_eq!(in_flight(&pool), weights.map(|weight| weight * rounds));
    }
}

#[test]
fn full_pool_respects_max_conns_with_each_algorithm() {
    for balance in [
        Balance::P2c,
        Balance::RoundRobin,
        Balance::Random,
        Balance::SourceHash,
    ] {
        let pool = pool_by(
            balance,
            (0..4).map(|number| spec(number).max_conns(NonZeroU32::new(5))),
        );
        let leases = at_once(40, |_| pick(&pool));
        assert_eq!(leases.iter().flatten().count(), 20, "{balance:?}");
        assert_eq!(in_flight(&pool), [5; 4]);
    }
}

#[test]
fn max_conns_is_never_exceeded() {
    let pool = pool((0..3).map(|number| spec(number).max_conns(NonZeroU32::new(2))));
    let open: [AtomicUsize; 3] = Default::default();
    at_once(8, |_| {
        for _ in 0..2_000 {
            // The counter is increased after the pick and decreased before the lease is dropped, so
            // it never exceeds the real count.
            let Some(lease) = pick(&pool) else { continue };
            let open = &open[lease.server().id().as_str().parse::<usize>().unwrap()];
            assert!(open.fetch_add(1, Ordering::SeqCst) < 2);
            open.fetch_sub(1, Ordering::SeqCst);
        }
    });
    assert_eq!(in_flight(&pool), [0; 3]);
}

#[test]
fn full_pool_holds_exactly_max_conns() {
    let pool = pool((0..4).map(|number| spec(number).max_conns(NonZeroU32::new(5))));
    let leases = at_once(40, |_| pick(&pool));
    assert_eq!(leases.iter().flatten().count(), 20);
    assert_eq!(in_flight(&pool), [5; 4]);
}

#[test]
fn drained_server_is_never_picked() {
    let pool = pool((0..2).map(spec));
    let server = &pool.members()[0].server;
    let done = AtomicBool::new(false);
    at_once(4, |thread| {
        if thread > 0 {
            while !done.load(Ordering::SeqCst) {
                drop(pick(&pool));
            }
            return;
        }
        for _ in 0..2_000 {
            server.set_admin(AdminState::Drain);
            // Open connections may end, but no new connection is added.
            let counts: [u32; 20] = std::array::from_fn(|_| server.in_flight());
            assert!(
                counts.is_sorted_by(|before, after| before >= after),
                "{counts:?}"
            );
            server.set_admin(AdminState::Ready);
        }
        done.store(true, Ordering::SeqCst);
    });
    server.set_admin(AdminState::Drain);
    let picks = at_once(4, |_| {
        (0..1_000).all(|_| pick(&pool).is_some_and(|lease| lease.server().id().as_str() == "1"))
    });
    assert_eq!(picks, [true; 4]);
    assert_eq!(server.in_flight(), 0);
}

#[test]
fn limits_hold_under_concurrent_admission() {
    let limiter = Limiter::new(10, *NOW);
    let alice = ClientId::from("alice");
    let burst = Limits::default().rate(RateLimit::new(1e-6, NonZeroU32::new(100).unwrap()));
    let ask = |limits: &Limits| limiter.admit(&alice, limits, *NOW).ok();
    let permits = at_once(8, |_| {
        (0..50).filter_map(|_| ask(&burst)).collect::<Vec<_>>()
    });
    assert_eq!(permits.iter().flatten().count(), 100);
    drop(permits);

    let few = Limits::default().max_conns(NonZeroU32::new(3));
    let open = AtomicUsize::new(0);
    at_once(8, |_| {
        for _ in 0..2_000 {
            let Some(_permit) = ask(&few) else { continue };
            assert!(open.fetch_add(1, Ordering::SeqCst) < 3);
            open.fetch_sub(1, Ordering::SeqCst);
        }
    });
    assert_eq!(limiter.open(&alice), 0);
}
