use super::*;
use crate::limit::fixtures::{connected, cut_off, exact, max_conns, number, rate};

const SECOND: u64 = 1_000_000_000;

fn unanswered(members: u32) -> Sharing {
    Sharing::Unanswered {
        members: number(members),
        exact: false,
    }
}

fn rate_limited(millis: u64) -> Decision {
    Decision::Refuse(Refusal::RateLimited {
        retry_after: Duration::from_millis(millis),
    })
}

/// A client that the store has just seen for the first time.
fn answered() -> Known {
    Known {
        has_answer: true,
        ..Known::default()
    }
}

const TOO_MANY: Decision = Decision::Refuse(Refusal::TooManyConnections);

#[test]
fn rate_is_decided_here_only_far_from_the_limit() {
    let limits = rate(20.0, 20);
    for (members, used, unacknowledged, expected) in [
        // No other member has used any of the limit.
        (3, 0.0, 0, Decision::Admit),
        (3, 0.0, 5, Decision::Admit),
        (3, 0.0, 6, Decision::Ask),
        (21, 0.0, 0, Decision::Ask),
        // The last answer reports usage on other members.
        (3, 17.0, 0, Decision::Admit),
        (3, 17.1, 0, Decision::Ask),
        (3, 14.0, 1, Decision::Admit),
        (3, 14.1, 1, Decision::Ask),
        // No token is free.
        (3, 19.0, 0, Decision::Ask),
        (3, 20.0, 0, rate_limited(50)),
        (3, 19.5, 0, rate_limited(25)),
        (3, 18.0, 2, rate_limited(50)),
        (3, 40.0, 0, rate_limited(1_050)),
        // One member does not ask.
        (1, 0.0, 19, Decision::Admit),
        (1, 0.0, 20, rate_limited(50)),
    ] {
        let known = Known {
            used,
            unacknowledged,
            ..answered()
        };
        let decision = known.decide(connected(members), &limits, 0);
        assert_eq!(decision, expected, "{members} members, {known:?}");
    }
}

#[test]
fn tokens_are_restored_since_the_answer() {
    let limits = rate(20.0, 20);
    let known = Known {
        used: 20.0,
        answered: SECOND,
        ..answered()
    };
    for (millis, expected) in [
        (0, rate_limited(50)),
        (49, rate_limited(1)),
        (50, Decision::Ask),
        (149, Decision::Ask),
        (150, Decision::Admit),
        (60_000, Decision::Admit),
    ] {
        let now = SECOND + millis * SECOND / 1_000;
        assert_eq!(known.decide(connected(3), &limits, now), expected);
    }
    // Times of concurrent calls can be slightly out of order.
    assert_eq!(known.decide(connected(3), &limits, 0), rate_limited(50));
}

#[test]
fn restored_tokens_of_a_full_bucket_prove_nothing() {
    // This member has admitted 20 unacknowledged connections since the answer, one second ago. If
    // they were evenly spaced, all of their tokens have been restored. If they arrived just now,
    // none has.
    let known = Known {
        unacknowledged: 20,
        ..answered()
    };
    let decision = known.decide(connected(2), &rate(20.0, 20), SECOND);
    assert_eq!(decision, Decision::Ask);
}

#[test]
fn member_without_a_recent_answer_is_cautious() {
    let limits = rate(20.0, 20);
    let never = Known::default();
    let old = |millis: u64| (answered(), millis * SECOND / 1_000);
    for ((known, now), unacknowledged, members, expected) in [
        ((never, 0), 0, 3, Decision::Admit),
        ((never, 0), 1, 3, Decision::Ask),
        ((never, 0), 0, 6, Decision::Ask),
        // A process that was replaced may still have connections.
        ((never, 0), 0, 1, Decision::Ask),
        (old(500), 0, 1, Decision::Admit),
        (old(501), 0, 1, Decision::Ask),
        (old(500), 5, 3, Decision::Admit),
        (old(501), 1, 3, Decision::Ask),
        (old(501), 0, 3, Decision::Admit),
    ] {
        let known = Known {
            unacknowledged,
            ..known
        };
        let decision = known.decide(connected(members), &limits, now);
        assert_eq!(decision, expected, "{members} members, {known:?}");
    }
    // The same for open connections.
    for (max, open, expected) in [
        (11, 0, Decision::Ask),
        (12, 0, Decision::Admit),
        (12, 1, Decision::Ask),
        (100, 7, Decision::Admit),
        (100, 8, Decision::Ask),
    ] {
        let known = Known { open, ..never };
        assert_eq!(known.decide(connected(3), &max_conns(max), 0), expected);
    }
}

