//! Server health: a pure state machine driven by the results of probes (active checks) and of
//! connection attempts (passive checks).
//!
//! Active checks work as in HAProxy: `fall` consecutive failed probes mark a server as down, and
//! `rise` consecutive successful probes mark it as up. A server starts as up. The result of its
//! very first probe sets its state immediately, so that a dead server is detected after one probe
//! instead of after `fall` probes.
//!
//! While no server of the upstream is available, a single successful probe marks a server as up,
//! regardless of `rise`. Waiting for more probes would only cause more clients to be refused.
//!
//! Passive checks work as in nginx: `max_fails` consecutive connect failures, each at most
//! `fail_timeout` after the previous one, eject a server for `fail_timeout`. Then one trial
//! connection is allowed. If the trial succeeds, the ejection ends. If it fails, the server is
//! ejected again, for `fail_timeout` multiplied by the number of consecutive ejections (at most
//! [`MAX_EJECTION`]). With active checks, `rise` consecutive successful probes also end an
//! ejection. Two kinds of failed connection attempts do not extend an ejection: attempts that
//! started before it, and attempts that dialled the ejected server because no server was available.
//!
//! A server that accepts connections and closes them immediately passes all of these checks, and
//! looks idle to [`Balance::LeastConn`](crate::Balance::LeastConn). Therefore `max_early`
//! consecutive early failures also eject a server. An early failure is a connection that the server
//! ends within [`EARLY`] without having sent a byte. Successful connects and probes do not end such
//! an ejection; only a connection that does not fail early does. In some protocols, the server ends
//! every connection without an answer. Servers of such a protocol are not ejected, because the
//! ejection requires that another server serves connections ([`Siblings::another_serves`]).
//!
//! At any time, at most the fraction `max_ejected` of an upstream's servers is ejected, like
//! `max_ejection_percent` in Envoy. If all servers fail at the same time, the servers themselves
//! are probably not the cause.
//!
//! Consecutive failures are counted without fixed time windows. A window could end between two
//! failures in quick succession, and a server that fails every connect might then never be ejected.

use std::{
    num::NonZeroU32,
    time::{Duration, Instant},
};

use crate::deadline;

/// Thresholds of active health checks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ActivePolicy {
    /// Number of consecutive successful probes that bring a server up.
    pub rise: NonZeroU32,
    /// Number of consecutive failed probes that take a server down.
    pub fall: NonZeroU32,
}

impl ActivePolicy {
    /// Creates a policy from the two thresholds.
    pub const fn new(rise: NonZeroU32, fall: NonZeroU32) -> Self {
        Self { rise, fall }
    }
}

/// Upper limit for the duration of repeated ejections. A longer `fail_timeout` is not reduced.
pub const MAX_EJECTION: Duration = Duration::from_secs(300);

/// A connection fails early if the server ends it within this time without having sent a byte.
pub const EARLY: Duration = Duration::from_secs(1);

/// A fraction from 0 to 1, in steps of one millionth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ratio {
    millionths: u32,
}

impl Ratio {
    const ONE: f64 = 1e6;

    /// The fraction 0.5.
    pub const HALF: Self = Self {
        millionths: 500_000,
    };
    /// The fraction 1.
    pub const ALL: Self = Self {
        millionths: 1_000_000,
    };

    /// Creates a ratio, rounded to the nearest millionth. Returns `None` unless `fraction` is from
    /// 0 to 1.
    pub fn new(fraction: f64) -> Option<Self> {
        // The fraction is in range, so the cast does not saturate.
        (0.0..=1.0).contains(&fraction).then(|| Self {
            millionths: (fraction * Self::ONE).round() as u32,
        })
    }

    /// Returns the fraction, from 0 to 1.
    pub fn get(self) -> f64 {
        f64::from(self.millionths) / Self::ONE
    }

    /// Returns the product with `count`, rounded down.
    const fn of(self, count: usize) -> usize {
        (count as u128 * self.millionths as u128 / 1_000_000) as usize
    }
}

