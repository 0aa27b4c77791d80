use std::sync::LazyLock;

use proptest::prelude::*;

use super::*;

#[expect(
    clippy::disallowed_methods,
    reason = "an Instant cannot be constructed otherwise"
)]
static START: LazyLock<Instant> = LazyLock::new(Instant::now);

fn at(seconds: u64) -> Instant {
    *START + Duration::from_secs(seconds)
}

fn active(rise: u32, fall: u32) -> Option<ActivePolicy> {
    let (rise, fall) = (
        NonZeroU32::new(rise).unwrap(),
        NonZeroU32::new(fall).unwrap(),
    );
    Some(ActivePolicy { rise, fall })
}

const fn passive(max_fails: u32, seconds: u64) -> PassivePolicy {
    PassivePolicy {
        max_fails,
        max_early: 3,
        fail_timeout: Duration::from_secs(seconds),
        max_ejected: Ratio::HALF,
    }
}

/// An upstream of two servers, where the other server is available.
const AVAILABLE_SIBLING: Siblings = Siblings::new(2, 0);

#[test]
fn first_probe_alone_sets_the_state() {
    let mut health = Health::new(active(3, 3), passive(1, 10));
    assert_eq!(health.availability(), Availability::Up);
    health.probed(false, AVAILABLE_SIBLING);
    assert_eq!(health.availability(), Availability::Down);
    // After the first probe, a change of state needs `rise` successes.
    health.probed(true, AVAILABLE_SIBLING);
    health.probed(true, AVAILABLE_SIBLING);
    assert_eq!(health.availability(), Availability::Down);
    health.probed(true, AVAILABLE_SIBLING);
    assert_eq!(health.availability(), Availability::Up);
}

#[test]
fn differing_probe_resets_the_count() {
    let mut health = Health::new(active(1, 2), passive(1, 10));
    for success in [true, false, true, false] {
        health.probed(success, AVAILABLE_SIBLING);
    }
    assert_eq!(health.availability(), Availability::Up);
    health.probed(false, AVAILABLE_SIBLING);
    assert_eq!(health.availability(), Availability::Down);
}

#[test]
fn failures_within_fail_timeout_add_up() {
    let mut health = Health::new(None, passive(3, 10));
    for seconds in [0, 9, 11] {
        assert_eq!(health.availability(), Availability::Up);
        health.connect_failed(at(seconds), at(seconds), AVAILABLE_SIBLING);
    }
    assert_eq!(health.availability(), Availability::Ejected(at(21)));
}

#[test]
fn failure_expires_after_fail_timeout() {
    let mut health = Health::new(None, passive(2, 10));
    health.connect_failed(at(0), at(0), AVAILABLE_SIBLING);
    health.connect_failed(at(11), at(11), AVAILABLE_SIBLING);
    assert_eq!(health.availability(), Availability::Up);
}

#[test]
fn success_clears_failures_and_ejection() {
    let mut health = Health::new(None, passive(2, 10));
    health.connect_failed(at(0), at(0), AVAILABLE_SIBLING);
    health.connect_succeeded();
    health.connect_failed(at(1), at(1), AVAILABLE_SIBLING);
    assert_eq!(health.availability(), Availability::Up);
    health.connect_failed(at(2), at(2), AVAILABLE_SIBLING);
    health.connect_succeeded();
    assert_eq!(health.availability(), Availability::Up);
    assert!(!health.is_troubled());
}

#[test]
fn one_failed_trial_ejects_again() {
    let mut health = Health::new(None, passive(3, 10));
    (0..3).for_each(|_| health.connect_failed(at(0), at(0), AVAILABLE_SIBLING));
    assert!(!health.trial_is_due(at(9)));
    assert!(health.trial_is_due(at(10)));
    health.start_trial(at(12));
    assert!(!health.trial_is_due(at(21)), "only one trial at a time");
    health.connect_failed(at(12), at(13), AVAILABLE_SIBLING);
    assert_eq!(health.availability(), Availability::Ejected(at(33)));
}

