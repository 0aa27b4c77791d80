use std::{
    collections::HashMap,
    pin::pin,
    sync::LazyLock,
    task::{Context, Poll, Waker},
};

use super::*;
use crate::limit::{
    Limiter,
    fixtures::{connected, cut_off, exact, max_conns, number, rate},
};

#[expect(
    clippy::disallowed_methods,
    reason = "an Instant cannot be constructed otherwise"
)]
static EPOCH: LazyLock<Instant> = LazyLock::new(Instant::now);

fn at(millis: u64) -> Instant {
    *EPOCH + Duration::from_millis(millis)
}

fn limiter() -> Limiter {
    Limiter::forgetful(1_000, *EPOCH)
}

fn alice() -> ClientId {
    ClientId::from("alice")
}

#[track_caller]
fn permit(admission: Result<Admission, Refusal>) -> Permit {
    match admission.unwrap() {
        Admission::Admitted(permit) => permit,
        Admission::Ask(_) => panic!("asked"),
    }
}

#[track_caller]
fn pending(admission: Result<Admission, Refusal>) -> Pending {
    match admission.unwrap() {
        Admission::Ask(pending) => pending,
        Admission::Admitted(_) => panic!("admitted without asking"),
    }
}

fn poll(pending: &mut Pending) -> Poll<Result<Permit, Refusal>> {
    pin!(pending).poll(&mut Context::from_waker(Waker::noop()))
}

#[track_caller]
fn decided(mut pending: Pending) -> Result<Permit, Refusal> {
    match poll(&mut pending) {
        Poll::Ready(decision) => decision,
        Poll::Pending => panic!("no decision"),
    }
}

#[track_caller]
fn one_report(limiter: &Limiter, now: u64) -> UsageReport {
    let mut reports = limiter.usage_reports(10, at(now));
    assert_eq!(reports.len(), 1, "{reports:?}");
    reports.remove(0)
}

/// Returns the report's numbers of admitted, asking and open connections.
fn numbers(report: &UsageReport) -> (u32, u32, u32) {
    (report.admitted(), report.ask(), report.open())
}

#[test]
fn usage_is_reported_once_and_acknowledged() {
    let limiter = limiter();
    let limits = rate(20.0, 200);
    let first = permit(limiter.admit_shared(&alice(), &limits, connected(3), at(0)));
    let _second = permit(limiter.admit_shared(&alice(), &limits, connected(3), at(0)));
    let report = one_report(&limiter, 0);
    assert_eq!(report.client(), &alice());
    assert_eq!(report.limits(), &limits);
    assert_eq!(numbers(&report), (2, 0, 2));
    // Changes made before the report is acknowledged go into the next report.
    drop(first);
    assert!(limiter.usage_reports(10, at(1)).is_empty());
    report.confirm(&FleetUsage::new(0, 2.0, 0), at(2));
    let report = one_report(&limiter, 2);
    assert_eq!(numbers(&report), (0, 0, 1));
    report.confirm(&FleetUsage::new(0, 2.0, 0), at(3));
    assert!(limiter.usage_reports(10, at(4)).is_empty());
}

#[test]
fn dropped_report_is_contained_in_the_next() {
    let limiter = limiter();
    let limits = rate(20.0, 200);
    let _first = permit(limiter.admit_shared(&alice(), &limits, connected(3), at(0)));
    drop(one_report(&limiter, 0));
    let _second = permit(limiter.admit_shared(&alice(), &limits, connected(3), at(0)));
    assert_eq!(numbers(&one_report(&limiter, 0)), (2, 0, 2));
}

#[test]
fn report_that_is_sent_again_keeps_its_tokens() {
    let limiter = limiter();
    let limits = rate(20.0, 200).max_conns(number(200));
    let first = permit(limiter.admit_shared(&alice(), &limits, connected(3), at(0)));
    let mut report = one_report(&limiter, 0);
    let _second = permit(limiter.admit_shared(&alice(), &limits, connected(3), at(0)));
    let _third = permit(limiter.admit_shared(&alice(), &limits, connected(3), at(0)));
    drop(first);
    report.refresh();
    assert_eq!(numbers(&report), (1, 0, 2));
    report.confirm(&FleetUsage::new(0, 1.0, 0), at(1));
    let report = one_report(&limiter, 1);
    assert_eq!(numbers(&report), (2, 0, 2));
    report.confirm(&FleetUsage::new(0, 3.0, 0), at(2));
    assert!(limiter.usage_reports(10, at(2)).is_empty());
}

