use std::{sync::Arc, time::Duration};

use super::{Bench, Case};
use crate::{Counts, MemberStatus, ServerCount, ServerKey};

pub(super) const CASES: &[(&str, Case)] = &[
    ("members_see_each_other", members_see_each_other),
    ("silent_members_are_removed", silent_members_are_removed),
    ("members_can_leave", members_can_leave),
    (
        "returning_member_is_forgotten",
        returning_member_is_forgotten,
    ),
    ("counts_are_passed_on", counts_are_passed_on),
    ("status_is_passed_on", status_is_passed_on),
    ("facts_are_passed_on", facts_are_passed_on),
    (
        "each_member_is_gone_after_its_own_time",
        each_member_is_gone_after_its_own_time,
    ),
    (
        "clock_that_goes_back_removes_silent_members",
        clock_that_goes_back_removes_silent_members,
    ),
];

fn names(bench: &mut Bench, member: usize) -> Vec<String> {
    let members = bench.beat(member).members.into_iter();
    members.map(|member| member.id.to_string()).collect()
}

fn members_see_each_other(bench: &mut Bench) {
    assert!(names(bench, 0).is_empty());
    assert_eq!(names(bench, 1), ["lb.0000000000000000"]);
    bench.advance(0.5);
    let view = bench.beat(0);
    assert_eq!(view.members[0].id.as_str(), "lb.0000000000000001");
    assert_eq!(view.members[0].last_heard, Duration::from_millis(500));
    assert_eq!(names(bench, 2).len(), 2);
}

fn silent_members_are_removed(bench: &mut Bench) {
    bench.beat(0);
    bench.beat(1);
    bench.advance(2.9);
    assert_eq!(names(bench, 0).len(), 1);
    bench.advance(0.2);
    assert_eq!(names(bench, 0).len(), 0);
}

fn members_can_leave(bench: &mut Bench) {
    bench.beat(0);
    bench.beat(1);
    bench.leave(0);
    assert_eq!(names(bench, 1).len(), 0);
    assert!(bench.beat(0).forgotten);
    assert_eq!(names(bench, 1).len(), 1);
}

fn returning_member_is_forgotten(bench: &mut Bench) {
    assert!(bench.beat(0).forgotten);
    assert!(!bench.beat(0).forgotten);
    bench.beat(1);
    bench.advance(2.0);
    assert!(!bench.beat(1).forgotten);
    bench.advance(2.0);
    bench.beat(1);
    assert!(bench.beat(0).forgotten);
    assert!(!bench.beat(0).forgotten);
    // A new connection alone loses nothing.
    bench.disconnect(0);
    assert!(!bench.beat(0).forgotten);
    // A member also notices its own silence if there is no other member.
    bench.advance(10.0);
    assert!(bench.beat(1).forgotten);
}

fn counts_are_passed_on(bench: &mut Bench) {
    let count = |open| ServerCount {
        server: ServerKey(7),
        open,
        dials_per_second: 2.5,
    };
    for version in 2..5 {
        let counts = Counts {
            version,
            servers: vec![count(version as u32)],
        };
        bench.report(0).counts = Arc::new(counts.clone());
        bench.beat(0);
        for _ in 0..2 {
            let view = bench.beat(1);
            assert_eq!(*view.members[0].counts, counts);
        }
    }
    // Also to a member that connects again, and to a new one.
    bench.disconnect(1);
    for member in [1, 2] {
        let view = bench.beat(member);
        assert_eq!(view.members[0].counts.servers, [count(4)]);
    }
    // Counts return with the member.
    bench.advance(4.0);
    assert!(bench.beat(1).members.is_empty());
    bench.beat(0);
    let view = bench.beat(0);
    assert_eq!(view.members.len(), 1);
    assert_eq!(bench.beat(1).members[0].counts.servers, [count(4)]);
}

fn status_is_passed_on(bench: &mut Bench) {
    bench.beat(0);
    assert_eq!(bench.beat(1).members[0].status, MemberStatus::Serving);
    bench.report(0).status = MemberStatus::Leaving;
    bench.beat(0);
    assert_eq!(bench.beat(1).members[0].status, MemberStatus::Leaving);
}

fn facts_are_passed_on(bench: &mut Bench) {
    bench.beat(0);
    assert_eq!(bench.beat(1).members[0].facts, None);
    for connections in [3, 5] {
        bench.set_facts(0, connections);
        bench.beat(0);
        bench.report(0).facts = None;
        bench.beat(0);
        let facts = bench.beat(1).members[0].facts.clone();
        assert_eq!(facts.map(|facts| facts.connections), Some(connections));
    }
    // The store has removed the member with its facts, and receives them again.
    bench.advance(4.0);
    bench.beat(1);
    bench.beat(0);
    bench.beat(0);
    let facts = bench.beat(2).members[0].facts.clone();
    assert_eq!(
        facts.map(|facts| facts.host.clone()),
        Some("host0".to_owned())
    );
}

fn clock_that_goes_back_removes_silent_members(bench: &mut Bench) {
    bench.beat(0);
    bench.beat(1);
    bench.turn_back(3600.0);
    assert_eq!(names(bench, 0).len(), 1);
    bench.advance(2.0);
    assert_eq!(names(bench, 0).len(), 1);
    bench.advance(2.0);
    assert_eq!(names(bench, 0).len(), 0);
}

fn each_member_is_gone_after_its_own_time(bench: &mut Bench) {
    bench.set_gone_after(0, 10);
    bench.set_gone_after(1, 1);
    bench.beat(0);
    bench.beat(1);
    bench.advance(5.0);
    assert_eq!(names(bench, 1), ["lb.0000000000000000"]);
    bench.advance(0.5);
    assert_eq!(names(bench, 2).len(), 2);
    bench.advance(1.0);
    assert_eq!(names(bench, 2), ["lb.0000000000000000"]);
    bench.advance(5.0);
    assert!(names(bench, 1).is_empty());
}
