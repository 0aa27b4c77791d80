//! Loom models of the limiter.

use std::{
    num::NonZeroU32,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Instant,
};

use leastconn::{
    Admission, ClientId, FleetUsage, Limiter, Limits, Pending, Permit, RateLimit, Refusal, Sharing,
    UsageReport,
};
use loom::thread;

use super::at;

fn admit(limiter: &Limiter, limits: Limits, now: Instant) -> Result<Permit, Refusal> {
    limiter.admit(&ClientId::from("alice"), &limits, now)
}

fn two_admit(limits: Limits) -> usize {
    let limiter = Arc::new(Limiter::new(1, at(0)));
    let other = {
        let limiter = Arc::clone(&limiter);
        thread::spawn(move || admit(&limiter, limits, at(1)))
    };
    let one = admit(&limiter, limits, at(1));
    let two = other.join().unwrap();
    usize::from(one.is_ok()) + usize::from(two.is_ok())
}

#[test]
fn rate_limit_admits_one_of_two() {
    loom::model(|| {
        let rate = RateLimit::new(1.0, NonZeroU32::MIN);
        let max_conns = None;
        assert_eq!(
            two_admit(Limits::default().rate(rate).max_conns(max_conns)),
            1
        );
    });
}

#[test]
fn max_conns_admits_one_of_two() {
    loom::model(|| {
        let max_conns = NonZeroU32::new(1);
        let rate = None;
        assert_eq!(
            two_admit(Limits::default().rate(rate).max_conns(max_conns)),
            1
        );
    });
}

#[test]
fn concurrent_drop_admit_and_reap_keep_counts() {
    loom::model(|| {
        let limits = Limits::default().max_conns(NonZeroU32::new(2));
        let limiter = Arc::new(Limiter::new(1, at(0)));
        let held = admit(&limiter, limits, at(0)).unwrap();
        let drops = thread::spawn(move || drop(held));
        let sweeps = {
            let limiter = Arc::clone(&limiter);
            thread::spawn(move || limiter.forget_idle(at(1)))
        };
        let permit = admit(&limiter, limits, at(1)).unwrap();
        drops.join().unwrap();
        sweeps.join().unwrap();
        let alice = ClientId::from("alice");
        assert_eq!(limiter.open(&alice), 1);
        // If the permit had been counted on an evicted entry, the new entry's count would not
        // include it.
        let second = admit(&limiter, limits, at(1)).unwrap();
        assert!(admit(&limiter, limits, at(1)).is_err());
        drop((permit, second));
        assert_eq!(limiter.open(&alice), 0);
        limiter.forget_idle(at(1));
        assert!(limiter.is_empty());
    });
}

/// The limiter of one member in a fleet of two. A client that may have two connections has one,
/// which has been reported.
fn shared() -> (Arc<Limiter>, Permit) {
    let limiter = Arc::new(Limiter::new(1, at(0)));
    let mut pending = ask(&limiter);
    confirm(report(&limiter).unwrap(), 1);
    let permit = poll_pending(&mut pending).unwrap().unwrap();
    (limiter, permit)
}

/// A connection that is not far from the limit of two, because there are two members.
fn ask(limiter: &Limiter) -> Pending {
    match admit_shared(limiter) {
        Admission::Ask(pending) => pending,
        Admission::Admitted(_) => panic!("admitted without asking"),
    }
}

fn admit_shared(limiter: &Limiter) -> Admission {
    let sharing = Sharing::Connected {
        members: NonZeroU32::MIN.saturating_add(1),
        exact: false,
    };
    let limits = Limits::default().max_conns(NonZeroU32::new(2));
    limiter
        .admit_shared(&ClientId::from("alice"), &limits, sharing, at(0))
        .unwrap()
}

fn report(limiter: &Limiter) -> Option<UsageReport> {
    limiter.usage_reports(10, at(0)).pop()
}

fn confirm(report: UsageReport, granted: u32) {
    report.confirm(&FleetUsage::new(granted, 0.0, 0), at(0));
}

/// Confirms the report, if there is one. Returns its number of open connections.
fn reported_open(limiter: &Limiter) -> Option<u32> {
    let report = report(limiter)?;
    let open = report.open();
    confirm(report, 0);
    Some(open)
}

#[test]
fn end_of_a_connection_is_always_reported() {
    loom::model(|| {
        let (limiter, permit) = shared();
        let closes = thread::spawn(move || drop(permit));
        let early = reported_open(&limiter);
        closes.join().unwrap();
        let last = reported_open(&limiter).or(early);
        assert!(report(&limiter).is_none());
        assert_eq!(last, Some(0));
        // The end is not reported again after this time.
        assert!(limiter.usage_reports(10, at(60)).is_empty());
        limiter.forget_idle(at(60));
        assert!(limiter.is_empty());
    });
}

#[test]
fn local_connection_that_ends_while_sharing_starts_is_reported() {
    loom::model(|| {
        let limiter = Arc::new(Limiter::new(1, at(0)));
        let limits = Limits::default().max_conns(NonZeroU32::new(8));
        let permit = admit(&limiter, limits, at(0)).unwrap();
        let closes = thread::spawn(move || drop(permit));
        limiter.share_open(&ClientId::from("alice"), &limits, at(0));
        let early = reported_open(&limiter);
        closes.join().unwrap();
        let last = reported_open(&limiter).or(early);
        assert_eq!(last.unwrap_or(0), 0);
    });
}

#[test]
fn cancelled_connection_returns_its_grant() {
    loom::model(|| {
        let (limiter, first) = shared();
        let pending = ask(&limiter);
        let asked = report(&limiter).unwrap();
        assert_eq!(asked.ask(), 1);
        let cancels = thread::spawn(move || drop(pending));
        confirm(asked, 1);
        cancels.join().unwrap();
        assert_eq!(limiter.open(&ClientId::from("alice")), 1);
        let last = report(&limiter).unwrap();
        assert_eq!((last.ask(), last.open()), (0, 1));
        confirm(last, 0);
        assert!(report(&limiter).is_none());
        drop(first);
    });
}

#[test]
fn answer_and_timeout_admit_once() {
    loom::model(|| {
        let (limiter, first) = shared();
        let mut pending = ask(&limiter);
        assert!(poll_pending(&mut pending).is_none());
        let asked = report(&limiter).unwrap();
        let times_out = thread::spawn(move || {
            // The share of one of two members is one of the two connections.
            pending.decide_alone(NonZeroU32::MIN.saturating_add(1), at(0))
        });
        confirm(asked, 1);
        let second = times_out.join().unwrap();
        let open = 1 + u64::from(second.is_ok());
        assert_eq!(limiter.open(&ClientId::from("alice")), open);
        drop((first, second));
        assert_eq!(report(&limiter).unwrap().open(), 0);
    });
}

fn poll_pending(pending: &mut Pending) -> Option<Result<Permit, Refusal>> {
    match Pin::new(pending).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(decision) => Some(decision),
        Poll::Pending => None,
    }
}