#[test]
fn store_decides_near_the_limit_in_order_of_arrival() {
    let limiter = limiter();
    let limits = max_conns(2);
    let ask = || pending(limiter.admit_shared(&alice(), &limits, connected(3), at(0)));
    let (mut first, second) = (ask(), ask());
    assert!(poll(&mut first).is_pending());
    let report = one_report(&limiter, 0);
    assert_eq!(numbers(&report), (0, 2, 0));
    report.confirm(&FleetUsage::new(1, 0.0, 1), at(1));
    let first = decided(first).unwrap();
    assert_eq!(decided(second).unwrap_err(), Refusal::TooManyConnections);
    assert_eq!(limiter.open(&alice()), 1);
    drop(first);
    assert_eq!(limiter.open(&alice()), 0);
    assert_eq!(numbers(&one_report(&limiter, 1)), (0, 0, 0));
}

#[test]
fn admitted_connections_are_reported_before_asking() {
    let limiter = limiter();
    let limits = max_conns(12);
    let admit = || limiter.admit_shared(&alice(), &limits, connected(3), at(0));
    let _first = permit(admit());
    let second = pending(admit());
    let mut report = one_report(&limiter, 0);
    assert_eq!(numbers(&report), (1, 0, 1));
    report.refresh();
    assert_eq!(numbers(&report), (1, 0, 1));
    report.confirm(&FleetUsage::new(0, 0.0, 1), at(1));
    let report = one_report(&limiter, 2);
    assert_eq!(numbers(&report), (0, 1, 1));
    report.confirm(&FleetUsage::new(1, 0.0, 2), at(3));
    assert!(decided(second).is_ok());
}

#[test]
fn refusal_says_when_the_next_token_is_free() {
    let limiter = limiter();
    let limits = rate(20.0, 20);
    let ask = |now| limiter.admit_shared(&alice(), &limits, exact(3), at(now));
    let (first, second) = (pending(ask(0)), pending(ask(0)));
    one_report(&limiter, 0).confirm(&FleetUsage::new(1, 19.5, 0), at(0));
    let _held = decided(first).unwrap();
    let limited = |millis| Refusal::RateLimited {
        retry_after: Duration::from_millis(millis),
    };
    assert_eq!(decided(second).unwrap_err(), limited(25));
    // Until then, connections are refused without asking.
    assert_eq!(ask(5).unwrap_err(), limited(20));
    assert!(limiter.usage_reports(10, at(5)).is_empty());
    drop(pending(ask(25)));
}

#[test]
fn cancelled_connections_give_back_what_was_granted() {
    let limiter = limiter();
    let limits = max_conns(2);
    let ask = || pending(limiter.admit_shared(&alice(), &limits, connected(3), at(0)));
    // The connection is cancelled before the report.
    drop(ask());
    assert!(limiter.usage_reports(10, at(0)).is_empty());
    // The connection is cancelled between the report and the answer, and the next connection in the
    // report is admitted instead.
    let (first, second) = (ask(), ask());
    let report = one_report(&limiter, 0);
    assert_eq!(numbers(&report), (0, 2, 0));
    drop(first);
    report.confirm(&FleetUsage::new(1, 0.0, 1), at(1));
    drop(decided(second).unwrap());
    let report = one_report(&limiter, 1);
    assert_eq!(numbers(&report), (0, 0, 0));
    report.confirm(&FleetUsage::new(0, 0.0, 0), at(1));
    // If no connection is left, the store learns that the grant is unused.
    let only = ask();
    let report = one_report(&limiter, 2);
    drop(only);
    report.confirm(&FleetUsage::new(1, 0.0, 0), at(3));
    assert_eq!(limiter.open(&alice()), 0);
    let report = one_report(&limiter, 3);
    assert_eq!(numbers(&report), (0, 0, 0));
    report.confirm(&FleetUsage::new(0, 0.0, 0), at(4));
    // The connection is cancelled after the answer.
    let only = ask();
    one_report(&limiter, 5).confirm(&FleetUsage::new(1, 0.0, 0), at(5));
    assert_eq!(limiter.open(&alice()), 1);
    drop(only);
    assert_eq!(limiter.open(&alice()), 0);
    assert_eq!(numbers(&one_report(&limiter, 6)), (0, 0, 0));
}

