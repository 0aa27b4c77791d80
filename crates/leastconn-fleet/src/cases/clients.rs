use std::time::Duration;

use super::{Bench, Case};
use crate::{ClientKey, ClientReport};

pub(super) const CASES: &[(&str, Case)] = &[
    ("burst_is_shared", burst_is_shared),
    ("bucket_refills", bucket_refills),
    ("debt_is_bounded", debt_is_bounded),
    ("max_conns_is_shared", max_conns_is_shared),
    (
        "connections_of_removed_members_do_not_count",
        connections_of_removed_members_do_not_count,
    ),
    (
        "repeated_batch_takes_no_tokens",
        repeated_batch_takes_no_tokens,
    ),
    ("idle_clients_have_no_key", idle_clients_have_no_key),
    ("rate_may_be_fractional", rate_may_be_fractional),
    (
        "clock_that_goes_back_refills_nothing",
        clock_that_goes_back_refills_nothing,
    ),
    (
        "members_get_shares_after_a_loss_of_data",
        members_get_shares_after_a_loss_of_data,
    ),
    (
        "members_get_shares_after_an_outage",
        members_get_shares_after_an_outage,
    ),
    (
        "tokens_are_known_again_after_a_loss_of_data",
        tokens_are_known_again_after_a_loss_of_data,
    ),
    (
        "unknown_clients_get_shares_after_a_loss_of_data",
        unknown_clients_get_shares_after_a_loss_of_data,
    ),
    (
        "batch_of_a_returning_member_counts_once",
        batch_of_a_returning_member_counts_once,
    ),
    ("slow_refill_takes_days", slow_refill_takes_days),
    (
        "unlimited_rate_uses_no_tokens",
        unlimited_rate_uses_no_tokens,
    ),
];

const CLIENT: ClientReport = ClientReport {
    client: ClientKey([7; 16]),
    admitted: 0,
    ask: 0,
    rate: 10.0,
    burst: 20,
    max_conns: 0,
    open: 0,
    used: None,
};

fn burst_is_shared(bench: &mut Bench) {
    let ask = |ask| ClientReport { ask, ..CLIENT };
    assert_eq!(bench.limit(0, ask(12)).granted, 12);
    let view = bench.limit(1, ask(12));
    assert_eq!((view.granted, view.used), (8, 20.0));
    assert_eq!(view.others_open, 12);
    assert_eq!(view.retry_after, Duration::from_millis(100));
    assert_eq!(bench.limit(2, ask(1)).granted, 0);
    // Another client has its own bucket.
    let other = ClientReport {
        client: ClientKey([8; 16]),
        ..ask(20)
    };
    assert_eq!(bench.limit(2, other).granted, 20);
}

fn bucket_refills(bench: &mut Bench) {
    let admitted = ClientReport {
        admitted: 20,
        open: 20,
        ..CLIENT
    };
    assert_eq!(bench.limit(0, admitted).used, 20.0);
    bench.advance(0.25);
    let ask = ClientReport { ask: 5, ..CLIENT };
    let view = bench.limit(1, ask);
    assert_eq!((view.granted, view.used), (2, 19.5));
    assert_eq!(view.retry_after, Duration::from_millis(50));
    bench.advance(100.0);
    let view = bench.limit(1, CLIENT);
    assert_eq!((view.used, view.retry_after), (0.0, Duration::ZERO));
}

fn debt_is_bounded(bench: &mut Bench) {
    let admitted = ClientReport {
        admitted: 1000,
        ..CLIENT
    };
    let view = bench.limit(0, admitted);
    assert_eq!(view.used, 40.0);
    assert_eq!(view.retry_after, Duration::from_millis(2100));
    bench.advance(2.1);
    assert_eq!(bench.limit(1, ClientReport { ask: 2, ..CLIENT }).granted, 1);
}

