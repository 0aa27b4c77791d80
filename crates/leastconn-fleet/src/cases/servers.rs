use super::{Bench, Case};
use crate::{ServerKey, SlotReport, SlotView};

pub(super) const CASES: &[(&str, Case)] = &[
    ("slots_are_divided", slots_are_divided),
    ("slots_in_use_are_kept", slots_in_use_are_kept),
    ("unmet_demand_is_shown", unmet_demand_is_shown),
    (
        "slots_of_removed_members_are_free",
        slots_of_removed_members_are_free,
    ),
    (
        "no_slots_beyond_those_held_while_the_fleet_settles",
        no_slots_beyond_those_held_while_the_fleet_settles,
    ),
    (
        "expired_slots_are_not_claimed",
        expired_slots_are_not_claimed,
    ),
    (
        "new_fleet_starts_with_equal_shares",
        new_fleet_starts_with_equal_shares,
    ),
];

const SERVER: ServerKey = ServerKey(42);

fn slot(want: u32, open: u32) -> SlotReport {
    SlotReport {
        server: SERVER,
        max: 20,
        want,
        open,
    }
}

fn view(held: u32, free: u32, unmet: u32) -> SlotView {
    SlotView {
        server: SERVER,
        held,
        free,
        unmet,
    }
}

/// Starts the fleet and waits until slots are given out freely.
fn settle(bench: &mut Bench) {
    bench.beat(0);
    bench.beat(1);
    bench.advance(2.0);
    bench.beat(0);
    bench.beat(1);
    bench.advance(1.0);
    bench.beat(0);
    bench.beat(1);
}

fn slots_are_divided(bench: &mut Bench) {
    settle(bench);
    assert_eq!(bench.slots(0, slot(12, 0)), view(12, 8, 0));
    assert_eq!(bench.slots(1, slot(12, 0)), view(8, 0, 0));
    assert_eq!(bench.slots(0, slot(5, 5)), view(5, 7, 4));
    assert_eq!(bench.slots(1, slot(12, 8)), view(12, 3, 0));
    assert_eq!(bench.slots(0, slot(0, 0)), view(0, 8, 0));
    assert_eq!(bench.slots(1, slot(0, 0)), view(0, 20, 0));
}

fn slots_in_use_are_kept(bench: &mut Bench) {
    settle(bench);
    bench.slots(0, slot(12, 12));
    bench.slots(1, slot(8, 8));
    // `max_conns` was reduced.
    let reduced = SlotReport {
        max: 10,
        ..slot(12, 12)
    };
    assert_eq!(bench.slots(0, reduced), view(12, 0, 0));
    let reduced = SlotReport {
        want: 3,
        open: 3,
        ..reduced
    };
    assert_eq!(bench.slots(0, reduced), view(3, 0, 0));
    // `want` is at least `open`.
    assert_eq!(bench.slots(1, slot(1, 8)), view(8, 9, 0));
}

fn unmet_demand_is_shown(bench: &mut Bench) {
    settle(bench);
    bench.slots(0, slot(20, 3));
    assert_eq!(bench.slots(1, slot(6, 0)), view(0, 0, 0));
    assert_eq!(bench.slots(0, slot(20, 3)), view(20, 0, 6));
    assert_eq!(bench.slots(0, slot(14, 3)), view(14, 6, 6));
    assert_eq!(bench.slots(1, slot(6, 0)), view(6, 0, 0));
    assert_eq!(bench.slots(0, slot(14, 3)), view(14, 0, 0));
}

fn slots_of_removed_members_are_free(bench: &mut Bench) {
    settle(bench);
    bench.slots(0, slot(12, 0));
    bench.advance(2.0);
    assert_eq!(bench.slots(1, slot(20, 0)).held, 8);
    bench.advance(2.0);
    assert_eq!(bench.slots(1, slot(20, 0)).held, 20);
}

fn no_slots_beyond_those_held_while_the_fleet_settles(bench: &mut Bench) {
    settle(bench);
    bench.slots(0, slot(15, 15));
    bench.slots(1, slot(5, 5));
    // No member was heard, and the first one that returns must not take the others' slots.
    bench.advance(10.0);
    assert_eq!(bench.slots(1, slot(20, 5)), view(5, 15, 0));
    assert_eq!(bench.slots(0, slot(15, 15)), view(15, 0, 15));
    bench.advance(2.0);
    assert_eq!(bench.slots(0, slot(10, 10)).held, 10);
    assert_eq!(bench.slots(1, slot(20, 5)).held, 5);
    bench.advance(2.0);
    assert_eq!(bench.slots(0, slot(10, 10)).held, 10);
    assert_eq!(bench.slots(1, slot(20, 5)).held, 10);
}

fn new_fleet_starts_with_equal_shares(bench: &mut Bench) {
    // The settings assume three members.
    assert_eq!(bench.slots(0, slot(20, 0)), view(6, 14, 0));
    assert_eq!(bench.slots(1, slot(20, 0)), view(6, 8, 14));
    bench.advance(2.0);
    assert_eq!(bench.slots(0, slot(20, 0)).held, 6);
    assert_eq!(bench.slots(1, slot(20, 0)).held, 6);
    bench.advance(1.5);
    assert_eq!(bench.slots(0, slot(20, 0)).held, 14);
}

fn expired_slots_are_not_claimed(bench: &mut Bench) {
    settle(bench);
    assert_eq!(bench.slots(0, slot(15, 0)).held, 15);
    bench.advance(10.0);
    bench.slots(1, slot(0, 0));
    bench.advance(3.0);
    assert_eq!(bench.slots(1, slot(20, 20)).held, 20);
    bench.lose_data();
    assert_eq!(bench.slots(0, slot(15, 0)).held, 10);
}
