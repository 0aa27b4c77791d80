//! Tests that each balancing algorithm distributes connections as documented and picks only
//! eligible servers.
//!
//! The tolerances are five standard deviations. If each of `n` draws succeeds with probability `p`,
//! the number of successes differs from `n p` by at most `5 sqrt(n p (1 - p))`, except in one of
//! 1.7 million cases. Seeds are fixed, so the tests are deterministic.
#![allow(clippy::unwrap_used, reason = "a panic fails the test")]

use std::{
    collections::{BTreeMap, HashMap},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::LazyLock,
    time::Instant,
};

use leastconn::{
    AdminState, Balance, Candidates, Lease, PanicPolicy, PickRequest, Pool, ServerSpec, Source,
    Tried, Weight,
    health::{PassivePolicy, Ratio},
};
use proptest::prelude::*;

#[expect(
    clippy::disallowed_methods,
    reason = "an Instant cannot be constructed otherwise; no time is measured"
)]
static NOW: LazyLock<Instant> = LazyLock::new(Instant::now);

const ALL: [Balance; 5] = [
    Balance::LeastConn,
    Balance::P2c,
    Balance::RoundRobin,
    Balance::Random,
    Balance::SourceHash,
];

/// Creates servers with these weights, named "0", "1" and so on.
fn specs(weights: &[u32]) -> Vec<ServerSpec> {
    let spec = |(number, &weight): (usize, &u32)| {
        ServerSpec::new(number.to_string(), SocketAddr::from(([127, 0, 0, 1], 80)))
            .weight(Weight::new(weight).unwrap())
    };
    weights.iter().enumerate().map(spec).collect()
}

fn pool(balance: Balance, servers: Vec<ServerSpec>, seed: u64) -> Pool {
    let pool = Pool::builder("pool").servers(servers).balance(balance);
    pool.seed(seed).build().unwrap()
}

fn number(lease: &Lease) -> usize {
    lease.server().id().as_str().parse().unwrap()
}

fn pick(pool: &Pool, candidates: &Candidates) -> Option<Lease> {
    pool.pick(candidates, &Tried::default(), *NOW)
}

fn pick_from(pool: &Pool, candidates: &Candidates, source: IpAddr) -> Option<Lease> {
    let request = PickRequest::new(*NOW).source(Source::from(source));
    pool.pick_for(candidates, &request)
}

/// Returns `count` different source addresses.
fn sources(count: u32) -> impl Iterator<Item = IpAddr> {
    (0..count).map(|n| Ipv4Addr::from(0x0a00_0000 + n).into())
}

/// Picks a server for each source and returns the server numbers. Leases are dropped immediately.
fn mapped(pool: &Pool, candidates: &Candidates, count: u32) -> Vec<usize> {
    sources(count)
        .map(|source| number(&pick_from(pool, candidates, source).unwrap()))
        .collect()
}

fn counts(picked: impl IntoIterator<Item = usize>, servers: usize) -> Vec<u32> {
    let mut counts = vec![0; servers];
    for number in picked {
        counts[number] += 1;
    }
    counts
}

/// Asserts that `counts` are proportional to `weights`, within the tolerance.
#[track_caller]
fn assert_by_weight(counts: &[u32], weights: &[u32]) {
    let total = f64::from(weights.iter().sum::<u32>());
    let draws = f64::from(counts.iter().sum::<u32>());
    for (&count, &weight) in counts.iter().zip(weights) {
        let chance = f64::from(weight) / total;
        let deviation = (draws * chance * (1.0 - chance)).sqrt();
        let off = (f64::from(count) - draws * chance).abs();
        assert!(off <= 5.0 * deviation, "{counts:?} for {weights:?}");
    }
}

const WEIGHTS: [u32; 5] = [1, 5, 2, 1, 16];

