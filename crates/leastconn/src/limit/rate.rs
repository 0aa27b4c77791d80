//! The token bucket of one client, in exact integer arithmetic.
//!
//! This is GCRA (the generic cell rate algorithm) in its leaky-bucket form. A bucket stores how
//! much of the burst is in use, and when that was last updated. A connection uses one token, and
//! `rate` tokens per second are restored. A connection is admitted while at most `burst - 1` tokens
//! are in use.
//!
//! The usual form stores a theoretical arrival time and adds `1 / rate` to it for each connection.
//! For a rate of 3, this fraction has no finite binary representation, and the rounding error
//! accumulates. Here, usage is in units of 10^-18 connections, time is in nanoseconds, and rates
//! have nine decimal places. All values are integers, so the limit stays exact for the lifetime of
//! the process.
//!
//! Because usage is stored instead of an arrival time, a raised rate takes effect immediately:
//! tokens that were used under the old rate are restored at the new rate.
//!
//! Source: ITU-T I.371, annex A, which defines both forms and shows that they are equivalent.

use std::{num::NonZeroU32, time::Duration};

/// One connection, in units of usage. A rate of `n` * 10^-9 connections per second restores `n`
/// units of usage per nanosecond.
const CONNECTION: u128 = 1_000_000_000_000_000_000;

/// A limit on the rate of new connections, with a burst.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RateLimit {
    /// The rate in 10^-9 connections per second.
    rate: u64,
    burst: NonZeroU32,
}

impl RateLimit {
    /// Creates a limit of `per_second` connections on average, rounded to nine decimal places, and
    /// of `burst` simultaneous connections. Returns `None` unless the rate is between 1e-6 (one
    /// connection in 11 days) and 1e9.
    pub fn new(per_second: f64, burst: NonZeroU32) -> Option<Self> {
        // `contains` returns false for NaN. Integer rates are exact. Rounding also makes decimal
        // fractions exact, such as the double nearest to 0.3.
        let rate = (1e-6..=1e9)
            .contains(&per_second)
            .then(|| (per_second * 1e9).round() as u64)?;
        Some(Self { rate, burst })
    }

    /// Returns the rate in connections per second.
    pub const fn per_second(&self) -> f64 {
        self.rate as f64 / 1e9
    }

    /// Returns the maximum number of connections that are admitted simultaneously.
    pub const fn burst(&self) -> NonZeroU32 {
        self.burst
    }

    /// Returns the lower of both rates, with the lower of both bursts.
    pub(super) fn lower(self, other: Self) -> Self {
        Self {
            rate: self.rate.min(other.rate),
            burst: self.burst.min(other.burst),
        }
    }

    /// Returns the burst in units of usage.
    fn burst_units(&self) -> u128 {
        u128::from(self.burst.get()) * CONNECTION
    }

    /// Returns the share of one of `members` balancers, rounded up.
    pub(super) fn share(self, members: NonZeroU32) -> Self {
        Self {
            rate: self.rate.div_ceil(u64::from(members.get())),
            burst: divide(self.burst, members),
        }
    }
}

/// Returns the share of one of `members` balancers, rounded up.
pub(super) fn divide(limit: NonZeroU32, members: NonZeroU32) -> NonZeroU32 {
    let share = limit.get().div_ceil(members.get());
    NonZeroU32::new(share).unwrap_or(NonZeroU32::MIN)
}

/// The usage of one client. Times are in nanoseconds since the epoch of the table.
///
/// The arithmetic cannot overflow. `used` is less than 2^32 connections, which fits into 92
/// bits. The product of a time and a rate fits into 124 bits.
#[derive(Debug, Default)]
pub(super) struct Bucket {
    used: u128,
    /// The rate of the last limit. Since `updated`, usage has been restored at this rate.
    rate: u64,
    updated: u64,
}

impl Bucket {
    fn used(&self, now: u64) -> u128 {
        let elapsed = now.saturating_sub(self.updated);
        self.used
            .saturating_sub(u128::from(elapsed) * u128::from(self.rate))
    }

    /// Whether no tokens are in use, as in a new bucket.
    pub(super) fn is_full(&self, now: u64) -> bool {
        self.used(now) == 0
    }

    /// Returns the time at which the bucket will be full, provided that no connections are admitted
    /// until then.
    pub(super) fn full_at(&self) -> u64 {
        let time = match self.rate {
            0 => 0,
            rate => self.used.div_ceil(u128::from(rate)),
        };
        let time = u64::try_from(time).unwrap_or(u64::MAX);
        self.updated.saturating_add(time)
    }

    /// Returns the number of tokens in use, rounded up.
    pub(super) fn tokens(&self, now: u64) -> u32 {
        u32::try_from(self.used(now).div_ceil(CONNECTION)).unwrap_or(u32::MAX)
    }

    /// Uses one token, even if none is available. Usage is capped at the burst.
    pub(super) fn charge(&mut self, limit: &RateLimit, now: u64) {
        self.update(limit, now);
        self.used = (self.used + CONNECTION).min(limit.burst_units());
    }

    /// Like [`Self::take`], but for a limit that was higher before: usage above the burst is
    /// forgiven. The first token therefore takes no longer than any other token at this rate.
    pub(super) fn take_lowered(&mut self, limit: &RateLimit, now: u64) -> Result<(), Duration> {
        self.update(limit, now);
        self.used = self.used.min(limit.burst_units());
        self.take(limit, now)
    }

    /// Restores usage up to `now` at the old rate. The arithmetic is exact, so the client loses no
    /// tokens.
    fn update(&mut self, limit: &RateLimit, now: u64) {
        *self = Self {
            used: self.used(now),
            rate: limit.rate,
            // Concurrent calls may pass `now` slightly out of order.
            updated: now.max(self.updated),
        };
    }

    /// Uses one token. If none is available, returns the time until one is.
    pub(super) fn take(&mut self, limit: &RateLimit, now: u64) -> Result<(), Duration> {
        // The bucket is updated even if the connection is refused.
        self.update(limit, now);
        let used = self.used + CONNECTION;
        let excess = used.saturating_sub(limit.burst_units());
        if excess > 0 {
            let nanos = excess.div_ceil(u128::from(limit.rate));
            let nanos = u64::try_from(nanos).unwrap_or(u64::MAX);
            return Err(Duration::from_nanos(nanos));
        }
        self.used = used;
        Ok(())
    }
}
