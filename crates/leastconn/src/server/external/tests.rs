#![cfg(all(feature = "tokio", not(loom)))]

use std::{net::SocketAddr, num::NonZeroU32, time::Duration};

use proptest::prelude::*;

use super::*;
use crate::{Balance, Lease, Pool, ServerSpec, Tried, net::now, sync::Arc};

fn pool(names: &[&str]) -> Pool {
    let address = SocketAddr::from(([127, 0, 0, 1], 80));
    let servers = names.iter().map(|&name| ServerSpec::new(name, address));
    Pool::builder("web").servers(servers).build().unwrap()
}

fn server(pool: &Pool, name: &str) -> Arc<Server> {
    pool.server(name).unwrap()
}

fn pick(pool: &Pool) -> Option<Lease> {
    pool.pick(&pool.all(), &Tried::default(), now())
}

fn picks(pool: &Pool, count: usize) -> Vec<Lease> {
    (0..count).map(|_| pick(pool).unwrap()).collect()
}

#[test]
fn external_load_counts_like_connections() {
    let pool = pool(&["a", "b"]);
    server(&pool, "a").set_external_load(3, 0.0);
    let held = picks(&pool, 5);
    let of = |name| server(&pool, name).in_flight();
    assert_eq!((of("a"), of("b")), (1, 4));
    assert_eq!(server(&pool, "a").status().external_connections, 3);
    drop(held);
    assert_eq!((of("a"), of("b")), (0, 0));
}

#[test]
fn echo_lasts_until_the_next_report() {
    let pool = pool(&["a"]);
    let a = server(&pool, "a");
    a.set_external_load(10, 1.25);
    let held = picks(&pool, 4);
    assert_eq!(a.external_load(), 15);
    drop(held);
    assert_eq!(
        a.external_load(),
        15,
        "the echo does not end with the connection"
    );
    a.set_external_load(11, 1.25);
    assert_eq!(a.external_load(), 11);
}

#[test]
fn echo_is_limited_and_rounded() {
    let pool = pool(&["a"]);
    let a = server(&pool, "a");
    for (echo, load) in [(1e9, 8), (-1.0, 0), (f64::NAN, 0), (0.5, 1), (0.49, 0)] {
        a.set_external_load(0, echo);
        drop(pick(&pool));
        assert_eq!(a.external_load(), load, "{echo}");
    }
}

#[test]
fn p2c_compares_external_load() {
    let address = SocketAddr::from(([127, 0, 0, 1], 80));
    let pool = Pool::builder("web")
        .servers(["a", "b"].map(|name| ServerSpec::new(name, address)))
        .balance(Balance::P2c)
        .build()
        .unwrap();
    server(&pool, "a").set_external_load(100, 0.0);
    let _held = picks(&pool, 50);
    assert_eq!(server(&pool, "b").in_flight(), 50);
}

#[test]
fn largest_external_load_does_not_overflow() {
    let pool = pool(&["a"]);
    let a = server(&pool, "a");
    a.set_external_load(u32::MAX, 8.0);
    let _held = picks(&pool, 10);
    assert_eq!(a.external_load(), u32::MAX);
}

#[test]
fn slots_limit_connections_in_addition_to_max_conns() {
    let pool = pool(&["a"]);
    let a = server(&pool, "a");
    assert_eq!(a.set_slots(Some(SlotGrant::new(2)), now()), 0);
    let held = picks(&pool, 2);
    assert!(pick(&pool).is_none());
    assert_eq!(a.slot_shortages(), 1);
    assert_eq!(
        a.set_slots(Some(SlotGrant::new(1)), now()),
        2,
        "none is closed"
    );
    drop(held);
    let _held = picks(&pool, 1);
    assert!(pick(&pool).is_none());
    a.set_slots(None, now());
    assert!(pick(&pool).is_some());
    assert_eq!(a.slots(now()), None);
}

#[test]
fn expired_grant_has_its_own_maximum() {
    let pool = pool(&["a"]);
    let a = server(&pool, "a");
    let start = now();
    let grant = SlotGrant::new(3).expiring(start + Duration::from_secs(3), 1);
    a.set_slots(Some(grant), start);
    assert_eq!(a.slots(start), Some(3));
    let later = start + Duration::from_secs(3);
    assert_eq!(a.slots(later), Some(1));
    let pick_at = |time| pool.pick(&pool.all(), &Tried::default(), time);
    let _held = pick_at(later).unwrap();
    assert!(pick_at(later).is_none());
    assert!(pick_at(start + Duration::from_secs(2)).is_some());
}

/// Slots are requested when the last one is taken, when a pick fails, and when one can be returned.
#[test]
fn slots_are_requested_when_the_need_changes() {
    let requests = Arc::new(std::sync::atomic::AtomicU32::new(0));
    let count = {
        let requests = Arc::clone(&requests);
        move |_| {
            requests.fetch_add(1, Ordering::Relaxed);
        }
    };
    let taken = || requests.swap(0, Ordering::Relaxed);
    let pool = pool(&["a"]);
    pool.set_slot_source(Some(crate::SlotSource::new(
        NonZeroU32::MIN,
        Duration::ZERO,
        count,
    )));
    let a = server(&pool, "a");
    a.set_slots(Some(SlotGrant::new(2)), now());
    let mut held = picks(&pool, 1);
    assert_eq!(taken(), 0);
    held.extend(pick(&pool));
    assert_eq!(taken(), 1, "the last slot");
    assert!(pick(&pool).is_none());
    assert_eq!(taken(), 1, "a failed pick");
    held.pop();
    assert_eq!(taken(), 0);
    a.set_slots(Some(SlotGrant::new(0)), now());
    held.pop();
    assert_eq!(taken(), 1, "a slot that is no longer held");
}

#[test]
fn joining_server_starts_with_an_equal_share_of_slots() {
    let pool = pool(&["a"]);
    let three = NonZeroU32::new(3).unwrap();
    pool.set_slot_source(Some(crate::SlotSource::new(three, Duration::ZERO, |_| {})));
    let address = SocketAddr::from(([127, 0, 0, 1], 80));
    let spec = |name, max| ServerSpec::new(name, address).max_conns(NonZeroU32::new(max));
    let servers = [spec("a", 20), spec("b", 20), spec("c", 2), spec("d", 0)];
    pool.update(servers.clone()).unwrap();
    let successor = pool.successor().servers(servers).build().unwrap();
    for pool in [pool, successor] {
        let slots = |name| server(&pool, name).slots(now());
        assert_eq!([slots("b"), slots("c")], [Some(6), Some(1)]);
        assert_eq!([slots("a"), slots("d")], [None, None]);
    }
}

proptest! {
    #[test]
    fn connections_never_exceed_the_slots(
        ops in prop::collection::vec((0..4u8, 0..5u32), 0..60),
    ) {
        let pool = pool(&["a"]);
        let a = server(&pool, "a");
        let mut held = Vec::new();
        let mut slots = u32::MAX;
        for (op, number) in ops {
            match op {
                0 | 1 => {
                    let lease = pick(&pool);
                    prop_assert_eq!(lease.is_some(), (held.len() as u32) < slots);
                    held.extend(lease);
                }
                2 => drop(held.pop()),
                _ => {
                    slots = number;
                    prop_assert_eq!(a.set_slots(Some(SlotGrant::new(number)), now()), held.len() as u32);
                }
            }
            prop_assert_eq!(a.in_flight(), held.len() as u32);
        }
    }
}