#[test]
fn repeated_ejections_grow_to_five_minutes() {
    let mut health = Health::new(None, passive(1, 10));
    let mut now = 0;
    for nth in 1..40 {
        health.connect_failed(at(now), at(now), AVAILABLE_SIBLING);
        let duration = (10 * nth).min(300);
        assert_eq!(
            health.availability(),
            Availability::Ejected(at(now + duration))
        );
        now += duration;
        health.start_trial(at(now));
    }
    health.connect_succeeded();
    health.connect_failed(at(now), at(now), AVAILABLE_SIBLING);
    assert_eq!(health.availability(), Availability::Ejected(at(now + 10)));

    let mut health = Health::new(None, passive(1, 600));
    health.connect_failed(at(0), at(0), AVAILABLE_SIBLING);
    assert_eq!(health.availability(), Availability::Ejected(at(600)));
}

#[test]
fn earlier_dials_do_not_extend_an_ejection() {
    let mut health = Health::new(None, passive(1, 10));
    health.connect_failed(at(0), at(5), AVAILABLE_SIBLING);
    health.connect_failed(at(4), at(9), AVAILABLE_SIBLING);
    assert_eq!(health.availability(), Availability::Ejected(at(15)));
    // Failures of connects that started before the ejection neither end a trial nor eject a server
    // that has recovered.
    health.start_trial(at(15));
    health.connect_failed(at(4), at(16), AVAILABLE_SIBLING);
    assert_eq!(health.availability(), Availability::Ejected(at(25)));
    health.connect_succeeded();
    health.connect_failed(at(4), at(17), AVAILABLE_SIBLING);
    assert_eq!(health.availability(), Availability::Up);
}

#[test]
fn failed_dial_of_ejected_server_does_not_extend_ejection() {
    let mut health = Health::new(None, passive(1, 10));
    health.connect_failed(at(0), at(0), AVAILABLE_SIBLING);
    for second in 1..10 {
        health.connect_failed(at(second), at(second), AVAILABLE_SIBLING);
    }
    assert_eq!(health.availability(), Availability::Ejected(at(10)));
}

#[test]
fn ejections_stay_within_max_ejected() {
    for (servers, most) in [(1, 0), (2, 1), (3, 1), (4, 2), (5, 2), (100, 50)] {
        for ejected in 0..servers {
            let mut health = Health::new(None, passive(1, 10));
            health.connect_failed(at(0), at(0), Siblings::new(servers, ejected));
            let is_ejected = health.availability() != Availability::Up;
            assert_eq!(is_ejected, ejected < most, "{ejected} of {servers}");
        }
    }
    let most = |part: f64, servers| {
        let mut policy = passive(1, 10);
        policy.max_ejected = Ratio::new(part).unwrap();
        policy.max_ejected_of(servers)
    };
    assert_eq!((most(0.0, 4), most(0.1, 4), most(0.1, 1)), (0, 1, 0));
    assert_eq!((most(1.0, 1), most(1.0, 4), most(0.3, 10)), (1, 4, 3));
    assert!(Ratio::new(1.1).is_none() && Ratio::new(f64::NAN).is_none());
}

#[test]
fn one_probe_revives_when_none_available() {
    let mut health = Health::new(active(3, 3), passive(1, 10));
    let none_available = AVAILABLE_SIBLING.none_available();
    health.probed(false, AVAILABLE_SIBLING);
    health.probed(true, AVAILABLE_SIBLING);
    assert_eq!(health.availability(), Availability::Down);
    health.probed(true, none_available);
    assert_eq!(health.availability(), Availability::Up);
    // One successful probe also ends an ejection.
    health.connect_failed(at(0), at(0), AVAILABLE_SIBLING);
    health.probed(true, none_available);
    assert_eq!(health.availability(), Availability::Up);
}