/// The store had already received the report, so its answer grants nothing, although a token is
/// free.
#[test]
fn connections_ask_again_after_a_repeated_report() {
    let limiter = limiter();
    let limits = rate(20.0, 20);
    let mut first = pending(limiter.admit_shared(&alice(), &limits, exact(3), at(0)));
    one_report(&limiter, 0).confirm(&FleetUsage::new(0, 1.0, 0), at(300));
    assert!(poll(&mut first).is_pending());
    let report = one_report(&limiter, 300);
    assert_eq!(numbers(&report), (0, 1, 0));
    report.confirm(&FleetUsage::new(1, 2.0, 0), at(301));
    assert!(decided(first).is_ok());
}

#[test]
fn share_decides_after_the_timeout() {
    let limiter = limiter();
    let limits = max_conns(4);
    let ask = || pending(limiter.admit_shared(&alice(), &limits, exact(3), at(0)));
    let members = number(3);
    let waiting = [ask(), ask(), ask()];
    let mut report = one_report(&limiter, 0);
    let [first, second, third] = waiting.map(|pending| pending.decide_alone(members, at(20)));
    let _held = (first.unwrap(), second.unwrap());
    assert_eq!(third.unwrap_err(), Refusal::TooManyConnections);
    // The report is sent again without these connections. If the store has already admitted them,
    // it learns how many are actually open.
    report.refresh();
    assert_eq!(numbers(&report), (0, 0, 2));
    report.confirm(&FleetUsage::new(0, 0.0, 0), at(300));
    assert!(limiter.usage_reports(10, at(300)).is_empty());
}

#[test]
fn late_grant_is_counted_once() {
    let limiter = limiter();
    let limits = rate(20.0, 20).max_conns(number(4));
    let ask = || pending(limiter.admit_shared(&alice(), &limits, exact(3), at(0)));
    let (one, other) = (ask(), ask());
    let report = one_report(&limiter, 0);
    let _held = one.decide_alone(number(3), at(20)).unwrap();
    drop(other);
    report.confirm(&FleetUsage::new(2, 2.0, 0), at(50));
    assert_eq!(limiter.open(&alice()), 1);
    // The store counts both tokens. The token of the connection that was admitted is not used
    // twice.
    let report = one_report(&limiter, 51);
    assert_eq!(numbers(&report), (0, 0, 1));
}

#[test]
fn store_decision_wins_if_it_arrives_with_the_timeout() {
    let limiter = limiter();
    let limits = max_conns(1);
    let waiting = pending(limiter.admit_shared(&alice(), &limits, exact(3), at(0)));
    one_report(&limiter, 0).confirm(&FleetUsage::new(0, 0.0, 1), at(20));
    let refused = waiting.decide_alone(number(3), at(20)).unwrap_err();
    assert_eq!(refused, Refusal::TooManyConnections);
}

#[test]
fn unanswered_connections_stop_waiting() {
    let limiter = limiter();
    let limits = max_conns(6);
    let ask = |client: &ClientId| pending(limiter.admit_shared(client, &limits, exact(3), at(0)));
    let bob = ClientId::from("bob");
    let asked = [ask(&alice()), ask(&alice()), ask(&alice())];
    let report = one_report(&limiter, 0);
    let more = ask(&bob);
    let members = number(3);
    report.unanswered(members, at(250));
    limiter.unanswered(members, at(250));
    let decisions = asked.map(decided);
    let held = decisions.iter().filter(|decision| decision.is_ok()).count();
    assert_eq!(held, 2, "a third of six");
    assert!(decided(more).is_ok());
    report.confirm(&FleetUsage::new(0, 0.0, 0), at(300));
}

#[test]
fn cut_off_member_enforces_its_share() {
    let limiter = limiter();
    let limits = rate(20.0, 20).max_conns(number(100));
    let mut held = Vec::new();
    for _ in 0..7 {
        held.push(permit(limiter.admit_shared(
            &alice(),
            &limits,
            cut_off(3),
            at(0),
        )));
    }
    let refused = limiter.admit_shared(&alice(), &limits, cut_off(3), at(0));
    assert_eq!(
        refused.unwrap_err(),
        Refusal::RateLimited {
            // The share is a third of 20 connections per second.
            retry_after: Duration::from_nanos(150_000_000)
        }
    );
    let limits = max_conns(20);
    let refused = limiter.admit_shared(&alice(), &limits, cut_off(3), at(0));
    assert_eq!(refused.unwrap_err(), Refusal::TooManyConnections);
}

