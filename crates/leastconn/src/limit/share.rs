//! The rule by which the members of a fleet share the limits of one client.
//!
//! Several balancers, the members, enforce the limits of a client together through a store that
//! adds up what they report. A member admits a connection without asking the store while this is
//! safe even if all members admit as many connections at the same time:
//!
//! ```text
//! (unacknowledged + 1) * members <= free
//! ```
//!
//! `free` is the limit minus the usage in the last answer of the store, and `unacknowledged` is
//! the number of connections that this member has admitted since. Otherwise, if that answer
//! already proves that nothing is free, the connection is refused. Otherwise the store decides.
//!
//! If there is no recent answer for the client, other members may have used much of the limit.
//! The member then admits a quarter as many connections before it asks. If it is the only member
//! that accepts connections, it asks at once: its predecessor may have just stopped to accept.
//!
//! While the store does not answer, each member enforces its share of the limit on its own:
//! `limit / members`, rounded up.

use std::{num::NonZeroU32, time::Duration};

use super::{Limits, RateLimit, Refusal, rate::divide};

/// The state of this process in its fleet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sharing {
    /// The store answers.
    Connected {
        /// Members that accept connections, including this one.
        members: NonZeroU32,
        /// Whether to ask the store before every admission. Limits are then never exceeded while
        /// the store answers.
        exact: bool,
    },
    /// The store does not answer at present, but its last answers are recent. They are used, but
    /// no connection waits for another answer.
    Unanswered {
        /// Members that accept connections, including this one.
        members: NonZeroU32,
        /// As for [`Self::Connected`]. If true, every decision uses the share of this member.
        exact: bool,
    },
    /// The last answers are too old to be used. The limits of this member are its share.
    CutOff {
        /// Members that accepted connections when the store answered last.
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

/// The answer of the store to a [`UsageReport`](super::UsageReport).
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct FleetUsage {
    /// How many of the connections that asked are admitted.
    pub granted: u32,
    /// Tokens of the rate limit that are in use in the whole fleet, including the granted ones.
    /// Can exceed the burst.
    pub used: f64,
    /// Open connections of the client on other members.
    pub others_open: u32,
}

impl FleetUsage {
    /// See the fields.
    pub const fn new(granted: u32, used: f64, others_open: u32) -> Self {
        Self {
            granted,
            used,
            others_open,
        }
    }
}

/// What this member knows of a client. The default is a client that the store has never seen.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Known {
    /// Tokens in use at `answered`, from the last answer.
    pub(super) used: f64,
    /// Whether there was an answer.
    pub(super) has_answer: bool,
    /// When the last answer was received, in nanoseconds since the epoch of the table.
    pub(super) answered: u64,
    /// Open connections on other members, from the last answer.
    pub(super) others_open: u32,
    /// Open connections of this member that the last answer included.
    pub(super) reported_open: u32,
    /// Connections that this member has admitted since the last answer.
    pub(super) unacknowledged: u32,
    /// Open connections of this member now.
    pub(super) open: u32,
    /// Connections that wait for an answer.
    pub(super) waiting: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Decision {
    Admit,
    Refuse(Refusal),
    Ask,
    /// The share of this member decides.
    Alone,
}

/// Answers that are older are not recent.
const RECENT: Duration = Duration::from_millis(500);

/// How many connections each member may have admitted for each one here, if there is no recent
/// answer.
const CAUTION: f64 = 4.0;

/// Usage has six decimal places in the store.
const ROUNDING: f64 = 1e-6;

impl Known {
    pub(super) fn decide(&self, sharing: Sharing, limits: &Limits, now: u64) -> Decision {
        let (members, exact, can_ask) = match sharing {
            Sharing::CutOff { .. } => return Decision::Alone,
            Sharing::Connected { members, exact } => (members, exact, true),
            Sharing::Unanswered { members, exact } => (members, exact, false),
        };
        if *limits == Limits::default() {
            return Decision::Admit;
        }
        if let Some(refusal) = self.certain_refusal(limits, now) {
            return Decision::Refuse(refusal);
        }
        // Connections that wait are served first.
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

    /// The refusal if the limit is reached whatever other members have done since the last
    /// answer.
    pub(super) fn certain_refusal(&self, limits: &Limits, now: u64) -> Option<Refusal> {
        if let Some(max) = limits.max_conns
            && self.open >= max.get()
        {
            return Some(Refusal::TooManyConnections);
        }
        let rate = limits.rate.as_ref()?;
        // The least that can be in use: no restored token was lost because the bucket was full.
        let used = self.used + f64::from(self.unacknowledged) - self.restored(rate, now);
        let missing = used + 1.0 - f64::from(rate.burst().get());
        (missing > ROUNDING).then(|| Refusal::RateLimited {
            retry_after: time_for(missing, rate),
        })
    }

    /// As [`Self::certain_refusal`] directly after an answer, which is up to date.
    pub(super) fn refusal_after_answer(&self, limits: &Limits, now: u64) -> Option<Refusal> {
        if let Some(max) = limits.max_conns
            && u64::from(self.others_open) + u64::from(self.reported_open) >= u64::from(max.get())
        {
            return Some(Refusal::TooManyConnections);
        }
        self.certain_refusal(limits, now)
    }

    /// Whether the connection can be admitted even if all members admit as many connections as
    /// this one since the last answer.
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
            // A connection that ended here is free for this member, whether it was
            // acknowledged or not.
            let acknowledged = self.open.min(self.reported_open);
            let grown = f64::from(self.open - acknowledged);
            let free = f64::from(max.get()) - f64::from(self.others_open) - f64::from(acknowledged);
            (grown + 1.0) * members <= free
        });
        rate && max_conns
    }

    /// More connections than could ever be granted at once need not wait.
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

    /// Tokens in use at `now`, without the unacknowledged ones.
    fn used_at(&self, rate: &RateLimit, now: u64) -> f64 {
        (self.used - self.restored(rate, now)).max(0.0)
    }

    /// Tokens that were restored since the last answer.
    fn restored(&self, rate: &RateLimit, now: u64) -> f64 {
        let elapsed = Duration::from_nanos(now.saturating_sub(self.answered));
        elapsed.as_secs_f64() * rate.per_second()
    }

    /// Whether no token is in use at `now`, by the last answer.
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
    /// The share of one of `members` balancers, rounded up: the limits that a balancer enforces
    /// while it cannot reach the others.
    #[must_use]
    pub fn share(&self, members: NonZeroU32) -> Self {
        Self {
            rate: self.rate.map(|rate| rate.share(members)),
            max_conns: self.max_conns.map(|max| divide(max, members)),
        }
    }
}

/// The time in which `tokens` are restored.
fn time_for(tokens: f64, rate: &RateLimit) -> Duration {
    Duration::try_from_secs_f64(tokens / rate.per_second()).unwrap_or(Duration::MAX)
}

#[cfg(test)]
mod tests;