#[test]
fn lost_trial_expires_after_fail_timeout() {
    let mut health = Health::new(None, passive(1, 10));
    health.connect_failed(at(0), at(0), AVAILABLE_SIBLING);
    health.start_trial(at(10));
    assert!(health.trial_is_due(at(20)));
}

#[test]
fn max_fails_zero_disables_ejection() {
    let mut health = Health::new(None, passive(0, 10));
    (0..100).for_each(|_| health.connect_failed(at(0), at(0), AVAILABLE_SIBLING));
    assert_eq!(health.availability(), Availability::Up);

    health.set_policies(None, passive(1, 10));
    health.connect_failed(at(1), at(1), AVAILABLE_SIBLING);
    assert_eq!(health.availability(), Availability::Ejected(at(11)));
    health.set_policies(None, passive(0, 10));
    assert_eq!(health.availability(), Availability::Up);
}

#[test]
fn consecutive_early_failures_eject() {
    let mut health = Health::new(None, passive(1, 10));
    for _ in 0..2 {
        health.failed_early(at(0), at(0), AVAILABLE_SIBLING);
    }
    health.served(at(0));
    for second in 1..=3 {
        assert_eq!(health.availability(), Availability::Up);
        health.failed_early(at(second), at(second), AVAILABLE_SIBLING);
    }
    assert_eq!(health.availability(), Availability::Ejected(at(13)));
}

#[test]
fn only_a_served_connection_ends_an_early_ejection() {
    let mut health = Health::new(active(1, 1), passive(1, 10));
    (0..3).for_each(|_| health.failed_early(at(0), at(0), AVAILABLE_SIBLING));
    health.probed(true, AVAILABLE_SIBLING);
    health.connect_succeeded();
    assert_eq!(health.availability(), Availability::Ejected(at(10)));
    // Each trial that fails early extends the ejection.
    for (started, until) in [(10, 31), (31, 62)] {
        health.start_trial(at(started));
        health.connect_succeeded();
        health.failed_early(at(started), at(started + 1), AVAILABLE_SIBLING);
        assert_eq!(health.availability(), Availability::Ejected(at(until)));
    }
    health.start_trial(at(62));
    // A connection from before the ejection is not the trial.
    health.served(at(0));
    health.failed_early(at(0), at(62), AVAILABLE_SIBLING);
    assert_eq!(health.availability(), Availability::Ejected(at(72)));
    health.served(at(62));
    assert_eq!(health.availability(), Availability::Up);
    assert!(!health.is_troubled());
}

#[test]
fn early_failures_of_all_servers_eject_none() {
    let mut health = Health::new(None, passive(1, 10));
    let none_serves = Siblings {
        another_serves: false,
        ..AVAILABLE_SIBLING
    };
    (0..100).for_each(|_| health.failed_early(at(0), at(0), none_serves));
    assert_eq!(health.availability(), Availability::Up);
    // As soon as another server serves connections, the failures count.
    health.failed_early(at(1), at(1), AVAILABLE_SIBLING);
    assert_eq!(health.availability(), Availability::Ejected(at(11)));
    // The trial fails, but now the other servers fail as well.
    health.start_trial(at(11));
    health.failed_early(at(11), at(11), none_serves);
    assert_eq!(health.availability(), Availability::Up);
}

#[test]
fn early_ejections_stay_within_max_ejected() {
    let mut health = Health::new(None, passive(1, 10));
    (0..100).for_each(|_| health.failed_early(at(0), at(0), Siblings::new(2, 1)));
    (0..100).for_each(|_| health.failed_early(at(0), at(0), Siblings::new(1, 0)));
    assert_eq!(health.availability(), Availability::Up);
}

/// `max_ejected` does not allow the ejection of this server.
const EJECTED_SIBLING: Siblings = Siblings::new(2, 1);

