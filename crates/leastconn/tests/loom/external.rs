//! Loom models of slots and external load.

use std::sync::Arc;

use leastconn::SlotGrant;

use crate::{Setup, at, model_with_preemptions, poll, queueing, spec, wait};

#[test]
fn growing_slots_serve_the_queue() {
    loom::model(|| {
        let setup = queueing();
        let server = &setup.pool.members()[0].server;
        server.set_slots(Some(SlotGrant::new(0)), at(0));
        let other = setup.spawn(|setup| {
            let server = &setup.pool.members()[0].server;
            server.set_slots(Some(SlotGrant::new(1)), at(0))
        });
        let mut waiting = wait(&setup);
        let early = poll(&mut waiting);
        other.join().unwrap();
        let lease = early.or_else(|| poll(&mut waiting));
        assert!(lease.is_some());
        assert_eq!(setup.in_flight(), [1]);
        drop(lease);
        assert!(setup.pick(at(0)).is_some(), "the reservation has ended");
    });
}

#[test]
fn taken_slots_are_not_used() {
    for slots in [0, 1] {
        loom::model(move || {
            let setup = Setup::new([spec("a")]);
            let server = Arc::clone(&setup.pool.members()[0].server);
            if slots > 0 {
                server.set_slots(Some(SlotGrant::new(slots)), at(0));
            }
            let other = setup.spawn(|setup| setup.pick(at(0)));
            let open = server.set_slots(Some(SlotGrant::new(0)), at(0));
            let lease = other.join().unwrap();
            assert!(lease.is_none() || open == 1, "a connection was added later");
            assert_eq!(setup.in_flight(), [u32::from(lease.is_some())]);
            drop(lease);
            assert!(setup.pick(at(0)).is_none());
        });
    }
}

/// The earlier grant must not be read with the expiry of the next one.
#[test]
fn expired_slots_are_not_revived() {
    loom::model(|| {
        let setup = Setup::new([spec("a")]);
        let server = Arc::clone(&setup.pool.members()[0].server);
        server.set_slots(Some(SlotGrant::new(1).expiring(at(1), 0)), at(0));
        let other = setup.spawn(|setup| {
            let server = &setup.pool.members()[0].server;
            let grant = SlotGrant::new(0).expiring(at(9), 0);
            server.set_slots(Some(grant), at(5));
        });
        assert!(setup.pick(at(5)).is_none());
        other.join().unwrap();
    });
}

#[test]
fn reverted_pick_does_not_leave_a_waiter() {
    model_with_preemptions(2, || {
        let setup = queueing();
        let server = Arc::clone(&setup.pool.members()[0].server);
        let other = setup.spawn(|setup| drop(setup.pick(at(0))));
        server.set_slots(Some(SlotGrant::new(0)), at(0));
        let mut waiting = wait(&setup);
        server.set_slots(Some(SlotGrant::new(1)), at(0));
        other.join().unwrap();
        let lease = poll(&mut waiting);
        assert!(lease.is_some());
        assert_eq!(setup.in_flight(), [1]);
    });
}

#[test]
fn concurrent_picks_balance_equal_external_load() {
    loom::model(|| {
        let setup = Setup::new([spec("a"), spec("b")]);
        for member in setup.pool.members().iter() {
            member.server.set_external_load(3, 1.0);
        }
        let other = setup.spawn(|setup| setup.pick(at(0)).unwrap());
        let held = (setup.pick(at(0)).unwrap(), other.join().unwrap());
        assert_eq!(setup.in_flight(), [1, 1]);
        drop(held);
        assert_eq!(setup.in_flight(), [0, 0]);
    });
}
