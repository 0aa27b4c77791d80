//! A member's report to the store about one client.

use std::{num::NonZeroU32, time::Instant};

use super::SharedClient;
use crate::{
    limit::{Limits, share::FleetUsage},
    spec::ClientId,
    sync::Arc,
};

/// The usage of a client since its last report; see
/// [`Limiter::usage_reports`](crate::Limiter::usage_reports).
///
/// A report stays valid until it is [confirmed](Self::confirm). If the store's answer is lost, send
/// the report again. The store must be able to recognize it, so that it subtracts the tokens only
/// once. Until then, there is no other report about the client. If the report is dropped instead,
/// the next report contains its tokens.
#[derive(Debug)]
#[must_use = "if the report is dropped, the store does not learn the usage"]
pub struct UsageReport {
    client: Arc<SharedClient>,
    limits: Limits,
    admitted: u32,
    ask: u32,
    open: u32,
    is_confirmed: bool,
}

impl UsageReport {
    pub(super) const fn new(
        client: Arc<SharedClient>,
        limits: Limits,
        admitted: u32,
        ask: u32,
        open: u32,
    ) -> Self {
        Self {
            client,
            limits,
            admitted,
            ask,
            open,
            is_confirmed: false,
        }
    }

    /// Returns the client.
    pub fn client(&self) -> &ClientId {
        self.client.id()
    }

    /// Returns the limits of the waiting connections. If none is waiting: the limits that applied to
    /// the client's last connection.
    pub const fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Returns the number of connections that were admitted without asking.
    pub const fn admitted(&self) -> u32 {
        self.admitted
    }

    /// Returns the number of connections that are waiting for a decision.
    pub const fn ask(&self) -> u32 {
        self.ask
    }

    /// Returns the number of open connections, not counting waiting ones.
    pub const fn open(&self) -> u32 {
        self.open
    }

    /// Returns the rate limit tokens that are in use at `now`, according to the store's last
    /// answer, without those of this report. `None` if the store has never answered. With this,
    /// a store that was restarted without its data knows the usage again.
    pub fn known_used(&self, now: Instant) -> Option<f64> {
        self.client.known_used(now)
    }

    /// Updates the numbers of open and of waiting connections before the report is sent again. The
    /// number of admitted connections stays the same.
    pub fn refresh(&mut self) {
        (self.limits, self.ask, self.open) = self.client.refresh();
    }

    /// Applies the answer, which was received at `now`. Waiting connections are admitted or
    /// refused.
    pub fn confirm(mut self, answer: &FleetUsage, now: Instant) {
        self.is_confirmed = true;
        self.client.confirm(self.open, answer, now);
    }

    /// Call this if there was no answer in time. Waiting connections are then decided under the
    /// share of one of `members` balancers. The report itself stays valid.
    pub fn unanswered(&self, members: NonZeroU32, now: Instant) {
        self.client.decide_all_alone(members, now);
    }
}

impl Drop for UsageReport {
    fn drop(&mut self) {
        if !self.is_confirmed {
            self.client.retract();
        }
    }
}
