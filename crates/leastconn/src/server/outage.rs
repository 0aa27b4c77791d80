//! When and why a server's outage started.

use std::{fmt, sync::Arc, time::SystemTime};

use super::Server;
use crate::health::{Availability, Health};

/// The time and error of a failed probe or connect.
#[derive(Clone, Copy)]
pub struct Failure<'a> {
    time: SystemTime,
    error: &'a dyn fmt::Display,
}

/// A period during which a server is ejected or down, with its start and its reason.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Outage {
    /// When the outage started. Later failures do not change this time.
    pub since: SystemTime,
    /// For a server that is down, the error of the last failed probe. For an ejected server, the
    /// error of the failure that caused the ejection. May contain text that the server sent.
    pub reason: Arc<str>,
}

impl<'a> Failure<'a> {
    /// Creates a failure that occurred at `time`. `error` is formatted only if the failure is
    /// stored.
    pub fn new(time: SystemTime, error: &'a dyn fmt::Display) -> Self {
        Self { time, error }
    }

    #[cfg(feature = "tokio")]
    pub(super) fn error(&self) -> &dyn fmt::Display {
        self.error
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

/// The cause of a health change.
#[derive(Clone, Copy, Debug)]
pub(super) enum Cause<'a> {
    Probe(Failure<'a>),
    /// The server's agent reports the server as down.
    Agent(Failure<'a>),
    Connect(Failure<'a>),
    /// The server ended a connection early.
    Early(Failure<'a>),
    Success(Success),
    /// A changed policy, or a failure without an error.
    Other,
}

#[cfg(feature = "tokio")]
impl<'a> Cause<'a> {
    /// The value of `cause` in log messages.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Probe(_) | Self::Success(Success::Probe) => "health check",
            Self::Agent(_) | Self::Success(Success::Agent) => "agent check",
            Self::Connect(_) | Self::Success(Success::Connect) => "connect",
            Self::Early(_) | Self::Success(Success::Connection) => "connection",
            Self::Other => "configuration",
        }
    }

    pub(super) const fn failure(self) -> Option<Failure<'a>> {
        match self {
            Self::Probe(failure)
            | Self::Agent(failure)
            | Self::Connect(failure)
            | Self::Early(failure) => Some(failure),
            Self::Success(_) | Self::Other => None,
        }
    }
}

/// What has succeeded.
#[derive(Clone, Copy, Debug)]
pub(super) enum Success {
    Probe,
    Agent,
    Connect,
    /// A connection that did not fail early.
    Connection,
}

/// A server's health and, if the server is not up, its outage.
#[derive(Debug)]
pub(super) struct Condition {
    pub(super) health: Health,
    since: Option<SystemTime>,
    probe_error: Option<Arc<str>>,
    connect_error: Option<Arc<str>>,
    /// The failure of a server that is up only because of `max_ejected`.
    kept_in_use: Option<Outage>,
}

impl Condition {
    pub(super) const fn new(health: Health) -> Self {
        Self {
            health,
            since: None,
            probe_error: None,
            connect_error: None,
            kept_in_use: None,
        }
    }

    /// Applies `change` to the health. If the server is not up afterwards, stores the error.
    pub(super) fn change(&mut self, cause: Cause<'_>, change: impl FnOnce(&mut Health)) {
        let ejected_before = self.health.ejected_until();
        change(&mut self.health);
        if self.health.availability() == Availability::Up {
            self.since = None;
            self.probe_error = None;
            self.connect_error = None;
            self.keep_in_use(cause);
            return;
        }
        self.kept_in_use = None;
        match cause {
            Cause::Probe(failure) | Cause::Agent(failure) => {
                if self.health.availability() == Availability::Down {
                    self.probe_error = Some(failure.text());
                }
                self.since.get_or_insert(failure.time);
            }
            Cause::Connect(failure) | Cause::Early(failure) => {
                // An ejected server is dialled while no server is available. If such a connect
                // fails, neither the ejection nor its reason changes.
                if self.health.ejected_until() != ejected_before {
                    self.connect_error = Some(failure.text());
                    self.since.get_or_insert(failure.time);
                }
            }
            Cause::Success(_) | Cause::Other => {}
        }
    }

    /// Stores the error if the server is up only because of `max_ejected`.
    fn keep_in_use(&mut self, cause: Cause<'_>) {
        let before = self.kept_in_use.take();
        if !self.health.is_kept_in_use() {
            return;
        }
        self.kept_in_use = match cause {
            Cause::Connect(failure) | Cause::Early(failure) => Some(Outage {
                since: before.map_or(failure.time, |before| before.since),
                reason: failure.text(),
            }),
            Cause::Probe(_) | Cause::Agent(_) | Cause::Success(_) | Cause::Other => before,
        };
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

impl Server {
    /// Returns the failure of a server that is up only because
    /// [`max_ejected`](crate::health::PassivePolicy::max_ejected) does not allow its ejection: since
    /// when it would be ejected, and the last error. The administrative state is disregarded. Returns
    /// `None` for all other servers, and if the failure was reported without an error
    /// ([`Self::connect_failed`]).
    pub fn kept_in_use(&self) -> Option<Outage> {
        self.condition.lock().kept_in_use.clone()
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