/// Which failures eject a server, and for how long.
///
/// ```
/// use std::time::Duration;
///
/// use leastconn::health::{PassivePolicy, Ratio};
///
/// // Three consecutive connect failures eject a server for 30 seconds. All servers may be ejected.
/// let mut policy = PassivePolicy::default();
/// policy.max_fails = 3;
/// policy.fail_timeout = Duration::from_secs(30);
/// policy.max_ejected = Ratio::ALL;
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PassivePolicy {
    /// Number of consecutive connect failures that eject a server. If zero, connect failures do not
    /// eject servers.
    pub max_fails: u32,
    /// Number of consecutive early failures that eject a server. An early failure is a connection
    /// that the server ends within [`EARLY`] without having sent a byte. If zero, early failures do
    /// not eject servers.
    pub max_early: u32,
    /// How long a connect failure counts, and how long a first ejection lasts.
    pub fail_timeout: Duration,
    /// The fraction of an upstream's servers that may be ejected at the same time; see
    /// [`PassivePolicy::max_ejected_of`].
    pub max_ejected: Ratio,
}

impl PassivePolicy {
    /// Returns how many of `servers` may be ejected at the same time: `max_ejected` times
    /// `servers`, rounded down. If there are several servers, at least one may be ejected, unless
    /// `max_ejected` is 0.
    pub const fn max_ejected_of(&self, servers: usize) -> usize {
        let share = self.max_ejected.of(servers);
        if share == 0 && servers > 1 && self.max_ejected.millionths > 0 {
            1
        } else {
            share
        }
    }
}

impl Default for PassivePolicy {
    /// A server is ejected for ten seconds after one connect failure, as in nginx, or after five
    /// consecutive early failures. At most half of the servers are ejected at the same time.
    fn default() -> Self {
        Self {
            max_fails: 1,
            max_early: 5,
            fail_timeout: Duration::from_secs(10),
            max_ejected: Ratio::HALF,
        }
    }
}

/// The part of an upstream's state that affects how probes and connect failures change the health
/// of one of its servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Siblings {
    /// Number of servers in the upstream, including this one.
    pub servers: usize,
    /// Number of ejected servers, excluding this one.
    pub ejected: usize,
    /// Whether any server of the upstream is available.
    pub any_available: bool,
    /// Whether another available server has accepted connections, and neither its last connect nor
    /// its last connection failed.
    pub another_serves: bool,
}

impl Siblings {
    /// Creates the state of an upstream in which another server is available and serves
    /// connections.
    pub const fn new(servers: usize, ejected: usize) -> Self {
        Self {
            servers,
            ejected,
            any_available: true,
            another_serves: true,
        }
    }

    /// Returns the state with `any_available` set to `false`.
    #[must_use]
    pub const fn none_available(self) -> Self {
        Self {
            any_available: false,
            another_serves: false,
            ..self
        }
    }
}

/// Whether a server gets connections, according to probes and connects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Availability {
    /// The server gets connections.
    Up,
    /// Connects or connections failed. From this time on, a trial connection is allowed.
    Ejected(Instant),
    /// Probes failed. The server gets connections only while no server is available.
    Down,
}

/// The health of one server.
#[derive(Clone, Debug)]
pub struct Health {
    active: Option<ActivePolicy>,
    passive: PassivePolicy,
    is_probed: bool,
    is_up: bool,
    /// Whether the server's agent reports that the server is down.
    is_agent_down: bool,
    /// Number of consecutive probes whose result contradicts `is_up`.
    contradicting_probes: u32,
    /// Number of consecutive successful probes since the last ejection.
    successes_since_ejection: u32,
    /// Number of consecutive connect failures.
    failures: u32,
    last_failure: Option<Instant>,
    /// Number of consecutive early failures.
    early_failures: u32,
    ejected_until: Option<Instant>,
    /// Whether early failures caused the current ejection. Then only a connection that does not
    /// fail early ends it.
    is_ejected_as_early: bool,
    /// When the last ejection started, even if it has ended. Failures of connects that started
    /// before this time are ignored.
    ejected_at: Option<Instant>,
    /// Number of consecutive ejections.
    ejections: u32,
    /// When the current trial started.
    trial_started: Option<Instant>,
    /// Whether connect failures would have ejected the server without `max_ejected`.
    is_kept_despite_connects: bool,
    /// Whether early failures would have ejected the server without `max_ejected`. A successful
    /// connect does not clear this.
    is_kept_despite_early: bool,
}

