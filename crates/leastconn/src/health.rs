//! Whether a server can be given connections: a pure state machine, fed with
//! the outcomes of probes (active) and of real connects (passive).
//!
//! Active, as in HAProxy: `fall` failed probes in a row take a server down,
//! `rise` good ones in a row bring it back. A server that was never probed
//! counts as up, and its very first probe decides alone, so that a dead server
//! is known after one probe and not after `fall` intervals.
//!
//! Passive, as in nginx: `max_fails` failed connects in a row, each at most
//! `fail_timeout` after the one before, eject a server for `fail_timeout`. After
//! that it is on trial: one connection is let through, its success opens the
//! server again, its failure ejects it anew. Where probes run, `rise` good ones
//! in a row since the ejection end it early.
//!
//! A row, not a window that begins with its first failure: of such windows, one
//! can end between failures that are close together, and a server that fails
//! every connect would not be ejected.

use std::{
    num::NonZeroU32,
    time::{Duration, Instant},
};

/// How many probes change a server's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ActivePolicy {
    /// Good probes in a row that bring a server up.
    pub rise: NonZeroU32,
    /// Failed probes in a row that take it down.
    pub fall: NonZeroU32,
}

/// How many failed connects eject a server, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PassivePolicy {
    /// Failed connects in a row that eject; 0: never.
    pub max_fails: u32,
    /// How long a failed connect is remembered, and how long an ejection lasts.
    pub fail_timeout: Duration,
}

impl Default for PassivePolicy {
    /// nginx's: one failure, ten seconds.
    fn default() -> Self {
        Self {
            max_fails: 1,
            fail_timeout: Duration::from_secs(10),
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

    /// A probe ended.
    pub fn probed(&mut self, success: bool) {
        let Some(ActivePolicy { rise, fall }) = self.active else {
            return;
        };
        let first = !std::mem::replace(&mut self.probed, true);
        self.contrary = if success == self.up {
            0
        } else {
            self.contrary + 1
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

    /// A real connect failed.
    pub fn connect_failed(&mut self, now: Instant) {
        if self.passive.max_fails == 0 {
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
        let ejected = self.ejected_until.is_some();
        if ejected || self.fails >= self.passive.max_fails {
            self.ejected_until = Some(after(now, self.passive.fail_timeout));
            self.good_since_ejection = 0;
            self.fails = 0;
            self.last_fail = None;
        }
    }

    /// A real connect succeeded: whatever failed before is over.
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
