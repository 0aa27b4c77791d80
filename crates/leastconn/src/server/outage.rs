//! Why a server is not up, and since when.

use std::{fmt, sync::Arc, time::SystemTime};

use crate::health::{Availability, Health};

/// A probe or a connect that failed: when, and the error text.
#[derive(Clone, Copy)]
pub struct Failure<'a> {
    time: SystemTime,
    error: &'a dyn fmt::Display,
}

/// Since when a server has been ejected or down, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Outage {
    /// When the server stopped to be up. Later failures do not change it.
    pub since: SystemTime,
    /// Of a server that is down: the error of the last failed probe. Of one that is
    /// ejected: the error of the connect that ejected it. It may contain text of the
    /// server.
    pub reason: Arc<str>,
}

impl<'a> Failure<'a> {
    /// The failure at `time` with this error.
    pub fn new(time: SystemTime, error: &'a dyn fmt::Display) -> Self {
        Self { time, error }
    }

    fn text(&self) -> Arc<str> {
        self.error.to_string().into()
    }
}

impl fmt::Debug for Failure<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Failure")
            .field("time", &self.time)
            .field("error", &self.error.to_string())
            .finish()
    }
}

/// What a change of health comes from.
#[derive(Clone, Copy, Debug)]
pub(super) enum Cause<'a> {
    Probe(Failure<'a>),
    Connect(Failure<'a>),
    /// A success, a changed policy, or a failure that is not described.
    Other,
}

/// Health, and the outage if it is not up.
#[derive(Debug)]
pub(super) struct Condition {
    pub(super) health: Health,
    since: Option<SystemTime>,
    probe_error: Option<Arc<str>>,
    connect_error: Option<Arc<str>>,
}

impl Condition {
    pub(super) const fn new(health: Health) -> Self {
        Self {
            health,
            since: None,
            probe_error: None,
            connect_error: None,
        }
    }

    /// Changes health, and keeps the error if it takes the server out.
    pub(super) fn change(&mut self, cause: Cause<'_>, change: impl FnOnce(&mut Health)) {
        let ejected_before = self.health.ejected_until();
        change(&mut self.health);
        if self.health.availability() == Availability::Up {
            self.since = None;
            self.probe_error = None;
            self.connect_error = None;
            return;
        }
        match cause {
            Cause::Probe(failure) => {
                if self.health.availability() == Availability::Down {
                    self.probe_error = Some(failure.text());
                }
                self.since.get_or_insert(failure.time);
            }
            Cause::Connect(failure) => {
                // A failed last resort changes nothing.
                if self.health.ejected_until() != ejected_before {
                    self.connect_error = Some(failure.text());
                    self.since.get_or_insert(failure.time);
                }
            }
            Cause::Other => {}
        }
    }

    pub(super) fn outage(&self) -> Option<Outage> {
        let error = match self.health.availability() {
            Availability::Up => None,
            Availability::Down => self.probe_error.as_ref(),
            Availability::Ejected(_) => self.connect_error.as_ref(),
        };
        Some(Outage {
            since: self.since?,
            reason: Arc::clone(error?),
        })
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
