use std::{
    collections::{BTreeSet, HashMap},
    net::SocketAddr,
    sync::LazyLock,
    time::SystemTime,
};

use super::*;
use crate::{
    AdminState, Failure, Lease, Source, WeightOverride, ZoneId,
    health::{Availability, Ratio},
    server::Counting,
};

#[expect(
    clippy::disallowed_methods,
    reason = "an Instant cannot be constructed otherwise"
)]
static NOW: LazyLock<Instant> = LazyLock::new(Instant::now);

fn spec(name: &str, port: u16) -> ServerSpec {
    ServerSpec::new(name, SocketAddr::from(([127, 0, 0, 1], port)))
}

/// A policy under which all servers may be ejected.
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
fn pool_requires_servers_with_unique_names() {
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
fn lease_counts_from_pick_to_drop() {
    let pool = pool([spec("a", 1)], 1);
    let server = pool.server("a").unwrap();
    let leases = [pick(&pool), pick(&pool)];
    assert_eq!(server.in_flight(), 2);
    drop(leases);
    assert_eq!(server.in_flight(), 0);
}

#[test]
fn lease_is_released_on_panic() {
    let pool = pool([spec("a", 1)], 1);
    let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let _lease = pick(&pool);
        panic!("the task of the connection panics");
    }));
    assert_eq!(pool.members()[0].server.in_flight(), 0);
}

#[test]
fn picks_are_reproducible_from_the_seed() {
    let run = |seed| -> Vec<String> {
        let pool = pool(["a", "b", "c"].map(|name| spec(name, 1)), seed);
        let leases: Vec<_> = (0..20).map_while(|_| pick(&pool)).collect();
        leases.iter().map(|lease| name(lease).to_owned()).collect()
    };
    assert_eq!(run(7), run(7));
    assert_ne!(run(7), run(8));
}