impl Health {
    /// Creates the health of a server that is up. If `active` is `None`, probe results are ignored.
    pub const fn new(active: Option<ActivePolicy>, passive: PassivePolicy) -> Self {
        Self {
            active,
            passive,
            is_probed: false,
            is_up: true,
            is_agent_down: false,
            contradicting_probes: 0,
            successes_since_ejection: 0,
            failures: 0,
            last_failure: None,
            early_failures: 0,
            ejected_until: None,
            is_ejected_as_early: false,
            ejected_at: None,
            ejections: 0,
            trial_started: None,
            is_kept_despite_connects: false,
            is_kept_despite_early: false,
        }
    }

    /// Returns whether the server gets connections.
    pub const fn availability(&self) -> Availability {
        match (self.is_up && !self.is_agent_down, self.ejected_until) {
            (false, _) => Availability::Down,
            (true, Some(until)) => Availability::Ejected(until),
            (true, None) => Availability::Up,
        }
    }

    /// Sets whether the server's agent reports that the server is down. The server is up only if
    /// neither its agent nor its probes report it as down.
    pub const fn set_agent_down(&mut self, is_down: bool) {
        self.is_agent_down = is_down;
    }

    /// Returns when the ejection ends, even if the server is also down.
    pub(crate) const fn ejected_until(&self) -> Option<Instant> {
        self.ejected_until
    }

    /// Records the result of a probe.
    pub fn probed(&mut self, success: bool, siblings: Siblings) {
        let Some(ActivePolicy { rise, fall }) = self.active else {
            return;
        };
        let first = !std::mem::replace(&mut self.is_probed, true);
        self.contradicting_probes = if success == self.is_up {
            0
        } else {
            self.contradicting_probes + 1
        };
        let rise = if siblings.any_available {
            rise
        } else {
            NonZeroU32::MIN
        };
        let needed = if self.is_up { fall } else { rise }.get();
        if self.contradicting_probes >= needed || (first && self.contradicting_probes > 0) {
            self.is_up = success;
            self.contradicting_probes = 0;
        }
        self.successes_since_ejection = if success {
            self.successes_since_ejection.saturating_add(1)
        } else {
            0
        };
        if self.ejected_until.is_some()
            && !self.is_ejected_as_early
            && self.successes_since_ejection >= rise.get()
        {
            self.reinstate();
        }
    }

    /// Records the failure of a connect that started at `started`.
    pub fn connect_failed(&mut self, started: Instant, now: Instant, siblings: Siblings) {
        if self.is_from_before_ejection(started) {
            return;
        }
        if self.ejected_until.is_some() {
            // While no server is available, attempts other than the trial also dial the ejected
            // server. They are expected to fail, so they do not extend the ejection.
            if self.is_trial(started) {
                self.eject(now);
            }
            return;
        }
        if self.passive.max_fails == 0 {
            return;
        }
        let is_first = self
            .last_failure
            .is_none_or(|last| now.saturating_duration_since(last) > self.passive.fail_timeout);
        self.failures = if is_first {
            1
        } else {
            self.failures.saturating_add(1)
        };
        self.last_failure = Some(now);
        let is_due = self.failures >= self.passive.max_fails;
        self.is_kept_despite_connects = is_due && !self.may_be_ejected(siblings);
        if is_due && !self.is_kept_despite_connects {
            self.eject(now);
        }
    }

    /// Records that the server ended a connection within [`EARLY`] without having sent a byte. The
    /// connection was established at `established`.
    pub fn failed_early(&mut self, established: Instant, now: Instant, siblings: Siblings) {
        if self.passive.max_early == 0 || self.is_from_before_ejection(established) {
            return;
        }
        self.early_failures = self.early_failures.saturating_add(1);
        if self.ejected_until.is_some() {
            if !self.is_trial(established) {
                return;
            }
            if siblings.another_serves {
                self.eject(now);
            } else {
                // All servers end their connections early, so the protocol may call for it.
                self.reinstate();
            }
        } else if self.early_failures >= self.passive.max_early && siblings.another_serves {
            self.is_kept_despite_early = !self.may_be_ejected(siblings);
            if !self.is_kept_despite_early {
                self.eject(now);
                self.is_ejected_as_early = true;
            }
        }
    }