fn max_conns_is_shared(bench: &mut Bench) {
    let report = |ask, open| ClientReport {
        ask,
        open,
        rate: 0.0,
        burst: 0,
        max_conns: 10,
        ..CLIENT
    };
    assert_eq!(bench.limit(0, report(6, 0)).granted, 6);
    let view = bench.limit(1, report(6, 0));
    assert_eq!((view.granted, view.others_open), (4, 6));
    assert_eq!(bench.limit(2, report(1, 0)).granted, 0);
    // Two connections are closed.
    assert_eq!(bench.limit(0, report(0, 4)).others_open, 4);
    let view = bench.limit(1, report(3, 4));
    assert_eq!((view.granted, view.others_open), (2, 4));
    // More open than allowed, after the limit was reduced.
    let reduced = ClientReport {
        max_conns: 1,
        ..report(1, 4)
    };
    assert_eq!(bench.limit(0, reduced).granted, 0);
}

fn connections_of_removed_members_do_not_count(bench: &mut Bench) {
    let report = |ask, open| ClientReport {
        ask,
        open,
        max_conns: 10,
        ..CLIENT
    };
    bench.limit(0, report(8, 0));
    bench.beat(1);
    bench.advance(2.0);
    assert_eq!(bench.limit(1, report(0, 0)).others_open, 8);
    bench.advance(2.0);
    assert_eq!(bench.limit(1, report(0, 0)).others_open, 0);
    // The member returns and reports its connections again.
    assert!(bench.beat(0).forgotten);
    bench.limit(0, report(0, 8));
    assert_eq!(bench.limit(1, report(0, 0)).others_open, 8);
}

fn repeated_batch_takes_no_tokens(bench: &mut Bench) {
    let report = ClientReport {
        admitted: 3,
        ask: 2,
        open: 3,
        ..CLIENT
    };
    let view = bench.batch(0, 1, report);
    assert_eq!((view.granted, view.used), (2, 5.0));
    assert_eq!(bench.limit(1, CLIENT).others_open, 5);
    bench.disconnect(0);
    let view = bench.batch(0, 1, report);
    assert_eq!((view.granted, view.used), (0, 5.0));
    // No connection waits for the answer any more, so the two were not admitted.
    assert_eq!(bench.limit(1, CLIENT).others_open, 3);
    assert_eq!(bench.batch(0, 2, report).used, 10.0);
    assert_eq!(bench.batch(0, 1, report).used, 10.0);
}

fn idle_clients_have_no_key(bench: &mut Bench) {
    let connections = ClientReport {
        rate: 0.0,
        max_conns: 10,
        open: 3,
        ..CLIENT
    };
    bench.limit(0, connections);
    bench.limit(1, connections);
    assert_eq!(bench.clients(), 1);
    let closed = ClientReport {
        open: 0,
        ..connections
    };
    bench.limit(0, closed);
    assert_eq!(bench.clients(), 1);
    bench.limit(1, closed);
    assert_eq!(bench.clients(), 0);

    let ask = ClientReport { ask: 1, ..CLIENT };
    bench.limit(0, ask);
    bench.limit(0, CLIENT);
    assert_eq!(bench.clients(), 1);
    bench.advance(0.1);
    bench.limit(0, CLIENT);
    assert_eq!(bench.clients(), 0);
}

fn rate_may_be_fractional(bench: &mut Bench) {
    let report = ClientReport {
        ask: 1,
        rate: 0.3,
        burst: 1,
        ..CLIENT
    };
    assert_eq!(bench.limit(0, report).granted, 1);
    let view = bench.limit(1, report);
    assert_eq!(
        (view.granted, view.retry_after),
        (0, Duration::from_micros(3_333_334))
    );
    bench.beat(0);
    bench.advance(3.4);
    assert_eq!(bench.limit(1, report).granted, 1);
}

fn clock_that_goes_back_refills_nothing(bench: &mut Bench) {
    let report = ClientReport { ask: 20, ..CLIENT };
    assert_eq!(bench.limit(0, report).granted, 20);
    bench.turn_back(3600.0);
    assert_eq!(bench.limit(0, report).granted, 0);
    bench.advance(0.5);
    assert_eq!(bench.limit(0, report).granted, 5);
}

fn unlimited_rate_uses_no_tokens(bench: &mut Bench) {
    let report = ClientReport {
        admitted: 5,
        ask: 1000,
        rate: 0.0,
        burst: 0,
        ..CLIENT
    };
    let view = bench.limit(0, report);
    assert_eq!((view.granted, view.used), (1000, 0.0));
    assert_eq!(view.retry_after, Duration::ZERO);
}

