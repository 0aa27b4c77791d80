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