#[test]
fn cut_off_client_without_tokens_gets_the_share_rate() {
    let limiter = limiter();
    let limits = rate(20.0, 20);
    for _ in 0..20 {
        drop(permit(limiter.admit_shared(
            &alice(),
            &limits,
            cut_off(1),
            at(0),
        )));
    }
    let admit = |now| limiter.admit_shared(&alice(), &limits, cut_off(4), at(now));
    assert_eq!(
        admit(0).unwrap_err(),
        Refusal::RateLimited {
            retry_after: Duration::from_millis(200)
        }
    );
    drop(permit(admit(200)));
}

#[test]
fn long_cut_off_is_not_repaid_at_once() {
    let limiter = limiter();
    let limits = rate(20.0, 20);
    let mut admitted = 0;
    for millis in 0..60_000 {
        let admission = limiter.admit_shared(&alice(), &limits, cut_off(4), at(millis));
        admitted += u32::from(admission.is_ok());
    }
    assert!((300..=305).contains(&admitted), "{admitted}");
    let report = one_report(&limiter, 60_000);
    assert_eq!(report.admitted(), 4, "tokens of the share in use");
    drop(report);
    assert_eq!(one_report(&limiter, 60_000).admitted(), 4);
}

#[test]
fn client_is_remembered_until_the_store_knows() {
    let limiter = limiter();
    let limits = rate(20.0, 20);
    let held = permit(limiter.admit_shared(&alice(), &limits, connected(3), at(0)));
    let report = one_report(&limiter, 0);
    drop(held);
    let is_known = |now| {
        limiter.forget_idle(at(now));
        !limiter.is_empty()
    };
    assert!(is_known(10_000), "not acknowledged");
    report.confirm(&FleetUsage::new(0, 1.0, 0), at(10_000));
    assert!(is_known(10_040), "the store counts a connection");
    let report = one_report(&limiter, 10_040);
    assert_eq!(numbers(&report), (0, 0, 0));
    assert!(is_known(10_045), "not acknowledged");
    report.confirm(&FleetUsage::new(0, 0.5, 0), at(10_045));
    assert!(is_known(10_071), "the end may have to be reported again");
    let report = one_report(&limiter, 30_000);
    assert_eq!(numbers(&report), (0, 0, 0));
    report.confirm(&FleetUsage::new(0, 0.5, 0), at(30_000));
    assert!(limiter.usage_reports(10, at(50_000)).is_empty());
    assert!(!is_known(50_000));
}

#[test]
fn open_connections_are_reported_again() {
    let limiter = limiter();
    let limits = max_conns(30);
    let held = permit(limiter.admit_shared(&alice(), &limits, connected(3), at(0)));
    one_report(&limiter, 0).confirm(&FleetUsage::new(0, 0.0, 0), at(0));
    assert!(limiter.usage_reports(10, at(19_999)).is_empty());
    let report = one_report(&limiter, 20_000);
    assert_eq!(numbers(&report), (0, 0, 1));
    report.confirm(&FleetUsage::new(0, 0.0, 0), at(20_001));
    assert!(limiter.usage_reports(10, at(39_999)).is_empty());
    // The store was restarted.
    limiter.repeat_reports(at(30_000));
    one_report(&limiter, 30_001).confirm(&FleetUsage::new(0, 0.0, 0), at(30_001));
    assert!(limiter.usage_reports(10, at(30_002)).is_empty());
    drop(held);
    one_report(&limiter, 30_003).confirm(&FleetUsage::new(0, 0.0, 0), at(30_003));
    assert!(limiter.usage_reports(10, at(90_000)).is_empty());
    assert!(limiter.usage_reports(10, at(190_000)).is_empty());
}

