//! The rule by which the members of a fleet share the limits of one client.
//!
//! Several balancers, the members, jointly enforce a client's limits through a store that adds up
//! the usage they report. A member admits a connection without asking the store if this is safe
//! even when every other member admits as many connections at the same time:
//!
//! ```text
//! (unacknowledged + 1) * members <= free
//! ```
//!
//! `free` is the limit minus the usage in the store's last answer, and `unacknowledged` is the
//! number of connections that this member has admitted since. If the condition does not hold but
//! the last answer already proves that nothing is free, the connection is refused. In all other
//! cases, the store decides.
//!
//! If there is no recent answer for the client, other members may have used much of the limit.
//! The member then admits a quarter as many connections before it asks. If it is the only member
//! that accepts connections, it asks at once, because its predecessor may just have stopped
//! accepting.
//!
//! While the store does not answer, each member enforces its own share of the limit, which is
//! `limit / members`, rounded up.

use std::{num::NonZeroU32, time::Duration};

use super::{Limits, RateLimit, Refusal, rate::divide};

/// The state of this member in its fleet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sharing {
    /// The store is answering.
    Connected {
        /// Number of members that accept connections, including this one.
        members: NonZeroU32,
        /// Whether to ask the store before every admission. As long as the store answers, limits
        /// are then never exceeded.
        exact: bool,
    },
    /// The store is currently not answering, but its last answers are recent. They are used, but no
    /// connection waits for another answer.
    Unanswered {
        /// Number of members that accept connections, including this one.
        members: NonZeroU32,
        /// As for [`Self::Connected`]. If true, every decision is based on this member's share.
        exact: bool,
    },
    /// The last answers are too old to be used. This member enforces its share of the limits.
    CutOff {
        /// Number of members that accepted connections when the store last answered.
        members: NonZeroU32,
    },
}

impl Sharing {
    /// Returns the number of members that accept connections, including this one.
    pub const fn members(self) -> NonZeroU32 {
        match self {
            Self::Connected { members, .. }
            | Self::Unanswered { members, .. }
            | Self::CutOff { members } => members,
        }
    }
}

/// The store's answer to a [`UsageReport`](super::UsageReport).
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct FleetUsage {
    /// How many of the connections that asked are admitted.
    pub granted: u32,
    /// Number of rate limit tokens in use in the whole fleet, including those just granted. Can
    /// exceed the burst.
    pub used: f64,
    /// Number of connections that the client has open on other members.
    pub others_open: u32,
}

impl FleetUsage {
    /// Creates an answer. See the fields for the arguments.
    pub const fn new(granted: u32, used: f64, others_open: u32) -> Self {
        Self {
            granted,
            used,
            others_open,
        }
    }
}

/// What this member knows about a client. The default is a client that the store has never seen.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Known {
    /// Tokens in use at `answered`, according to the last answer.
    pub(super) used: f64,
    /// Whether the store has ever answered.
    pub(super) has_answer: bool,
    /// When the last answer was received, in nanoseconds since the epoch of the table.
    pub(super) answered: u64,
    /// Open connections on other members, according to the last answer.
    pub(super) others_open: u32,
    /// This member's open connections that the last answer took into account.
    pub(super) reported_open: u32,
    /// Connections that this member has admitted since the last answer.
    pub(super) unacknowledged: u32,
    /// This member's open connections now.
    pub(super) open: u32,
    /// Connections that are waiting for an answer.
    pub(super) waiting: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Decision {
    Admit,
    Refuse(Refusal),
    Ask,
    /// This member's share decides.
    Alone,
}

/// Answers older than this are not recent.
const RECENT: Duration = Duration::from_millis(500);

/// If there is no recent answer: how many connections each member is assumed to have admitted for
/// each one admitted here.
const CAUTION: f64 = 4.0;

/// The store keeps usage with six decimal places.
const ROUNDING: f64 = 1e-6;

impl Known {
    pub(super) fn decide(&self, sharing: Sharing, limits: &Limits, now: u64) -> Decision {
        let (members, exact, can_ask) = match sharing {
            Sharing::CutOff { .. } => return Decision::Alone,
            Sharing::Connected { members, exact } => (members, exact, true),
            Sharing::Unanswered { members, exact } => (members, exact, false),
        };
        if limits.is_unlimited() {
            return Decision::Admit;
        }
        if let Some(refusal) = self.certain_refusal(limits, now) {
            return Decision::Refuse(refusal);
        }
        // Waiting connections are served first.
        let must_ask = exact || (can_ask && self.waiting > 0);
        if !must_ask && self.is_far_from_limit(limits, members, now) {
            return Decision::Admit;
        }
        if !can_ask {
            return Decision::Alone;
        }
        match self.too_many_waiting(limits) {
            Some(refusal) => Decision::Refuse(refusal),
            None => Decision::Ask,
        }
    }

