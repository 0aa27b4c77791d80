use std::{
    collections::{BTreeSet, HashMap},
    net::SocketAddr,
    sync::LazyLock,
};

use super::*;
use crate::{
    AdminState, Lease, Source,
    health::{Availability, Ratio},
};

#[expect(
    clippy::disallowed_methods,
    reason = "there is no other way to an Instant; nothing here takes time"
)]
static NOW: LazyLock<Instant> = LazyLock::new(Instant::now);

fn spec(name: &str, port: u16) -> ServerSpec {
    ServerSpec::new(name, SocketAddr::from(([127, 0, 0, 1], port)))
}

/// Any number of servers may be ejected.
fn eject_all() -> PassivePolicy {
    PassivePolicy {
        max_ejected: Ratio::ALL,
        ..PassivePolicy::default()
    }
}

/// A pool that does not use ejected servers.
fn pool(servers: impl IntoIterator<Item = ServerSpec>, seed: u64) -> Pool {
    let pool = Pool::builder("pool")
        .servers(servers)
        .passive(eject_all())
        .panic(PanicPolicy::Refuse)
        .seed(seed);
    pool.build().unwrap()
}

fn succeed(pool: &Pool, servers: impl IntoIterator<Item = ServerSpec>) -> Pool {
    pool.successor()
        .servers(servers)
        .active(None)
        .passive(eject_all())
        .build()
        .unwrap()
}

fn pick(pool: &Pool) -> Option<Lease> {
    pool.pick(&pool.all(), &Tried::default(), *NOW)
}

fn name(lease: &Lease) -> &str {
    lease.server().id().as_str()
}

#[test]
fn a_pool_needs_servers_with_names_of_their_own() {
    let build = |servers: &[ServerSpec]| {
        let servers = servers.iter().cloned();
        Pool::builder("pool")
            .servers(servers)
            .seed(1)
            .build()
            .map(drop)
    };
    assert_eq!(build(&[]), Err(PoolError::Empty("pool".into())));
    assert_eq!(
        build(&[spec("a", 1), spec("b", 2), spec("a", 3)]),
        Err(PoolError::DuplicateServer("pool".into(), "a".into()))
    );
}

#[test]
fn a_lease_counts_from_the_pick_until_it_drops() {
    let pool = pool([spec("a", 1)], 1);
    let server = pool.server("a").unwrap();
    let leases = [pick(&pool), pick(&pool)];
    assert_eq!(server.in_flight(), 2);
    drop(leases);
    assert_eq!(server.in_flight(), 0);
}

#[test]
fn a_lease_that_unwinds_is_counted_off() {
    let pool = pool([spec("a", 1)], 1);
    let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let _lease = pick(&pool);
        panic!("a connection's task broke");
    }));
    assert_eq!(pool.members()[0].server.in_flight(), 0);
}

#[test]
fn the_same_seed_picks_the_same_servers() {
    let run = |seed| -> Vec<String> {
        let pool = pool(["a", "b", "c"].map(|name| spec(name, 1)), seed);
        let leases: Vec<_> = (0..20).map_while(|_| pick(&pool)).collect();
        leases.iter().map(|lease| name(lease).to_owned()).collect()
    };
    assert_eq!(run(7), run(7));
    assert_ne!(run(7), run(8));
}

#[test]
fn an_idle_pool_does_not_favour_a_server() {
    let pool = pool(["a", "b", "c", "d"].map(|name| spec(name, 1)), 1);
    let mut picked = HashMap::<_, u32>::new();
    for _ in 0..4_000 {
        let lease = pick(&pool).unwrap();
        *picked.entry(lease.server().id().clone()).or_default() += 1;
    }
    assert!(
        picked.values().all(|n| (850..1_150).contains(n)),
        "{picked:?}"
    );
}

#[test]
fn the_next_pool_shares_servers_with_their_counts_health_and_states() {
    let before = pool([spec("a", 1), spec("b", 2)], 1);
    let leases: Vec<_> = (0..4).map_while(|_| pick(&before)).collect();
    before.server("a").unwrap().set_admin(AdminState::Drain);
    before.server("b").unwrap().connect_failed(*NOW, *NOW);

    let after = succeed(&before, [spec("b", 2), spec("a", 1), spec("c", 3)]);
    let status = |name| after.server(name).unwrap().status();
    assert_eq!((status("a").in_flight, status("b").in_flight), (2, 2));
    assert_eq!(status("a").admin, AdminState::Drain);
    assert!(matches!(status("b").availability, Availability::Ejected(_)));
    let lease = pick(&after).unwrap();
    assert_eq!(name(&lease), "c");

    drop(leases);
    assert_eq!((status("a").in_flight, status("b").in_flight), (0, 0));
}

#[test]
fn a_server_at_another_address_is_another_server() {
    let before = pool([spec("a", 1)], 1);
    let lease = pick(&before).unwrap();
    let after = succeed(&before, [spec("a", 2)]);
    assert_eq!(after.members()[0].server.in_flight(), 0);
    assert_eq!(lease.server().in_flight(), 1);
}

#[test]
fn a_succession_that_fails_leaves_the_servers_as_they_were() {
    let before = pool([spec("a", 1)], 1);
    before.server("a").unwrap().connect_failed(*NOW, *NOW);
    let never = PassivePolicy {
        max_fails: 0,
        ..PassivePolicy::default()
    };
    assert!(
        before
            .successor()
            .servers([spec("a", 1), spec("a", 1)])
            .active(None)
            .passive(never)
            .build()
            .is_err()
    );
    assert!(!before.server("a").unwrap().status().is_up());
}