    /// Records that a connection did not fail early: the server sent a byte, or the connection
    /// lasted longer than [`EARLY`]. The connection was established at `established`.
    pub fn served(&mut self, established: Instant) {
        if self.ejected_until.is_some() {
            if self.is_from_before_ejection(established) {
                return;
            }
            self.reinstate();
        }
        self.early_failures = 0;
        self.is_kept_despite_connects = false;
        self.is_kept_despite_early = false;
    }

    fn is_from_before_ejection(&self, started: Instant) -> bool {
        self.ejected_at.is_some_and(|at| started < at)
    }

    fn is_trial(&self, started: Instant) -> bool {
        self.trial_started.is_some_and(|trial| started >= trial)
    }

    const fn may_be_ejected(&self, siblings: Siblings) -> bool {
        siblings.ejected < self.passive.max_ejected_of(siblings.servers)
    }

    fn eject(&mut self, now: Instant) {
        self.ejections = self.ejections.saturating_add(1);
        let first = self.passive.fail_timeout;
        let scaled = first.saturating_mul(self.ejections);
        self.ejected_until = Some(deadline::after(now, scaled.min(MAX_EJECTION).max(first)));
        self.ejected_at = Some(now);
        self.trial_started = None;
        self.is_kept_despite_connects = false;
        self.is_kept_despite_early = false;
        self.successes_since_ejection = 0;
        self.failures = 0;
        self.last_failure = None;
    }

    /// Records a successful connect. Earlier connect failures no longer count.
    pub const fn connect_succeeded(&mut self) {
        if !self.is_ejected_as_early {
            self.reinstate();
        }
    }

    /// Whether a trial connection is allowed, because the ejection has lasted long enough or there
    /// is none.
    pub fn trial_is_due(&self, now: Instant) -> bool {
        self.ejected_until.is_none_or(|until| now >= until)
    }

    /// Records that a trial connection was started. If its result is not recorded within
    /// `fail_timeout`, the next trial is due.
    pub fn start_trial(&mut self, now: Instant) {
        if self.ejected_until.is_some() {
            self.ejected_until = Some(deadline::after(now, self.passive.fail_timeout));
            self.trial_started = Some(now);
        }
    }

    /// Whether the server is ejected or has failures that a success would clear.
    pub const fn is_troubled(&self) -> bool {
        self.ejected_until.is_some() || self.failures > 0 || self.early_failures > 0
    }

    /// Whether the server has failed often enough for an ejection, and is not ejected only because of
    /// [`PassivePolicy::max_ejected`]. Ends with a success (after early failures, with a connection
    /// that does not fail early), or when a later failure ejects the server.
    pub const fn is_kept_in_use(&self) -> bool {
        self.is_kept_despite_connects || self.is_kept_despite_early
    }

    /// Takes the server down until its first successful probe. Has no effect if there are no active
    /// checks or the server has already been probed.
    pub const fn require_probe(&mut self) {
        if self.active.is_some() && !self.is_probed {
            self.is_up = false;
        }
    }

    /// Replaces the policies but keeps the server's state.
    pub const fn set_policies(&mut self, active: Option<ActivePolicy>, passive: PassivePolicy) {
        self.active = active;
        self.passive = passive;
        if active.is_none() {
            // Without probes, a server that is down would never come up again.
            self.is_up = true;
            self.contradicting_probes = 0;
            self.is_probed = false;
        }
        if passive.max_early == 0 {
            self.early_failures = 0;
        }
        if passive.max_early == 0 || self.early_failures < passive.max_early {
            self.is_kept_despite_early = false;
        }
        let is_disabled = if self.is_ejected_as_early {
            passive.max_early == 0
        } else {
            passive.max_fails == 0
        };
        if is_disabled {
            // Such ejections are now disabled, so end the current one.
            self.reinstate();
        }
    }

    const fn reinstate(&mut self) {
        self.ejected_until = None;
        self.is_ejected_as_early = false;
        self.ejections = 0;
        self.trial_started = None;
        self.is_kept_despite_connects = false;
        self.failures = 0;
        self.last_failure = None;
    }
}

#[cfg(test)]
mod tests;