#[test]
fn random_follows_weights() {
    let pool = pool(Balance::Random, specs(&WEIGHTS), 1);
    let picked = (0..50_000).map(|_| number(&pick(&pool, &pool.all()).unwrap()));
    assert_by_weight(&counts(picked, 5), &WEIGHTS);
}

#[test]
fn random_in_subset_follows_available_weights() {
    let pool = pool(Balance::Random, specs(&WEIGHTS), 1);
    let some = pool.subset(|server| server.id().as_str() != "4");
    pool.server("2").unwrap().set_admin(AdminState::Drain);
    let picked = (0..50_000).map(|_| number(&pick(&pool, &some).unwrap()));
    assert_by_weight(&counts(picked, 5), &[1, 5, 0, 1, 0]);
}

#[test]
fn source_hash_follows_weights() {
    let pool = pool(Balance::SourceHash, specs(&WEIGHTS), 1);
    assert_by_weight(&counts(mapped(&pool, &pool.all(), 50_000), 5), &WEIGHTS);
}

#[test]
fn source_hash_ignores_seed_order_and_load() {
    let one = pool(Balance::SourceHash, specs(&[1, 2, 1, 1]), 1);
    let mut turned = specs(&[1, 2, 1, 1]);
    turned.reverse();
    let other = pool(Balance::SourceHash, turned, 99);
    let _busy: Vec<_> = (0..100).map(|_| pick(&one, &one.all()).unwrap()).collect();
    assert_eq!(
        mapped(&one, &one.all(), 1_000),
        mapped(&other, &other.all(), 1_000)
    );
}

#[test]
fn mapped_ipv4_address_is_the_same_source() {
    let v4: IpAddr = "192.0.2.7".parse().unwrap();
    let v6: IpAddr = "::ffff:192.0.2.7".parse().unwrap();
    assert_eq!(Source::from(v4), Source::from(v6));
    assert_ne!(
        Source::from(v4),
        Source::from("192.0.2.8".parse::<IpAddr>().unwrap())
    );
}

/// Compares with fixed expected values. If the mapping changed between releases, an upgrade would
/// move clients to other servers.
#[test]
fn source_mapping_is_stable_between_releases() {
    let pool = pool(Balance::SourceHash, specs(&[1, 1, 1, 2]), 1);
    let picked = mapped(&pool, &pool.all(), 16);
    assert_eq!(picked, KNOWN);
}

const KNOWN: [usize; 16] = [1, 0, 1, 3, 3, 3, 0, 2, 3, 0, 3, 3, 1, 2, 2, 3];

#[test]
fn removed_server_moves_only_its_own_sources() {
    let pool = pool(Balance::SourceHash, specs(&[1, 2, 1, 3]), 1);
    let before = mapped(&pool, &pool.all(), 10_000);
    let server = pool.server("1").unwrap();
    server.set_admin(AdminState::Drain);
    let without = mapped(&pool, &pool.all(), 10_000);
    for (before, without) in before.iter().zip(&without) {
        assert!(*without != 1 && (*before == 1 || before == without));
    }
    // The sources of the removed server are also distributed by weight.
    let moved = before.iter().zip(&without).filter(|(b, _)| **b == 1);
    assert_by_weight(&counts(moved.map(|(_, &to)| to), 4), &[1, 0, 1, 3]);
    server.set_admin(AdminState::Ready);
    assert_eq!(mapped(&pool, &pool.all(), 10_000), before);
}

#[test]
fn added_server_takes_sources_from_all_others() {
    let before = pool(Balance::SourceHash, specs(&[1, 1, 1]), 1);
    let after = before
        .successor()
        .servers(specs(&[1, 1, 1, 1]))
        .build()
        .unwrap();
    let (was, is) = (
        mapped(&before, &before.all(), 20_000),
        mapped(&after, &after.all(), 20_000),
    );
    let moved: Vec<_> = was.iter().zip(&is).filter(|(was, is)| was != is).collect();
    assert!(moved.iter().all(|&(_, &is)| is == 3));
    let from = counts(moved.into_iter().map(|(&was, _)| was), 3);
    assert_by_weight(&counts(is, 4), &[1, 1, 1, 1]);
    assert_by_weight(&from, &[1, 1, 1]);
}