#[test]
fn connects_do_not_hide_early_failures() {
    let mut health = Health::new(None, passive(2, 10));
    (0..3).for_each(|_| health.failed_early(at(0), at(0), EJECTED_SIBLING));
    assert!(health.is_kept_in_use());
    health.connect_succeeded();
    assert!(health.is_kept_in_use());
    // Too few failures for an ejection.
    health.connect_failed(at(1), at(1), EJECTED_SIBLING);
    assert!(health.is_kept_in_use());
    health.served(at(1));
    assert!(!health.is_kept_in_use());
    // Connect failures are cleared by a connect, even after early failures that did not count,
    // because all servers had them.
    let none_serves = Siblings {
        another_serves: false,
        ..EJECTED_SIBLING
    };
    (0..3).for_each(|_| health.failed_early(at(2), at(2), none_serves));
    (0..2).for_each(|_| health.connect_failed(at(2), at(2), EJECTED_SIBLING));
    assert!(health.is_kept_in_use());
    health.connect_succeeded();
    assert!(!health.is_kept_in_use());
}

#[test]
fn server_kept_in_use_follows_the_policy() {
    let mut health = Health::new(None, passive(1, 10));
    let mut next = passive(1, 10);
    for max_early in [0, 4] {
        health.set_policies(None, passive(1, 10));
        (0..3).for_each(|_| health.failed_early(at(0), at(0), EJECTED_SIBLING));
        assert!(health.is_kept_in_use());
        health.set_policies(None, passive(1, 20));
        assert!(health.is_kept_in_use());
        next.max_early = max_early;
        health.set_policies(None, next);
        assert!(!health.is_kept_in_use());
    }
    // Without ejections after connect failures, those after early failures remain.
    let mut health = Health::new(None, passive(1, 10));
    (0..3).for_each(|_| health.failed_early(at(0), at(0), EJECTED_SIBLING));
    health.set_policies(None, passive(0, 10));
    assert!(health.is_kept_in_use());
}

#[test]
fn max_early_zero_disables_early_ejection() {
    let mut never = passive(1, 10);
    never.max_early = 0;
    let mut health = Health::new(None, never);
    (0..100).for_each(|_| health.failed_early(at(0), at(0), AVAILABLE_SIBLING));
    assert!(!health.is_troubled());

    health.set_policies(None, passive(0, 10));
    (0..3).for_each(|_| health.failed_early(at(0), at(0), AVAILABLE_SIBLING));
    assert_eq!(health.availability(), Availability::Ejected(at(10)));
    health.set_policies(None, passive(0, 10));
    assert_eq!(health.availability(), Availability::Ejected(at(10)));
    health.set_policies(None, never);
    assert_eq!(health.availability(), Availability::Up);
    assert!(!health.is_troubled());
}

#[test]
fn disabling_probes_revives_a_down_server() {
    let mut health = Health::new(active(1, 1), passive(1, 10));
    health.probed(false, AVAILABLE_SIBLING);
    assert_eq!(health.availability(), Availability::Down);
    health.set_policies(None, passive(1, 10));
    assert_eq!(health.availability(), Availability::Up);
}

#[test]
fn maximum_fail_timeout_does_not_panic() {
    let mut policy = passive(1, 0);
    policy.fail_timeout = Duration::MAX;
    let mut health = Health::new(None, policy);
    health.connect_failed(at(0), at(0), AVAILABLE_SIBLING);
    health.start_trial(at(1));
    assert!(!health.trial_is_due(at(1_000_000_000)));
}

#[derive(Clone, Copy, Debug)]
enum Event {
    Probe(bool),
    /// A connect that had started this many seconds earlier failed.
    Failed(u64),
    Succeeded,
    /// Starts a trial if one is due.
    Trial,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        any::<bool>().prop_map(Event::Probe),
        (0u64..6).prop_map(Event::Failed),
        Just(Event::Succeeded),
        Just(Event::Trial),
    ]
}

/// An independent implementation of the rules in the module documentation. It evaluates the full
/// event history and keeps no counters.
struct ReferenceModel {
    active: ActivePolicy,
    passive: PassivePolicy,
    up: bool,
    probes: Vec<bool>,
    failures: Vec<u64>,
    /// When the ejection ends, and the number of probes at its start.
    ejected: Option<(u64, usize)>,
    /// When each ejection since the last recovery started.
    ejections: Vec<u64>,
    /// When the last ejection started, even if it has ended.
    last_ejection: Option<u64>,
    trial: Option<u64>,
}

