use std::sync::LazyLock;

use proptest::prelude::*;

use super::*;

#[expect(
    clippy::disallowed_methods,
    reason = "there is no other way to an Instant; only differences matter"
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
        fail_timeout: Duration::from_secs(seconds),
        max_ejected: Ratio::HALF,
    }
}

/// Of two servers, the other one is available.
const WELL: Siblings = Siblings::new(2, 0);

#[test]
fn the_first_probe_decides_alone() {
    let mut health = Health::new(active(3, 3), passive(1, 10));
    assert_eq!(health.availability(), Availability::Up);
    health.probed(false, WELL);
    assert_eq!(health.availability(), Availability::Down);
    // And only the first: coming up takes `rise`.
    health.probed(true, WELL);
    health.probed(true, WELL);
    assert_eq!(health.availability(), Availability::Down);
    health.probed(true, WELL);
    assert_eq!(health.availability(), Availability::Up);
}

#[test]
fn a_probe_that_differs_starts_the_count_anew() {
    let mut health = Health::new(active(1, 2), passive(1, 10));
    for success in [true, false, true, false] {
        health.probed(success, WELL);
    }
    assert_eq!(health.availability(), Availability::Up);
    health.probed(false, WELL);
    assert_eq!(health.availability(), Availability::Down);
}

#[test]
fn failures_add_up_while_none_is_long_after_the_one_before() {
    let mut health = Health::new(None, passive(3, 10));
    for seconds in [0, 9, 11] {
        assert_eq!(health.availability(), Availability::Up);
        health.connect_failed(at(seconds), at(seconds), WELL);
    }
    assert_eq!(health.availability(), Availability::Ejected(at(21)));
}

#[test]
fn a_failure_is_forgotten_after_fail_timeout() {
    let mut health = Health::new(None, passive(2, 10));
    health.connect_failed(at(0), at(0), WELL);
    health.connect_failed(at(11), at(11), WELL);
    assert_eq!(health.availability(), Availability::Up);
}

#[test]
fn a_success_clears_the_row_and_the_ejection() {
    let mut health = Health::new(None, passive(2, 10));
    health.connect_failed(at(0), at(0), WELL);
    health.connect_succeeded();
    health.connect_failed(at(1), at(1), WELL);
    assert_eq!(health.availability(), Availability::Up);
    health.connect_failed(at(2), at(2), WELL);
    health.connect_succeeded();
    assert_eq!(health.availability(), Availability::Up);
    assert!(!health.is_troubled());
}

#[test]
fn a_failed_trial_ejects_anew_whatever_max_fails_is() {
    let mut health = Health::new(None, passive(3, 10));
    (0..3).for_each(|_| health.connect_failed(at(0), at(0), WELL));
    assert!(!health.trial_is_due(at(9)));
    assert!(health.trial_is_due(at(10)));
    health.start_trial(at(12));
    assert!(!health.trial_is_due(at(21)), "one at a time");
    health.connect_failed(at(12), at(13), WELL);
    assert_eq!(health.availability(), Availability::Ejected(at(33)));
}

#[test]
fn repeated_ejections_last_longer_up_to_five_minutes() {
    let mut health = Health::new(None, passive(1, 10));
    let mut now = 0;
    for nth in 1..40 {
        health.connect_failed(at(now), at(now), WELL);
        let lasts = (10 * nth).min(300);
        assert_eq!(
            health.availability(),
            Availability::Ejected(at(now + lasts))
        );
        now += lasts;
        health.start_trial(at(now));
    }
    health.connect_succeeded();
    health.connect_failed(at(now), at(now), WELL);
    assert_eq!(health.availability(), Availability::Ejected(at(now + 10)));

    let mut health = Health::new(None, passive(1, 600));
    health.connect_failed(at(0), at(0), WELL);
    assert_eq!(health.availability(), Availability::Ejected(at(600)));
}

#[test]
fn dials_from_before_an_ejection_do_not_extend_it() {
    let mut health = Health::new(None, passive(1, 10));
    health.connect_failed(at(0), at(5), WELL);
    health.connect_failed(at(4), at(9), WELL);
    assert_eq!(health.availability(), Availability::Ejected(at(15)));
    // Nor do they end its trial, or eject a server that has recovered.
    health.start_trial(at(15));
    health.connect_failed(at(4), at(16), WELL);
    assert_eq!(health.availability(), Availability::Ejected(at(25)));
    health.connect_succeeded();
    health.connect_failed(at(4), at(17), WELL);
    assert_eq!(health.availability(), Availability::Up);
}

#[test]
fn failed_last_resorts_do_not_extend_an_ejection() {
    let mut health = Health::new(None, passive(1, 10));
    health.connect_failed(at(0), at(0), WELL);
    for second in 1..10 {
        health.connect_failed(at(second), at(second), WELL);
    }
    assert_eq!(health.availability(), Availability::Ejected(at(10)));
}