#[test]
fn failed_source_moves_to_its_second_choice() {
    let pool = pool(Balance::SourceHash, specs(&[1, 1, 1, 1]), 1);
    for source in sources(200) {
        let mut tried = Tried::default();
        let mut order = Vec::new();
        let pick = |tried: &Tried| {
            let request = PickRequest::new(*NOW)
                .tried(tried)
                .source(Source::from(source));
            pool.pick_for(&pool.all(), &request)
        };
        while let Some(lease) = pick(&tried) {
            order.push(number(&lease));
            tried.add(lease);
        }
        assert_eq!(order.len(), 4);
        let down = pool.server(&order[0].to_string()).unwrap();
        down.set_admin(AdminState::Maint);
        assert_eq!(number(&pick(&Tried::default()).unwrap()), order[1]);
        down.set_admin(AdminState::Ready);
    }
}

#[test]
fn p2c_compares_two_different_servers() {
    // Server 0 has more connections, so server 1 must always be picked. If the same server could be
    // drawn twice, server 0 would be picked in a quarter of the cases.
    let pool = pool(Balance::P2c, specs(&[1, 1]), 1);
    let only = pool.subset(|server| server.id().as_str() == "0");
    let _load: Vec<_> = (0..10).map(|_| pick(&pool, &only).unwrap()).collect();
    for _ in 0..1_000 {
        assert_eq!(number(&pick(&pool, &pool.all()).unwrap()), 1);
    }
}

#[test]
fn p2c_picks_idle_servers_by_weight() {
    // All servers are idle. Of the two drawn servers, the one with the larger weight is picked. If
    // their weights are equal, the one that was drawn first is picked. Server 3 has half of the
    // total weight (3 of 6) and is picked whenever it is drawn.
    let pool = pool(Balance::P2c, specs(&[1, 1, 1, 3]), 1);
    let picked = (0..60_000).map(|_| number(&pick(&pool, &pool.all()).unwrap()));
    let counts = counts(picked, 4);
    // Server 3 is drawn first with probability 1/2. If another server is drawn first, server 3 is
    // drawn second with probability 3/5.
    let chance = 0.5 + 0.5 * 3.0 / 5.0;
    let deviation = (60_000.0 * chance * (1.0f64 - chance)).sqrt();
    let off = (f64::from(counts[3]) - 60_000.0 * chance).abs();
    assert!(off <= 5.0 * deviation, "{counts:?}");
    assert_by_weight(&counts[..3], &[1, 1, 1]);
}

#[test]
fn p2c_keeps_weighted_loads_close() {
    let weights = [1, 2, 4, 1, 2, 4, 1, 2, 4, 3];
    let pool = pool(Balance::P2c, specs(&weights), 1);
    let held: Vec<_> = (0..24_000)
        .map(|_| pick(&pool, &pool.all()).unwrap())
        .collect();
    for (count, weight) in counts(held.iter().map(number), 10).into_iter().zip(weights) {
        // There are 24,000 picks and the total weight is 24. With random picks, the tolerance would
        // have to be 150.
        let load = f64::from(count) / f64::from(weight);
        assert!((load - 1_000.0).abs() <= 10.0, "{load} of weight {weight}");
    }
}

#[test]
fn p2c_balances_beside_a_drained_heavy_server() {
    let pool = pool(Balance::P2c, specs(&[1, 65_535, 1, 1]), 1);
    pool.server("1").unwrap().set_admin(AdminState::Drain);
    let held: Vec<_> = (0..300)
        .map(|_| pick(&pool, &pool.all()).unwrap())
        .collect();
    let counts = counts(held.iter().map(number), 4);
    assert!(
        [0, 2, 3].iter().all(|&n| counts[n].abs_diff(100) <= 5),
        "{counts:?}"
    );
}