impl ReferenceModel {
    fn run_length(probes: &[bool], success: bool) -> usize {
        probes.iter().rev().take_while(|&&p| p == success).count()
    }

    fn recover(&mut self) {
        self.ejected = None;
        self.failures.clear();
        self.ejections.clear();
        self.trial = None;
    }

    fn eject(&mut self, now: u64) {
        self.ejections.push(now);
        self.last_ejection = Some(now);
        self.trial = None;
        let duration = self.passive.fail_timeout.as_secs() * self.ejections.len() as u64;
        self.ejected = Some((now + duration.min(300), self.probes.len()));
        self.failures.clear();
    }

    fn apply(&mut self, now: u64, event: Event) {
        let timeout = self.passive.fail_timeout.as_secs();
        let rise = self.active.rise.get() as usize;
        match event {
            Event::Probe(success) => {
                self.probes.push(success);
                let needed = if success {
                    rise
                } else {
                    self.active.fall.get() as usize
                };
                if self.probes.len() == 1 || Self::run_length(&self.probes, success) >= needed {
                    self.up = success;
                }
                if let Some((_, before)) = self.ejected
                    && Self::run_length(&self.probes[before..], true) >= rise
                {
                    self.recover();
                }
            }
            Event::Succeeded => self.recover(),
            Event::Trial => {
                if let Some((until, _)) = &mut self.ejected
                    && now >= *until
                {
                    *until = now + timeout;
                    self.trial = Some(now);
                }
            }
            Event::Failed(_) if self.passive.max_fails == 0 => {}
            Event::Failed(ago)
                if self
                    .last_ejection
                    .is_some_and(|at| now.saturating_sub(ago) < at) => {}
            Event::Failed(ago) if self.ejected.is_some() => {
                let started = now.saturating_sub(ago);
                if self.trial.is_some_and(|trial| started >= trial) {
                    self.eject(now);
                }
            }
            Event::Failed(_) => {
                self.failures.push(now);
                let run = self
                    .failures
                    .windows(2)
                    .rev()
                    .take_while(|pair| pair[1] - pair[0] <= timeout)
                    .count()
                    + 1;
                if run >= self.passive.max_fails as usize {
                    self.eject(now);
                }
            }
        }
    }

    fn availability(&self) -> Availability {
        match (self.up, self.ejected) {
            (false, _) => Availability::Down,
            (true, Some((until, _))) => Availability::Ejected(at(until)),
            (true, None) => Availability::Up,
        }
    }
}

proptest! {
    #[test]
    fn health_matches_the_reference_model(
        rise in 1u32..4, fall in 1u32..4, max_fails in 0u32..4, fail_timeout in 0u64..12,
        events in prop::collection::vec((0u64..8, event()), 0..80),
    ) {
        let (active, passive) = (active(rise, fall), passive(max_fails, fail_timeout));
        let mut health = Health::new(active, passive);
        let mut model = ReferenceModel {
            active: active.unwrap(), passive, up: true,
            probes: vec![], failures: vec![], ejected: None,
            ejections: vec![], last_ejection: None, trial: None,
        };
        let mut now = 0;
        for (elapsed, event) in events {
            now += elapsed;
            match event {
                Event::Probe(success) => health.probed(success, AVAILABLE_SIBLING),
                Event::Failed(ago) => {
                    health.connect_failed(at(now.saturating_sub(ago)), at(now), AVAILABLE_SIBLING);
                }
                Event::Succeeded => health.connect_succeeded(),
                Event::Trial => if health.trial_is_due(at(now)) {
                    health.start_trial(at(now));
                },
            }
            model.apply(now, event);
            prop_assert_eq!(health.availability(), model.availability());
        }
    }
}