#[test]
fn idle_pool_picks_servers_evenly() {
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
fn successor_keeps_counts_health_and_admin_state() {
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
fn changed_address_makes_a_new_server() {
    let before = pool([spec("a", 1)], 1);
    let lease = pick(&before).unwrap();
    let after = succeed(&before, [spec("a", 2)]);
    assert_eq!(after.members()[0].server.in_flight(), 0);
    assert_eq!(lease.server().in_flight(), 1);
}

#[test]
fn failed_successor_leaves_servers_unchanged() {
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
fn retries_try_each_server_once() {
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
        "connections of failed attempts no longer count"
    );
}

#[test]
fn backups_serve_only_without_primary_servers() {
    let backup = spec("b", 2).backup(true);
    let pool = pool([spec("a", 1), backup], 1);
    let leases: Vec<_> = (0..5).map_while(|_| pick(&pool)).collect();
    assert!(leases.iter().all(|lease| name(lease) == "a"));
    pool.server("a").unwrap().set_admin(AdminState::Drain);
    assert_eq!(pick(&pool).as_ref().map(name), Some("b"));
}

#[test]
fn picks_stay_within_the_selector() {
    let pool = pool(["a", "b", "c"].map(|name| spec(name, 1)), 1);
    let only = pool.subset(|server| server.id().as_str() == "b");
    for _ in 0..10 {
        let lease = pool.pick(&only, &Tried::default(), *NOW).unwrap();
        assert_eq!(name(&lease), "b");
    }
    let none = pool.subset(|_| false);
    assert!(none.is_empty());
    assert!(pool.pick(&none, &Tried::default(), *NOW).is_none());
}

#[test]
fn trial_remains_due_after_lost_swap() {
    let pool = pool([spec("a", 1)], 1);
    let old = pick(&pool).unwrap();
    old.server().connect_failed(*NOW, *NOW);
    let due = *NOW + PassivePolicy::default().fail_timeout;
    let server = pool.server("a").unwrap();
    let seen = server.steady::<false>(due, &mut false).unwrap().word;
    drop(old);
    assert!(
        !server.try_acquire::<false>(seen, Counting::CONNECTION, due),
        "the count has changed since it was read"
    );
    assert!(pool.pick(&pool.all(), &Tried::default(), due).is_some());
}

/// A pool of three servers, all of which may be ejected.
fn pool_of_three(panic: PanicPolicy) -> Pool {
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
fn ejected_servers_are_preferred_over_down_ones() {
    let pool = pool_of_three(PanicPolicy::Dial);
    let server = |name| pool.server(name).unwrap();
    server("a").connect_failed(*NOW, *NOW);
    server("b").probed(false);
    assert!(!pool.is_panicking());
    assert_eq!(name(&pick(&pool).unwrap()), "c");
    server("c").set_admin(AdminState::Drain);
    assert!(pool.is_panicking());
    let leases: Vec<_> = (0..3).map(|_| pick(&pool).unwrap()).collect();
    assert!(leases.iter().all(|lease| name(lease) == "a"));
    // A down server is not preferred to an ejected server that has just been tried.
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
        "least connections also applies to servers that are down"
    );
    server("b").set_admin(AdminState::Maint);
    server("a").set_admin(AdminState::Drain);
    assert!(pick(&pool).is_none() && !pool.is_panicking());
    server("a").set_admin(AdminState::Ready);
    server("a").probed(true);
    assert!(!pool.is_panicking());
}

#[test]
fn panic_policy_applies_within_the_selector() {
    for panic in [PanicPolicy::Dial, PanicPolicy::Refuse] {
        let pool = pool_of_three(panic);
        let only = pool.subset(|server| server.id().as_str() == "b");
        pool.server("b").unwrap().connect_failed(*NOW, *NOW);
        let lease = pool.pick(&only, &Tried::default(), *NOW);
        assert_eq!(lease.is_some(), panic == PanicPolicy::Dial);
        // A client that may use all servers gets an available server.
        assert!((0..9).all(|_| name(&pick(&pool).unwrap()) != "b"));
        assert!(!pool.is_panicking());
    }
}

#[test]
fn max_conns_holds_if_no_server_is_available() {
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

#[test]
fn joining_server_waits_for_its_first_good_probe() {
    let pool = Pool::builder("web")
        .server(spec("a", 1))
        .active(ActivePolicy::new(NonZeroU32::MIN, NonZeroU32::MIN))
        .build()
        .unwrap();
    let is_up = |name: &str| pool.server(name).unwrap().status().is_up();
    assert!(is_up("a"), "the first servers are used at once");
    pool.update([spec("a", 1), spec("b", 2), spec("c", 3)])
        .unwrap();
    assert!(is_up("a") && !is_up("b") && !is_up("c"));
    pool.server("b").unwrap().probed(true);
    pool.server("c").unwrap().probed(false);
    assert!(is_up("b") && !is_up("c"));
    // If no server stays, waiting for probes would leave the pool without an available server.
    pool.update([spec("d", 4)]).unwrap();
    assert!(is_up("d"));
}

#[test]
fn joining_server_is_prepared_before_it_is_picked() {
    let pool = Pool::builder("web").server(spec("a", 1)).build().unwrap();
    pool.update_with([spec("a", 1), spec("b", 2)], |server| {
        assert_eq!(server.id().as_str(), "b");
        server.set_admin(AdminState::Drain);
    })
    .unwrap();
    assert_eq!(pool.server("b").unwrap().status().admin, AdminState::Drain);
    assert_eq!(pool.server("a").unwrap().status().admin, AdminState::Ready);
}

#[test]
fn weight_override_changes_the_shares() {
    let pool = pool(["a", "b"].map(|name| spec(name, 1)), 1);
    assert!(pool.set_weight("a", Some(WeightOverride::Percent(50))));
    let leases: Vec<_> = (0..30).map_while(|_| pick(&pool)).collect();
    let on = |wanted| leases.iter().filter(|lease| name(lease) == wanted).count();
    assert_eq!((on("a"), on("b")), (10, 20));
    assert!(!pool.set_weight("c", None));
}

#[test]
fn server_with_zero_weight_gets_no_connections() {
    let pool = pool_of_three(PanicPolicy::Dial);
    for zero in [WeightOverride::Absolute(0), WeightOverride::Percent(0)] {
        pool.set_weight("a", Some(zero));
        assert!((0..9).all(|_| name(&pick(&pool).unwrap()) != "a"));
        let status = pool.server("a").unwrap().status();
        assert!(status.is_up() && !status.is_available());
    }
    // The server with zero weight is not dialled even if no server is available.
    for down in ["a", "b", "c"] {
        pool.server(down).unwrap().probed(false);
    }
    assert!((0..9).all(|_| name(&pick(&pool).unwrap()) != "a"));
    for up in ["a", "b", "c"] {
        pool.server(up).unwrap().probed(true);
    }
    pool.set_weight("a", None);
    assert_eq!(names(&pool, 3).len(), 3);
}

#[test]
fn weight_override_survives_updates_and_successors() {
    let before = pool([spec("a", 1), spec("b", 2)], 1);
    before.set_weight("a", Some(WeightOverride::Percent(25)));
    let weight = |value| Weight::new(value).unwrap();
    before
        .update([spec("a", 1).weight(weight(8)), spec("b", 2)])
        .unwrap();
    let weights = |pool: &Pool| -> Vec<_> {
        let members = pool.members();
        members.iter().map(Member::effective_weight).collect()
    };
    assert_eq!(weights(&before), [2.0, 1.0]);
    let after = succeed(&before, [spec("a", 1).weight(weight(2)), spec("b", 2)]);
    assert_eq!(weights(&after), [0.5, 1.0]);
    assert_eq!(after.members()[0].configured_weight().get(), 2);
    after.set_weight("a", None);
    assert_eq!(weights(&after), [2.0, 1.0]);
}

/// Servers `a`, `b` and `c` are in the pool's own zone `z`; `d` and `e` are in another zone.
fn pool_with_zones(balance: Balance) -> Pool {
    let zone = |name: &str| ZoneId::from(if name < "d" { "z" } else { "y" });
    let servers = ["a", "b", "c", "d", "e"].map(|name| spec(name, 1).zone(zone(name)));
    let pool = Pool::builder("web")
        .servers(servers)
        .active(ActivePolicy::new(NonZeroU32::MIN, NonZeroU32::MIN))
        .balance(balance)
        .zone(ZoneId::from("z"))
        .seed(1);
    pool.build().unwrap()
}

fn names(pool: &Pool, picks: usize) -> BTreeSet<String> {
    let leases: Vec<_> = (0..picks).map_while(|_| pick(pool)).collect();
    leases.iter().map(|lease| name(lease).to_owned()).collect()
}

#[test]
fn own_zone_is_preferred_while_half_available() {
    for &balance in Balance::ALL {
        let pool = pool_with_zones(balance);
        let is_local = |pool: &Pool| pool.own_zone().map(|(zone, is)| (zone.to_string(), is));
        let local: BTreeSet<_> = ["a", "b", "c"].map(str::to_owned).into();
        assert!(names(&pool, 60).is_subset(&local), "{balance}");
        assert_eq!(is_local(&pool), Some(("z".to_owned(), true)));
        // Two of three servers are more than half.
        pool.server("a").unwrap().probed(false);
        assert!(names(&pool, 60).is_subset(&local), "{balance}");
        pool.server("b").unwrap().set_admin(AdminState::Drain);
        assert_eq!(is_local(&pool), Some(("z".to_owned(), false)));
        let all: BTreeSet<_> = ["c", "d", "e"].map(str::to_owned).into();
        assert_eq!(names(&pool, 60), all, "{balance}: all zones are equal");
        pool.server("a").unwrap().probed(true);
        assert!(names(&pool, 60).is_subset(&local), "{balance}");
    }
}

#[test]
fn zone_counts_by_weight_and_within_the_selector() {
    let pool = pool_with_zones(Balance::LeastConn);
    pool.set_weight("a", Some(WeightOverride::Absolute(4)));
    pool.server("a").unwrap().probed(false);
    assert!(names(&pool, 60).contains("d"), "only 2 of 6 are left");
    let only = pool.subset(|server| ["b", "d"].contains(&server.id().as_str()));
    let lease = pool.pick(&only, &Tried::default(), *NOW).unwrap();
    assert_eq!(
        name(&lease),
        "b",
        "b is all that the client may use in the zone"
    );
    let mut tried = Tried::default();
    tried.add(lease);
    let lease = pool.pick(&only, &tried, *NOW).unwrap();
    assert_eq!(name(&lease), "d");
}

#[test]
fn weight_zero_lowers_zone_capacity_like_drain() {
    let in_zone = |name: &str, weight, zone: &str| {
        let weight = Weight::new(weight).unwrap();
        spec(name, 1).weight(weight).zone(ZoneId::from(zone))
    };
    let pool = Pool::builder("zoned")
        .servers([
            in_zone("a", 10, "z"),
            in_zone("b", 1, "z"),
            in_zone("c", 1, "y"),
        ])
        .zone(ZoneId::from("z"))
        .build()
        .unwrap();
    let is_local = || pool.own_zone().unwrap().1;
    let a = pool.server("a").unwrap();
    assert!(is_local());
    a.set_admin(AdminState::Drain);
    assert!(!is_local(), "1 of 11");
    a.set_admin(AdminState::Ready);
    for zero in [WeightOverride::Absolute(0), WeightOverride::Percent(0)] {
        assert!(is_local());
        pool.set_weight("a", Some(zero));
        assert!(!is_local(), "1 of 11");
        // A fraction scales the whole-number weights of all members.
        pool.set_weight("b", Some(WeightOverride::Percent(50)));
        assert!(!is_local(), "0.5 of 10.5");
        pool.set_weight("b", Some(WeightOverride::Absolute(10)));
        assert!(is_local(), "10 of 20");
        pool.set_weight("b", None);
        pool.set_weight("a", None);
    }
}

#[test]
fn full_zone_spills_over_and_backups_come_last() {
    let server = |name: &str, zone: &str| spec(name, 1).zone(ZoneId::from(zone));
    let servers = [
        server("a", "z").max_conns(NonZeroU32::new(1)),
        server("b", "y").max_conns(NonZeroU32::new(2)),
        server("c", "y").backup(true),
        server("d", "z").backup(true).max_conns(NonZeroU32::new(1)),
        spec("e", 1).backup(true),
    ];
    let pool = Pool::builder("web")
        .servers(servers)
        .zone(ZoneId::from("z"))
        .build()
        .unwrap();
    let leases: Vec<_> = (0..4).map_while(|_| pick(&pool)).collect();
    let order: Vec<_> = leases.iter().map(name).collect();
    assert_eq!(order, ["a", "b", "b", "d"]);
    assert_eq!(names(&pool, 2), ["c", "e"].map(str::to_owned).into());
}

#[test]
fn zones_without_effect_are_ignored() {
    let server = |name: &str, zone: &str| spec(name, 1).zone(ZoneId::from(zone));
    for own in [None, Some("x"), Some("z")] {
        let pool = Pool::builder("web")
            .servers([server("a", "z"), server("b", "z")])
            .zone(own.map(ZoneId::from));
        let pool = pool.build().unwrap();
        assert_eq!(pool.own_zone(), None);
        assert_eq!(names(&pool, 2).len(), 2);
        let successor = pool.successor().servers([server("a", "z"), spec("c", 3)]);
        let expected = own.filter(|&own| own == "z").map(ZoneId::from);
        let successor = successor.build().unwrap();
        assert_eq!(successor.own_zone().map(|zone| zone.0.clone()), expected);
    }
}

#[test]
fn failures_count_as_load_for_a_second() {
    let pool = Pool::builder("pool")
        .servers([spec("a", 1), spec("b", 2)])
        .seed(1)
        .build()
        .unwrap();
    let server = pool.server("a").unwrap();
    for _ in 0..2 {
        server.failed_early(*NOW, *NOW, Failure::new(SystemTime::UNIX_EPOCH, &"closed"));
    }
    assert_eq!(server.in_flight(), 0);
    let later = *NOW + Duration::from_secs(1);
    let picks = |now, count: usize| -> Vec<Lease> {
        let pick = || pool.pick(&pool.all(), &Tried::default(), now).unwrap();
        (0..count).map(|_| pick()).collect()
    };
    let on_a = |leases: &[Lease]| leases.iter().filter(|lease| name(lease) == "a").count();
    assert_eq!(on_a(&picks(*NOW, 2)), 0);
    assert_eq!(on_a(&picks(*NOW, 6)), 2);
    assert_eq!(on_a(&picks(later, 6)), 3);
}

#[test]
fn servers_at_the_dial_limit_are_passed_over() {
    for &balance in Balance::ALL {
        let pool = Pool::builder("pool")
            .servers([spec("a", 1), spec("b", 2), spec("c", 3).backup(true)])
            .balance(balance)
            .max_connecting(NonZeroU32::new(2))
            .seed(1)
            .build()
            .unwrap();
        let connecting = || {
            let members = pool.members();
            let counts = members.iter().map(|m| m.server.status().connecting);
            counts.collect::<Vec<_>>()
        };
        let mut leases: Vec<_> = (0..4).map(|_| pick(&pool).unwrap()).collect();
        assert_eq!(connecting(), [2, 2, 0], "{balance}");
        // All servers are at the limit, so the limit does not apply.
        drop(pick(&pool).unwrap());
        assert_eq!(connecting(), [2, 2, 0], "{balance}");
        let connected = leases.iter_mut().find(|lease| name(lease) == "b").unwrap();
        connected.connected();
        connected.connected();
        assert_eq!(connecting(), [2, 1, 0], "{balance}");
        assert_eq!(name(&pick(&pool).unwrap()), "b", "{balance}");
        drop(leases);
        let idle = |member: &Member| member.server.in_flight() == 0;
        assert!(pool.members().iter().all(idle));
        assert_eq!(connecting(), [0; 3], "{balance}");
    }
}