#[test]
fn equal_servers_are_picked_in_rotation() {
    let pool = pool(Balance::RoundRobin, specs(&[1, 1, 1, 1, 1]), 1);
    let picked: Vec<_> = (0..50)
        .map(|_| number(&pick(&pool, &pool.all()).unwrap()))
        .collect();
    let (first, rest) = picked.split_at(5);
    assert_eq!(counts(first.iter().copied(), 5), [1; 5]);
    assert!(rest.chunks(5).all(|round| round == first), "{picked:?}");
}

#[test]
fn revived_server_gets_no_round_robin_backlog() {
    let pool = pool(Balance::RoundRobin, specs(&[1, 1, 1]), 1);
    let server = pool.server("0").unwrap();
    server.set_admin(AdminState::Drain);
    let without = (0..300).map(|_| number(&pick(&pool, &pool.all()).unwrap()));
    assert_eq!(counts(without, 3), [0, 150, 150]);
    server.set_admin(AdminState::Ready);
    let with: Vec<_> = (0..30)
        .map(|_| number(&pick(&pool, &pool.all()).unwrap()))
        .collect();
    assert!(with.windows(2).all(|two| two[0] != two[1]), "{with:?}");
    assert!(counts(with, 3).iter().all(|count| (9..=11).contains(count)));
}

#[test]
fn each_candidate_set_has_its_own_schedule() {
    let pool = pool(Balance::RoundRobin, specs(&[1, 1, 1]), 1);
    let pair = pool.subset(|server| server.id().as_str() != "2");
    let mut picked = Vec::new();
    for n in 0..300 {
        picked.push(number(&pick(&pool, &pair).unwrap()));
        for _ in 0..n % 3 {
            drop(pick(&pool, &pool.all()));
        }
    }
    assert!(picked.windows(2).all(|two| two[0] != two[1]), "{picked:?}");
}

proptest! {
    /// In any sequence of consecutive picks, each server gets about `picks * weight / total`, with
    /// an error of at most `1 + servers * weight / total` picks.
    #[test]
    fn round_robin_is_even_in_every_window(
        weights in prop::collection::vec(1u32..12, 1..8), seed: u64,
    ) {
        let pool = pool(Balance::RoundRobin, specs(&weights), seed);
        let total: u32 = weights.iter().sum();
        let picked: Vec<_> = (0..4 * total)
            .map(|_| number(&pick(&pool, &pool.all()).unwrap()))
            .collect();
        // Each complete round matches the weights exactly, and all rounds have the same order.
        let (first, rest) = picked.split_at(total as usize);
        prop_assert_eq!(counts(first.iter().copied(), weights.len()), weights.clone());
        prop_assert!(rest.chunks(total as usize).all(|round| round == first));
        let sums: Vec<Vec<u32>> = (0..=picked.len())
            .map(|n| counts(picked[..n].iter().copied(), weights.len()))
            .collect();
        for (from, to) in (0..sums.len()).flat_map(|from| (from..sums.len()).map(move |to| (from, to))) {
            for (server, &weight) in weights.iter().enumerate() {
                let share = f64::from(weight) / f64::from(total);
                let ideal = (to - from) as f64 * share;
                let got = f64::from(sums[to][server] - sums[from][server]);
                let allowed = 1.0 + share * weights.len() as f64;
                prop_assert!((got - ideal).abs() <= allowed, "{weights:?}: {picked:?}");
            }
        }
    }

    /// Each algorithm picks only eligible servers, and always picks one if there is any.
    #[test]
    fn pick_returns_eligible_servers_only(
        servers in prop::collection::vec((1u32..5, 0u32..3, any::<bool>(), 0u8..4), 1..8),
        seed: u64, connections in 1u32..40,
    ) {
        for balance in ALL {
            let mut all = specs(&servers.iter().map(|s| s.0).collect::<Vec<_>>());
            for (spec, &(_, max_conns, backup, _)) in all.iter_mut().zip(&servers) {
                spec.max_conns = std::num::NonZeroU32::new(max_conns);
                spec.backup = backup;
            }
            // All servers may be ejected, and ejected servers are not used.
            let mut passive = PassivePolicy::default();
            passive.max_ejected = Ratio::ALL;
            let pool = Pool::builder("pool").servers(all).passive(passive).balance(balance).panic(PanicPolicy::Refuse).seed(seed).build().unwrap();
            for (member, &(.., state)) in pool.members().iter().zip(&servers) {
                match state {
                    0 => member.server.set_admin(AdminState::Drain),
                    1 => drop(member.server.connect_failed(*NOW, *NOW)),
                    _ => {}
                }
            }
            let mut held: BTreeMap<usize, u32> = BTreeMap::new();
            let mut leases = Vec::new();
            for source in sources(connections) {
                let free = |backup: bool| -> Vec<usize> {
                    (0..servers.len()).filter(|number| {
                        let (_, max, is_backup, state) = servers[*number];
                        let has = held.get(number).copied().unwrap_or(0);
                        is_backup == backup && state > 1 && (max == 0 || has < max)
                    }).collect()
                };
                let mut may = free(false);
                if may.is_empty() {
                    may = free(true);
                }
                let lease = pick_from(&pool, &pool.all(), source);
                prop_assert_eq!(lease.is_some(), !may.is_empty(), "{:?}", balance);
                if let Some(lease) = lease {
                    let number = number(&lease);
                    prop_assert!(may.contains(&number), "{balance:?}: {number} of {may:?}");
                    *held.entry(number).or_default() += 1;
                    leases.push(lease);
                }
            }
            drop(leases);
            prop_assert!(pool.members().iter().all(|m| m.server.in_flight() == 0));
        }
    }
}