/// Three members with three connections each.
fn start_three(bench: &mut Bench, conns: ClientReport) {
    for member in [0, 1, 2, 0, 1, 2] {
        bench.beat(member);
    }
    for member in [0, 1, 2] {
        assert_eq!(
            bench
                .limit(member, ClientReport { ask: 3, ..conns })
                .granted,
            3
        );
    }
}

const CONNECTIONS: ClientReport = ClientReport {
    rate: 0.0,
    burst: 0,
    max_conns: 9,
    ..CLIENT
};

fn members_get_shares_after_a_loss_of_data(bench: &mut Bench) {
    let report = |ask, open| ClientReport {
        ask,
        open,
        ..CONNECTIONS
    };
    start_three(bench, CONNECTIONS);
    bench.lose_data();
    // The first member that returns does not see the others.
    let view = bench.beat(0);
    assert_eq!((view.members.len(), view.least_members), (0, 3));
    assert_eq!(bench.limit(0, report(9, 3)).granted, 0);
    // The second one has closed two connections.
    assert_eq!(bench.limit(1, report(5, 1)).granted, 2);
    bench.advance(2.0);
    assert_eq!(bench.limit(0, report(9, 3)).granted, 0);
    assert_eq!(bench.limit(1, report(9, 3)).granted, 0);
    // The third one does not return.
    bench.advance(1.5);
    assert_eq!(bench.beat(1).least_members, 0);
    assert_eq!(bench.limit(0, report(9, 3)).granted, 3);
}

fn members_get_shares_after_an_outage(bench: &mut Bench) {
    let report = |ask, open| ClientReport {
        ask,
        open,
        ..CONNECTIONS
    };
    start_three(bench, CONNECTIONS);
    bench.advance(10.0);
    let view = bench.beat(2);
    assert_eq!((view.members.len(), view.least_members), (0, 3));
    assert_eq!(bench.limit(2, report(9, 3)).granted, 0);
    // A member that returns to others that are alive is not limited.
    bench.advance(2.0);
    bench.beat(2);
    bench.advance(2.0);
    bench.beat(2);
    assert_eq!(bench.beat(0).least_members, 0);
    assert_eq!(bench.limit(0, report(9, 0)).granted, 6);
}

fn tokens_are_known_again_after_a_loss_of_data(bench: &mut Bench) {
    let report = |ask, used| ClientReport {
        ask,
        rate: 0.1,
        used,
        ..CLIENT
    };
    for member in [0, 1, 0, 1] {
        bench.beat(member);
    }
    assert_eq!(bench.limit(0, report(18, None)).used, 18.0);
    bench.lose_data();
    let view = bench.limit(0, report(5, Some(18.0)));
    assert_eq!((view.granted, view.used), (2, 20.0));
    // A member with an older answer.
    assert_eq!(bench.limit(1, report(5, Some(3.0))).granted, 0);
}

fn unknown_clients_get_shares_after_a_loss_of_data(bench: &mut Bench) {
    let ask = |ask| ClientReport {
        ask,
        rate: 0.1,
        burst: 9,
        ..CLIENT
    };
    start_three(bench, ask(0));
    bench.lose_data();
    assert_eq!(bench.limit(0, ask(9)).granted, 3);
    assert_eq!(bench.limit(1, ask(9)).granted, 0);
}

fn batch_of_a_returning_member_counts_once(bench: &mut Bench) {
    let report = ClientReport {
        admitted: 3,
        ask: 2,
        open: 3,
        rate: 0.01,
        ..CLIENT
    };
    for has_other in [false, true] {
        let number = 1 + u64::from(has_other);
        let before = bench.batch(0, number, report).used;
        bench.disconnect(0);
        bench.advance(4.0);
        if has_other {
            bench.beat(1);
        }
        let after = bench.batch(0, number, report).used;
        assert!(after < before, "{after}, {before} before");
    }
}

fn slow_refill_takes_days(bench: &mut Bench) {
    let report = ClientReport {
        admitted: 20,
        rate: 0.0001,
        ..CLIENT
    };
    bench.limit(0, report);
    bench.advance(30.0 * 3600.0);
    let report = ClientReport {
        admitted: 0,
        ..report
    };
    assert_eq!(bench.limit(0, report).used, 9.2);
}