    /// Returns the refusal if the limit is reached no matter what other members have done since the
    /// last answer.
    pub(super) fn certain_refusal(&self, limits: &Limits, now: u64) -> Option<Refusal> {
        if let Some(max) = limits.max_conns
            && self.open >= max.get()
        {
            return Some(Refusal::TooManyConnections);
        }
        let rate = limits.rate.as_ref()?;
        // The least that can be in use, assuming that no restored token was lost to a full bucket.
        let used = self.used + f64::from(self.unacknowledged) - self.restored(rate, now);
        let missing = used + 1.0 - f64::from(rate.burst().get());
        (missing > ROUNDING).then(|| Refusal::RateLimited {
            retry_after: time_for(missing, rate),
        })
    }

    /// Like [`Self::certain_refusal`], but directly after an answer, which is up to date.
    pub(super) fn refusal_after_answer(&self, limits: &Limits, now: u64) -> Option<Refusal> {
        if let Some(max) = limits.max_conns
            && u64::from(self.others_open) + u64::from(self.reported_open) >= u64::from(max.get())
        {
            return Some(Refusal::TooManyConnections);
        }
        self.certain_refusal(limits, now)
    }

    /// Whether the connection can be admitted even if all members have admitted as many connections
    /// as this one since the last answer.
    fn is_far_from_limit(&self, limits: &Limits, members: NonZeroU32, now: u64) -> bool {
        let age = Duration::from_nanos(now.saturating_sub(self.answered));
        let is_recent = self.has_answer && age <= RECENT;
        if !is_recent && members == NonZeroU32::MIN {
            return false;
        }
        let members = f64::from(members.get()) * if is_recent { 1.0 } else { CAUTION };
        let rate = limits.rate.as_ref().is_none_or(|rate| {
            let free = f64::from(rate.burst().get()) - self.used_at(rate, now);
            (f64::from(self.unacknowledged) + 1.0) * members <= free + ROUNDING
        });
        let max_conns = limits.max_conns.is_none_or(|max| {
            // A slot that became free here may be reused by this member, whether or not the
            // connection was acknowledged.
            let acknowledged = self.open.min(self.reported_open);
            let grown = f64::from(self.open - acknowledged);
            let free = f64::from(max.get()) - f64::from(self.others_open) - f64::from(acknowledged);
            (grown + 1.0) * members <= free
        });
        rate && max_conns
    }

    /// Refuses a connection if more connections are waiting than could ever be granted together.
    fn too_many_waiting(&self, limits: &Limits) -> Option<Refusal> {
        if limits
            .max_conns
            .is_some_and(|max| self.waiting >= max.get())
        {
            return Some(Refusal::TooManyConnections);
        }
        let rate = limits.rate.as_ref()?;
        (self.waiting >= rate.burst().get()).then(|| Refusal::RateLimited {
            retry_after: time_for(1.0, rate),
        })
    }

    /// Tokens in use at `now`, excluding unacknowledged connections.
    pub(super) fn used_at(&self, rate: &RateLimit, now: u64) -> f64 {
        (self.used - self.restored(rate, now)).max(0.0)
    }

    /// Tokens restored since the last answer.
    fn restored(&self, rate: &RateLimit, now: u64) -> f64 {
        let elapsed = Duration::from_nanos(now.saturating_sub(self.answered));
        elapsed.as_secs_f64() * rate.per_second()
    }

    /// Whether no token is in use at `now`, according to the last answer.
    pub(super) fn is_full(&self, rate: Option<&RateLimit>, now: u64) -> bool {
        rate.is_none_or(|rate| self.used_at(rate, now) <= 0.0)
    }

    /// The time at which no token will be in use, in nanoseconds since the epoch.
    pub(super) fn full_at(&self, rate: Option<&RateLimit>) -> u64 {
        rate.map_or(0, |rate| {
            let nanos = time_for(self.used, rate).as_nanos();
            self.answered
                .saturating_add(u64::try_from(nanos).unwrap_or(u64::MAX))
        })
    }
}

impl Limits {
    /// Returns the share of one of `members` balancers, rounded up. A balancer enforces these
    /// limits while it cannot reach the other balancers.
    #[must_use]
    pub fn share(&self, members: NonZeroU32) -> Self {
        Self {
            rate: self.rate.map(|rate| rate.share(members)),
            max_conns: self.max_conns.map(|max| divide(max, members)),
        }
    }
}

/// Returns how long it takes to restore `tokens`.
fn time_for(tokens: f64, rate: &RateLimit) -> Duration {
    Duration::try_from_secs_f64(tokens / rate.per_second()).unwrap_or(Duration::MAX)
}

#[cfg(test)]
mod tests;