#[test]
fn last_end_is_reported_again_for_limited_time() {
    let limiter = limiter();
    let limits = rate(20.0, 200);
    let admit = |now| permit(limiter.admit_shared(&alice(), &limits, connected(3), at(now)));
    let report = |now| one_report(&limiter, now).confirm(&FleetUsage::new(0, 1.0, 0), at(now));
    let first = admit(0);
    report(0);
    let second = admit(1);
    report(1);
    drop((first, second));
    report(2);
    drop(admit(15_000));
    report(15_000);
    report(20_000);
    assert!(limiter.usage_reports(10, at(40_000)).is_empty());
}

#[test]
fn waiting_connections_are_decided_under_their_own_limits() {
    let limiter = limiter();
    let ask = |limits| pending(limiter.admit_shared(&alice(), limits, exact(3), at(0)));
    let (low, high) = (max_conns(3), max_conns(100));
    let (first, second, third) = (ask(&low), ask(&high), ask(&low));
    let report = one_report(&limiter, 0);
    assert_eq!(report.limits(), &low);
    assert_eq!(numbers(&report), (0, 3, 0));
    report.confirm(&FleetUsage::new(0, 0.0, 3), at(1));
    for refused in [first, third] {
        assert_eq!(decided(refused).unwrap_err(), Refusal::TooManyConnections);
    }
    // Attempts under the low limit do not delay the other connection.
    let fourth = ask(&low);
    let report = one_report(&limiter, 1);
    assert_eq!(report.limits(), &high);
    assert_eq!(numbers(&report), (0, 1, 0));
    report.confirm(&FleetUsage::new(1, 0.0, 3), at(2));
    let _held = decided(second).unwrap();
    let report = one_report(&limiter, 2);
    assert_eq!(report.limits(), &low);
    report.confirm(&FleetUsage::new(0, 0.0, 3), at(3));
    assert_eq!(decided(fourth).unwrap_err(), Refusal::TooManyConnections);

    // While the store does not answer, too.
    let (first, second) = (ask(&low), ask(&high));
    let _low = first.decide_alone(number(1), at(3)).unwrap();
    let third = ask(&low);
    let _high = second.decide_alone(number(1), at(3)).unwrap();
    let third = third.decide_alone(number(1), at(3));
    assert_eq!(third.unwrap_err(), Refusal::TooManyConnections);
}

/// The store would count the connection until its numbers expire.
#[test]
fn client_is_kept_until_its_end_is_reported() {
    let limiter = Limiter::forgetful(1, *EPOCH);
    let limits = max_conns(30);
    let admit = |client: &str| {
        let client = ClientId::from(client);
        permit(limiter.admit_shared(&client, &limits, connected(3), at(0)))
    };
    let held = admit("alice");
    one_report(&limiter, 0).confirm(&FleetUsage::new(0, 0.0, 0), at(0));
    drop(held);
    let _others = ["bob", "carol"].map(admit);
    let reports = limiter.usage_reports(10, at(1));
    let ended = reports.iter().find(|report| report.client() == &alice());
    assert_eq!(ended.map(numbers), Some((0, 0, 0)));
}

#[test]
fn reports_are_bounded_and_fair() {
    let calls = Arc::new(AtomicU64::new(0));
    let limiter = {
        let calls = Arc::clone(&calls);
        limiter().on_change(move |_| {
            calls.fetch_add(1, Ordering::AcqRel);
        })
    };
    let limits = rate(1_000.0, 1_000);
    let client = |n: usize| ClientId::from(format!("client{n}"));
    let admit = |n| {
        drop(permit(limiter.admit_shared(
            &client(n),
            &limits,
            connected(3),
            at(0),
        )))
    };
    let mut counts: HashMap<ClientId, usize> = HashMap::new();
    (0..100).for_each(admit);
    let asked = pending(limiter.admit_shared(&client(200), &limits, exact(3), at(0)));
    for round in 0..4 {
        let before = calls.load(Ordering::Acquire);
        let reports = limiter.usage_reports(30, at(0));
        let left = calls.load(Ordering::Acquire) > before;
        assert_eq!(left, round < 3, "clients are left in round {round}");
        if round == 0 {
            assert_eq!(reports[0].client(), &client(200), "it waits");
        }
        for report in reports {
            *counts.entry(report.client().clone()).or_default() += 1;
            let ask = report.ask();
            report.confirm(&FleetUsage::new(ask, 1.0, 0), at(0));
            // The first clients keep connecting.
            (0..10).for_each(admit);
        }
    }
    for n in 0..100 {
        assert!(counts.contains_key(&client(n)), "client{n}");
    }
    drop(asked);
}