#[test]
fn max_conns_is_decided_here_only_far_below_it() {
    for (members, max, others_open, reported_open, open, expected) in [
        (3, 10, 0, 0, 0, Decision::Admit),
        (3, 10, 0, 0, 2, Decision::Admit),
        (3, 10, 0, 0, 3, Decision::Ask),
        // Connections that the store knows are not multiplied by the number of members.
        (3, 10, 0, 7, 7, Decision::Admit),
        (3, 10, 0, 8, 8, Decision::Ask),
        (3, 10, 4, 3, 3, Decision::Admit),
        (3, 10, 5, 3, 3, Decision::Ask),
        (3, 10, 10, 0, 0, Decision::Ask),
        // This member may reuse the slots of connections that ended here.
        (3, 10, 0, 8, 7, Decision::Admit),
        (3, 10, 0, 10, 9, Decision::Ask),
        // All of the client's connections are on this member.
        (3, 10, 0, 10, 10, TOO_MANY),
        (3, 10, 20, 0, 10, TOO_MANY),
        (2, 1, 0, 0, 0, Decision::Ask),
        (2, 1, 0, 0, 1, TOO_MANY),
        (1, 1, 0, 0, 0, Decision::Admit),
    ] {
        let known = Known {
            others_open,
            reported_open,
            open,
            ..answered()
        };
        let decision = known.decide(connected(members), &max_conns(max), 0);
        assert_eq!(decision, expected, "{members} members, {known:?}");
    }
}

#[test]
fn both_limits_must_allow_the_connection() {
    let both = rate(20.0, 20).max_conns(number(10));
    let known = answered();
    assert_eq!(known.decide(connected(3), &both, 0), Decision::Admit);
    let slow = Known {
        used: 20.0,
        ..known
    };
    assert_eq!(slow.decide(connected(3), &both, 0), rate_limited(50));
    let full = Known { open: 10, ..slow };
    assert_eq!(full.decide(connected(3), &both, 0), TOO_MANY);
    let busy = Known {
        others_open: 9,
        ..known
    };
    assert_eq!(busy.decide(connected(3), &both, 0), Decision::Ask);
}

#[test]
fn unlimited_clients_are_admitted() {
    let known = Known {
        used: 1e9,
        others_open: u32::MAX,
        open: u32::MAX,
        ..answered()
    };
    for sharing in [connected(3), exact(3), unanswered(3)] {
        let decision = known.decide(sharing, &Limits::default(), 0);
        assert_eq!(decision, Decision::Admit);
    }
}

#[test]
fn exact_limits_always_ask() {
    let limits = rate(20.0, 20).max_conns(number(100));
    let known = answered();
    assert_eq!(known.decide(exact(1), &limits, 0), Decision::Ask);
    let full = Known { open: 100, ..known };
    assert_eq!(full.decide(exact(1), &limits, 0), TOO_MANY);
    let sharing = Sharing::Unanswered {
        members: number(3),
        exact: true,
    };
    assert_eq!(known.decide(sharing, &limits, 0), Decision::Alone);
}

#[test]
fn connections_do_not_ask_an_unanswering_store() {
    let limits = rate(20.0, 20);
    for (used, waiting, expected) in [
        (0.0, 0, Decision::Admit),
        (0.0, 1, Decision::Admit),
        (19.0, 0, Decision::Alone),
        (20.0, 0, rate_limited(50)),
    ] {
        let known = Known {
            used,
            waiting,
            ..answered()
        };
        assert_eq!(known.decide(unanswered(3), &limits, 0), expected);
        assert_eq!(known.decide(cut_off(3), &limits, 0), Decision::Alone);
    }
}

#[test]
fn new_connections_do_not_overtake_connections_that_wait() {
    let known = Known {
        waiting: 1,
        ..answered()
    };
    let decision = known.decide(connected(3), &rate(20.0, 20), 0);
    assert_eq!(decision, Decision::Ask);
}

#[test]
fn no_more_connections_wait_than_could_be_admitted() {
    let known = Known {
        used: 18.0,
        waiting: 20,
        ..answered()
    };
    let decision = known.decide(connected(3), &rate(20.0, 20), 0);
    assert_eq!(decision, rate_limited(50));
    let limits = rate(20.0, 40).max_conns(number(20));
    assert_eq!(known.decide(connected(3), &limits, 0), TOO_MANY);
}

#[test]
fn share_is_rounded_up() {
    let limits = rate(10.0, 20).max_conns(number(2));
    let share = limits.share(number(3));
    let rate = share.rate.unwrap();
    assert_eq!(rate.per_second(), 3.333_333_334);
    assert_eq!(rate.burst(), number(7));
    assert_eq!(share.max_conns, NonZeroU32::new(1));
    assert_eq!(limits.share(number(1)), limits);
    assert_eq!(Limits::default().share(number(3)), Limits::default());
    assert_eq!(max_conns(5).share(number(8)), max_conns(1));
}

#[test]
fn raised_limit_applies_to_the_last_answer() {
    let known = Known {
        used: 20.0,
        ..answered()
    };
    assert_eq!(
        known.decide(connected(3), &rate(20.0, 20), 0),
        rate_limited(50)
    );
    assert_eq!(
        known.decide(connected(3), &rate(20.0, 23), 0),
        Decision::Admit
    );
    assert_eq!(
        known.decide(connected(3), &rate(20.0, 5), 0),
        rate_limited(800)
    );
}
