//! Whether a server can be given connections: a pure state machine, fed with
//! the outcomes of probes (active) and of real connects (passive).
//!
//! Active, as in HAProxy: `fall` failed probes in a row take a server down,
//! `rise` good ones in a row bring it back. A server that was never probed
//! counts as up, and its very first probe decides alone, so that a dead server
//! is known after one probe and not after `fall` intervals.
//!
//! While no server of the upstream is available, one good probe brings a server
//! up, whatever `rise` is: waiting for more would refuse clients, or send them to
//! this same server as a last resort, and protect nothing.
//!
//! Passive, as in nginx: `max_fails` failed connects in a row, each at most
//! `fail_timeout` after the one before, eject a server for `fail_timeout`. After
//! that it is on trial: one connection is let through, its success ends the
//! ejection, its failure ejects the server again, for `fail_timeout` times the number
//! of ejections in a row (at most [`MAX_EJECTION`]). Where probes run, `rise` good ones
//! in a row since the ejection end it early. Connects that began before an ejection, or
//! that were made during it as a last resort, do not extend it.
//!
//! No more than `max_ejected` of an upstream's servers are ejected at once (as Envoy's
//! `max_ejection_percent`): a failure that all servers share says nothing about one.
//!
//! A row, not a window that begins with its first failure: of such windows, one
//! can end between failures that are close together, and a server that fails
//! every connect would not be ejected.

use std::{
    num::NonZeroU32,
    time::{Duration, Instant},
};

/// How many health checks change a server's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ActivePolicy {
    /// Consecutive successful probes that bring a server up.
    pub rise: NonZeroU32,
    /// Consecutive failed probes that take a server down.
    pub fall: NonZeroU32,
}

impl ActivePolicy {
    /// A server comes up after `rise` successful probes and goes down after `fall` failed ones.
    pub const fn new(rise: NonZeroU32, fall: NonZeroU32) -> Self {
        Self { rise, fall }
    }
}

/// The longest that repeated ejections grow to. A longer `fail_timeout` does not grow.
pub const MAX_EJECTION: Duration = Duration::from_secs(300);

/// A part of a whole, from 0 to 1, exact to a millionth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ratio {
    millionths: u32,
}

impl Ratio {
    const ONE: f64 = 1e6;

    /// Half.
    pub const HALF: Self = Self {
        millionths: 500_000,
    };
    /// All.
    pub const ALL: Self = Self {
        millionths: 1_000_000,
    };

    /// A part, if it is from 0 to 1.
    pub fn new(part: f64) -> Option<Self> {
        // In range, so the conversion is exact.
        (0.0..=1.0).contains(&part).then(|| Self {
            millionths: (part * Self::ONE).round() as u32,
        })
    }

    /// The part as a number from 0 to 1.
    pub fn get(self) -> f64 {
        f64::from(self.millionths) / Self::ONE
    }

    /// This part of `count`, rounded down.
    const fn of(self, count: usize) -> usize {
        (count as u128 * self.millionths as u128 / 1_000_000) as usize
    }
}

/// How many failed connects eject a server, and for how long.
///
/// ```
/// use std::time::Duration;
///
/// use leastconn::health::{PassivePolicy, Ratio};
///
/// // Three failed connects in a row eject for 30 seconds, all servers if need be.
/// let mut policy = PassivePolicy::default();
/// policy.max_fails = 3;
/// policy.fail_timeout = Duration::from_secs(30);
/// policy.max_ejected = Ratio::ALL;
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PassivePolicy {
    /// Failed connects in a row that eject; 0: never.
    pub max_fails: u32,
    /// How long a failed connect is remembered, and how long a first ejection lasts.
    pub fail_timeout: Duration,
    /// The part of an upstream's servers that may be ejected at once; see
    /// [`PassivePolicy::max_ejected_of`].
    pub max_ejected: Ratio,
}

impl PassivePolicy {
    /// How many of `servers` may be ejected at once: `max_ejected` of them, rounded down,
    /// but at least one where there is another one, unless `max_ejected` is 0.
    pub const fn max_ejected_of(&self, servers: usize) -> usize {
        let part = self.max_ejected.of(servers);
        if part == 0 && servers > 1 && self.max_ejected.millionths > 0 {
            1
        } else {
            part
        }
    }
}

impl Default for PassivePolicy {
    /// nginx's: one failure, ten seconds; and half of the servers at most.
    fn default() -> Self {
        Self {
            max_fails: 1,
            fail_timeout: Duration::from_secs(10),
            max_ejected: Ratio::HALF,
        }
    }
}

/// What the health of one server depends on beside its own: its upstream's servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Siblings {
    /// Servers of the upstream, this one included.
    pub servers: usize,
    /// How many of the others are ejected.
    pub ejected: usize,
    /// Whether any server of the upstream is available.
    pub any_available: bool,
}

impl Siblings {
    /// `ejected` of the others of `servers` are ejected, and some server is available.
    pub const fn new(servers: usize, ejected: usize) -> Self {
        Self {
            servers,
            ejected,
            any_available: true,
        }
    }

    /// The same, while no server is available.
    #[must_use]
    pub const fn none_available(self) -> Self {
        Self {
            any_available: false,
            ..self
        }
    }
}

/// What a server's health allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Availability {
    /// It may be picked.
    Up,
    /// Real connects failed: not before this time, and then one at a time until one succeeds.
    Ejected(Instant),
    /// Probes say that it does not work.
    Down,
}