#[test]
fn stopped_sharing_keeps_connections_and_tokens() {
    let limiter = limiter();
    let limits = rate(1.0, 4).max_conns(number(4));
    let _held =
        [(); 2].map(|()| permit(limiter.admit_shared(&alice(), &limits, cut_off(1), at(0))));
    let waiting = pending(limiter.admit_shared(&alice(), &limits, exact(1), at(0)));
    let report = one_report(&limiter, 0);
    limiter.stop_sharing(at(0));
    let _third = decided(waiting).unwrap();
    let fourth = limiter.admit(&alice(), &limits, at(0)).unwrap();
    let refused = limiter.admit(&alice(), &limits, at(0)).unwrap_err();
    assert_eq!(refused, Refusal::TooManyConnections);
    drop(fourth);
    let refused = limiter.admit(&alice(), &limits, at(0)).unwrap_err();
    assert!(matches!(refused, Refusal::RateLimited { .. }));
    report.confirm(&FleetUsage::new(1, 3.0, 0), at(0));
    assert!(limiter.usage_reports(10, at(0)).is_empty());
}

#[test]
fn sharing_starts_with_what_was_used_before() {
    let limiter = limiter();
    let limits = rate(1.0, 200);
    let _before = [(); 5].map(|()| limiter.admit(&alice(), &limits, at(0)).unwrap());
    let _held = permit(limiter.admit_shared(&alice(), &limits, connected(3), at(0)));
    let report = one_report(&limiter, 0);
    assert_eq!(numbers(&report), (6, 0, 6));
}

#[test]
fn open_connections_can_be_shared_later() {
    let limiter = limiter();
    let limits = rate(0.1, 20).max_conns(number(30));
    limiter.share_open(&alice(), &limits, at(0));
    assert!(limiter.is_empty());
    let held = limiter.admit(&alice(), &limits, at(0)).unwrap();
    limiter.share_open(&alice(), &Limits::default(), at(0));
    assert!(limiter.usage_reports(10, at(0)).is_empty());
    limiter.share_open(&alice(), &limits, at(0));
    let report = one_report(&limiter, 0);
    assert_eq!(report.limits(), &limits);
    assert_eq!(numbers(&report), (1, 0, 1));
    report.confirm(&FleetUsage::new(0, 1.0, 0), at(0));
    drop(held);
    assert_eq!(numbers(&one_report(&limiter, 1)), (0, 0, 0));
}

#[test]
fn unlimited_client_with_shared_connections_is_still_reported() {
    let limiter = limiter();
    let held = permit(limiter.admit_shared(&alice(), &max_conns(30), connected(3), at(0)));
    one_report(&limiter, 0).confirm(&FleetUsage::new(0, 0.0, 0), at(0));
    // A reload removes the limit.
    let _more = permit(limiter.admit_shared(&alice(), &Limits::default(), exact(3), at(1)));
    drop(held);
    assert_eq!(numbers(&one_report(&limiter, 1)), (1, 0, 1));
}

#[test]
fn lowered_limits_apply_to_connections_that_wait() {
    let limiter = limiter();
    let ask = |max| pending(limiter.admit_shared(&alice(), &max_conns(max), exact(3), at(0)));
    let (first, second) = (ask(10), ask(5));
    let report = one_report(&limiter, 0);
    assert_eq!(report.limits(), &max_conns(5));
    report.confirm(&FleetUsage::new(1, 0.0, 4), at(1));
    assert!(decided(first).is_ok());
    assert_eq!(decided(second).unwrap_err(), Refusal::TooManyConnections);
}

#[test]
fn table_stays_bounded_while_the_store_does_not_answer() {
    let limiter = Limiter::forgetful(1_000, *EPOCH);
    let limits = rate(0.001, 5);
    for n in 0..20_000 {
        let client = ClientId::from(format!("client{n}"));
        let admission = limiter.admit_shared(&client, &limits, cut_off(3), at(n));
        drop(permit(admission));
        assert!(limiter.len() <= 1_064, "{}", limiter.len());
    }
    let reports = limiter.usage_reports(usize::MAX, at(20_000));
    assert!(reports.len() <= 1_064, "{}", reports.len());
}