#[test]
fn no_more_servers_are_ejected_than_may_be() {
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
fn one_good_probe_is_enough_while_no_server_is_available() {
    let mut health = Health::new(active(3, 3), passive(1, 10));
    let none = WELL.none_available();
    health.probed(false, WELL);
    health.probed(true, WELL);
    assert_eq!(health.availability(), Availability::Down);
    health.probed(true, none);
    assert_eq!(health.availability(), Availability::Up);
    // Likewise for one that is ejected.
    health.connect_failed(at(0), at(0), WELL);
    health.probed(true, none);
    assert_eq!(health.availability(), Availability::Up);
}

#[test]
fn a_trial_without_an_outcome_is_given_up_after_fail_timeout() {
    let mut health = Health::new(None, passive(1, 10));
    health.connect_failed(at(0), at(0), WELL);
    health.start_trial(at(10));
    assert!(health.trial_is_due(at(20)));
}

#[test]
fn max_fails_0_ejects_never_and_frees_what_was_ejected() {
    let mut health = Health::new(None, passive(0, 10));
    (0..100).for_each(|_| health.connect_failed(at(0), at(0), WELL));
    assert_eq!(health.availability(), Availability::Up);

    health.set_policies(None, passive(1, 10));
    health.connect_failed(at(1), at(1), WELL);
    assert_eq!(health.availability(), Availability::Ejected(at(11)));
    health.set_policies(None, passive(0, 10));
    assert_eq!(health.availability(), Availability::Up);
}

#[test]
fn without_probes_a_server_does_not_stay_down() {
    let mut health = Health::new(active(1, 1), passive(1, 10));
    health.probed(false, WELL);
    assert_eq!(health.availability(), Availability::Down);
    health.set_policies(None, passive(1, 10));
    assert_eq!(health.availability(), Availability::Up);
}

#[test]
fn an_endless_fail_timeout_does_not_panic() {
    let mut endless = passive(1, 0);
    endless.fail_timeout = Duration::MAX;
    let mut health = Health::new(None, endless);
    health.connect_failed(at(0), at(0), WELL);
    health.start_trial(at(1));
    assert!(!health.trial_is_due(at(1_000_000_000)));
}

#[derive(Clone, Copy, Debug)]
enum Event {
    Probe(bool),
    /// A connect that began so many seconds ago.
    Failed(u64),
    Succeeded,
    /// A trial, if one is due.
    Try,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        any::<bool>().prop_map(Event::Probe),
        (0u64..6).prop_map(Event::Failed),
        Just(Event::Succeeded),
        Just(Event::Try),
    ]
}

/// What the module's head says, word by word, on lists of everything that
/// happened instead of counters.
struct ByTheBook {
    active: ActivePolicy,
    passive: PassivePolicy,
    up: bool,
    probes: Vec<bool>,
    failures: Vec<u64>,
    /// Until when, and how many probes there were when it was ejected.
    ejected: Option<(u64, usize)>,
    /// When each ejection since the last recovery began.
    ejections: Vec<u64>,
    /// When the last ejection began, over or not.
    last_ejection: Option<u64>,
    trial: Option<u64>,
}

impl ByTheBook {
    fn row_of(probes: &[bool], success: bool) -> usize {
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
        let lasts = self.passive.fail_timeout.as_secs() * self.ejections.len() as u64;
        self.ejected = Some((now + lasts.min(300), self.probes.len()));
        self.failures.clear();
    }

    fn happen(&mut self, now: u64, event: Event) {
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
                if self.probes.len() == 1 || Self::row_of(&self.probes, success) >= needed {
                    self.up = success;
                }
                if let Some((_, before)) = self.ejected
                    && Self::row_of(&self.probes[before..], true) >= rise
                {
                    self.recover();
                }
            }
            Event::Succeeded => self.recover(),
            Event::Try => {
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
                let began = now.saturating_sub(ago);
                if self.trial.is_some_and(|trial| began >= trial) {
                    self.eject(now);
                }
            }
            Event::Failed(_) => {
                self.failures.push(now);
                let row = self
                    .failures
                    .windows(2)
                    .rev()
                    .take_while(|pair| pair[1] - pair[0] <= timeout)
                    .count()
                    + 1;
                if row >= self.passive.max_fails as usize {
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
    fn health_goes_by_the_book(
        rise in 1u32..4, fall in 1u32..4, max_fails in 0u32..4, fail_timeout in 0u64..12,
        events in prop::collection::vec((0u64..8, event()), 0..80),
    ) {
        let (active, passive) = (active(rise, fall), passive(max_fails, fail_timeout));
        let mut health = Health::new(active, passive);
        let mut book = ByTheBook {
            active: active.unwrap(), passive, up: true,
            probes: vec![], failures: vec![], ejected: None,
            ejections: vec![], last_ejection: None, trial: None,
        };
        let mut now = 0;
        for (passes, event) in events {
            now += passes;
            match event {
                Event::Probe(success) => health.probed(success, WELL),
                Event::Failed(ago) => {
                    health.connect_failed(at(now.saturating_sub(ago)), at(now), WELL);
                }
                Event::Succeeded => health.connect_succeeded(),
                Event::Try => if health.trial_is_due(at(now)) {
                    health.start_trial(at(now));
                },
            }
            book.happen(now, event);
            prop_assert_eq!(health.availability(), book.availability());
        }
    }
}