/// The health of one server.
#[derive(Clone, Debug)]
pub struct Health {
    active: Option<ActivePolicy>,
    passive: PassivePolicy,
    probed: bool,
    up: bool,
    /// Probes in a row that contradict `up`.
    contrary: u32,
    /// Good probes in a row since the last ejection.
    good_since_ejection: u32,
    /// Failed connects in a row.
    fails: u32,
    last_fail: Option<Instant>,
    ejected_until: Option<Instant>,
    /// When the last ejection began, also once it is over: connects that began before
    /// are counted in it.
    ejected_at: Option<Instant>,
    /// Ejections in a row.
    ejections: u32,
    /// When the trial that is under way began.
    trial_since: Option<Instant>,
}

impl Health {
    /// A server that is up until something says otherwise. Without an `active`
    /// policy, probes are ignored.
    pub const fn new(active: Option<ActivePolicy>, passive: PassivePolicy) -> Self {
        Self {
            active,
            passive,
            probed: false,
            up: true,
            contrary: 0,
            good_since_ejection: 0,
            fails: 0,
            last_fail: None,
            ejected_until: None,
            ejected_at: None,
            ejections: 0,
            trial_since: None,
        }
    }

    /// What the server may be given now.
    pub const fn availability(&self) -> Availability {
        match (self.up, self.ejected_until) {
            (false, _) => Availability::Down,
            (true, Some(until)) => Availability::Ejected(until),
            (true, None) => Availability::Up,
        }
    }

    /// Until when it is ejected, also while it is down.
    pub(crate) const fn ejected_until(&self) -> Option<Instant> {
        self.ejected_until
    }

    /// A probe ended.
    pub fn probed(&mut self, success: bool, siblings: Siblings) {
        let Some(ActivePolicy { rise, fall }) = self.active else {
            return;
        };
        let first = !std::mem::replace(&mut self.probed, true);
        self.contrary = if success == self.up {
            0
        } else {
            self.contrary + 1
        };
        let rise = if siblings.any_available {
            rise
        } else {
            NonZeroU32::MIN
        };
        let needed = if self.up { fall } else { rise }.get();
        if self.contrary >= needed || (first && self.contrary > 0) {
            self.up = success;
            self.contrary = 0;
        }
        self.good_since_ejection = if success {
            self.good_since_ejection.saturating_add(1)
        } else {
            0
        };
        if self.ejected_until.is_some() && self.good_since_ejection >= rise.get() {
            self.reinstate();
        }
    }

    /// A real connect that began at `began` failed.
    pub fn connect_failed(&mut self, began: Instant, now: Instant, siblings: Siblings) {
        if self.passive.max_fails == 0 || self.ejected_at.is_some_and(|at| began < at) {
            return;
        }
        if self.ejected_until.is_some() {
            // Others than the trial are last resorts, which are expected to fail.
            if self.trial_since.is_some_and(|trial| began >= trial) {
                self.eject(now);
            }
            return;
        }
        let forgotten = self
            .last_fail
            .is_none_or(|last| now.saturating_duration_since(last) > self.passive.fail_timeout);
        self.fails = if forgotten {
            1
        } else {
            self.fails.saturating_add(1)
        };
        self.last_fail = Some(now);
        if self.fails >= self.passive.max_fails
            && siblings.ejected < self.passive.max_ejected_of(siblings.servers)
        {
            self.eject(now);
        }
    }

    fn eject(&mut self, now: Instant) {
        self.ejections = self.ejections.saturating_add(1);
        let first = self.passive.fail_timeout;
        let grown = first.saturating_mul(self.ejections);
        self.ejected_until = Some(after(now, grown.min(MAX_EJECTION).max(first)));
        self.ejected_at = Some(now);
        self.trial_since = None;
        self.good_since_ejection = 0;
        self.fails = 0;
        self.last_fail = None;
    }

    /// A real connect succeeded: what failed before no longer counts.
    pub fn connect_succeeded(&mut self) {
        self.reinstate();
    }

    /// Whether an ejection has lasted long enough for one connection to be tried.
    pub fn trial_is_due(&self, now: Instant) -> bool {
        self.ejected_until.is_none_or(|until| now >= until)
    }

    /// The one connection of a trial that is due was let through. Holds the next
    /// back until this one's outcome is known, or was lost for `fail_timeout`.
    pub fn start_trial(&mut self, now: Instant) {
        if self.ejected_until.is_some() {
            self.ejected_until = Some(after(now, self.passive.fail_timeout));
            self.trial_since = Some(now);
        }
    }

    /// Whether some failure is remembered that a success would clear.
    pub const fn is_troubled(&self) -> bool {
        self.ejected_until.is_some() || self.fails > 0
    }

    /// Takes over changed policies; what is known of the server stays.
    pub const fn set_policies(&mut self, active: Option<ActivePolicy>, passive: PassivePolicy) {
        self.active = active;
        self.passive = passive;
        if active.is_none() {
            // Nothing will ever bring it up again.
            self.up = true;
            self.contrary = 0;
            self.probed = false;
        }
        if passive.max_fails == 0 {
            // Nothing would be ejected now, so nothing stays ejected.
            self.reinstate();
        }
    }

    const fn reinstate(&mut self) {
        self.ejected_until = None;
        self.ejections = 0;
        self.trial_since = None;
        self.fails = 0;
        self.last_fail = None;
    }
}

/// `now + by`, or a time that nobody lives to see: `by` is configured, and the
/// sum of an `Instant` and a large `Duration` panics.
fn after(now: Instant, by: Duration) -> Instant {
    const CENTURY: Duration = Duration::from_secs(100 * 365 * 86_400);
    now.checked_add(by.min(CENTURY)).unwrap_or(now)
}

#[cfg(test)]
mod tests;