#[test]
fn retries_go_to_each_server_once() {
    let pool = pool(["a", "b", "c"].map(|name| spec(name, 1)), 1);
    let mut tried = Tried::default();
    let mut names = BTreeSet::new();
    while let Some(lease) = pool.pick(&pool.all(), &tried, *NOW) {
        assert!(names.insert(name(&lease).to_owned()));
        tried.add(lease);
    }
    assert_eq!((names.len(), tried.len()), (3, 3));
    let idle = |member: &Member| member.server.in_flight() == 0;
    assert!(
        pool.members().iter().all(idle),
        "a failed try does not count on"
    );
}

#[test]
fn backups_are_for_when_nobody_else_is_available() {
    let backup = spec("b", 2).backup(true);
    let pool = pool([spec("a", 1), backup], 1);
    let leases: Vec<_> = (0..5).map_while(|_| pick(&pool)).collect();
    assert!(leases.iter().all(|lease| name(lease) == "a"));
    pool.server("a").unwrap().set_admin(AdminState::Drain);
    assert_eq!(pick(&pool).as_ref().map(name), Some("b"));
}

#[test]
fn nobody_outside_the_subset_is_picked() {
    let pool = pool(["a", "b", "c"].map(|name| spec(name, 1)), 1);
    let only = pool.subset(|server| server.id().as_str() == "b");
    for _ in 0..10 {
        let lease = pool.pick(&only, &Tried::default(), *NOW).unwrap();
        assert_eq!(name(&lease), "b");
    }
    let nobody = pool.subset(|_| false);
    assert!(nobody.is_empty());
    assert!(pool.pick(&nobody, &Tried::default(), *NOW).is_none());
}

#[test]
fn a_trial_that_loses_its_swap_is_still_due() {
    let pool = pool([spec("a", 1)], 1);
    let old = pick(&pool).unwrap();
    old.server().connect_failed(*NOW, *NOW);
    let due = *NOW + PassivePolicy::default().fail_timeout;
    let server = pool.server("a").unwrap();
    let seen = server.steady(due, &mut false).unwrap().0;
    drop(old);
    assert!(!server.try_acquire(seen, due), "the count has changed");
    assert!(pool.pick(&pool.all(), &Tried::default(), due).is_some());
}

/// A pool of three whose servers may all be ejected.
fn three(panic: PanicPolicy) -> Pool {
    let active = ActivePolicy {
        rise: NonZeroU32::MIN,
        fall: NonZeroU32::MIN,
    };
    let servers = ["a", "b", "c"].map(|name| spec(name, 1));
    let pool = Pool::builder("pool")
        .servers(servers)
        .active(active)
        .passive(eject_all())
        .panic(panic)
        .seed(1);
    pool.build().unwrap()
}

#[test]
fn without_available_servers_ejected_ones_are_picked_before_down_ones() {
    let pool = three(PanicPolicy::Dial);
    let server = |name| pool.server(name).unwrap();
    server("a").connect_failed(*NOW, *NOW);
    server("b").probed(false);
    assert!(!pool.is_panicking());
    assert_eq!(name(&pick(&pool).unwrap()), "c");
    server("c").set_admin(AdminState::Drain);
    assert!(pool.is_panicking());
    let leases: Vec<_> = (0..3).map(|_| pick(&pool).unwrap()).collect();
    assert!(leases.iter().all(|lease| name(lease) == "a"));
    // A server that is down is no better than one that was just tried.
    let mut tried = Tried::default();
    tried.add(pick(&pool).unwrap());
    assert!(pool.pick(&pool.all(), &tried, *NOW).is_none());
    server("a").probed(false);
    let names: BTreeSet<_> = (0..2)
        .map(|_| pick(&pool).unwrap())
        .collect::<Vec<_>>()
        .iter()
        .map(|lease| name(lease).to_owned())
        .collect();
    assert_eq!(
        names,
        ["b".to_owned()].into(),
        "of two, the one without connections"
    );
    server("b").set_admin(AdminState::Maint);
    server("a").set_admin(AdminState::Drain);
    assert!(pick(&pool).is_none() && !pool.is_panicking());
    server("a").set_admin(AdminState::Ready);
    server("a").probed(true);
    assert!(!pool.is_panicking());
}

#[test]
fn a_client_with_one_ejected_server_still_reaches_it() {
    for panic in [PanicPolicy::Dial, PanicPolicy::Refuse] {
        let pool = three(panic);
        let only = pool.subset(|server| server.id().as_str() == "b");
        pool.server("b").unwrap().connect_failed(*NOW, *NOW);
        let lease = pool.pick(&only, &Tried::default(), *NOW);
        assert_eq!(lease.is_some(), panic == PanicPolicy::Dial);
        // Others have better ones.
        assert!((0..9).all(|_| name(&pick(&pool).unwrap()) != "b"));
        assert!(!pool.is_panicking());
    }
}

#[test]
fn a_last_resort_keeps_within_max_conns() {
    for balance in [
        Balance::LeastConn,
        Balance::P2c,
        Balance::RoundRobin,
        Balance::Random,
        Balance::SourceHash,
    ] {
        let servers = ["a", "b"].map(|name| spec(name, 1).max_conns(NonZeroU32::new(1)));
        let pool = Pool::builder("pool")
            .servers(servers)
            .passive(eject_all())
            .balance(balance)
            .seed(1)
            .build()
            .unwrap();
        for member in pool.members().iter() {
            member.server.connect_failed(*NOW, *NOW);
        }
        let source = Source::from(std::net::IpAddr::from([127, 0, 0, 1]));
        let request = PickRequest::new(*NOW).source(source);
        let pick = || pool.pick_for(&pool.all(), &request);
        let leases = [pick().unwrap(), pick().unwrap()];
        assert_ne!(name(&leases[0]), name(&leases[1]), "{balance:?}");
        assert!(pick().is_none(), "{balance:?}");
    }
}