#[test]
fn the_same_seed_gives_the_same_sequence() {
    let run = |balance, seed| -> Vec<usize> {
        let pool = pool(balance, specs(&[1, 2, 1, 3, 1]), seed);
        let (all, source) = (pool.all(), IpAddr::from(Ipv4Addr::LOCALHOST));
        let pick = |_| pick_from(&pool, &all, source).unwrap();
        let leases: Vec<_> = (0..60).map(pick).collect();
        leases.iter().map(number).collect()
    };
    for balance in ALL {
        assert_eq!(run(balance, 7), run(balance, 7), "{balance:?}");
        let differs = run(balance, 7) != run(balance, 8);
        assert_eq!(differs, balance != Balance::SourceHash, "{balance:?}");
    }
}

#[test]
fn changing_the_algorithm_keeps_counts() {
    let mut pool = pool(Balance::LeastConn, specs(&[1, 1, 1]), 1);
    let mut held = Vec::new();
    for balance in ALL.into_iter().chain([Balance::LeastConn]) {
        pool = pool
            .successor()
            .servers(specs(&[1, 1, 1]))
            .balance(balance)
            .build()
            .unwrap();
        held.extend((0..30).map(|_| pick(&pool, &pool.all()).unwrap()));
        let next = pool.successor().servers(specs(&[1, 1, 1])).build();
        assert_eq!(
            next.unwrap().balance(),
            balance,
            "the successor keeps the algorithm by default"
        );
        let mut by_server = HashMap::<_, u32>::new();
        for lease in &held {
            *by_server.entry(number(lease)).or_default() += 1;
        }
        for member in pool.members().iter() {
            let number = member.server.id().as_str().parse::<usize>().unwrap();
            let has = by_server.get(&number).copied().unwrap_or(0);
            assert_eq!(member.server.in_flight(), has);
        }
    }
    // Least connections then evens out the counts.
    held.extend((0..300).map(|_| pick(&pool, &pool.all()).unwrap()));
    let counts: Vec<_> = pool
        .members()
        .iter()
        .map(|m| m.server.in_flight())
        .collect();
    assert_eq!(counts, [160; 3]);
}
