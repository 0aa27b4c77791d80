//! The token bucket of one client: exact, without rounding.
//!
//! GCRA in its other form, the leaky bucket as a meter: how many connections
//! are used up, as of when. A connection uses up one, time gives back `rate` a
//! second, and one more is admitted while at most `burst - 1` are used up. The
//! usual form keeps a time instead, and adds `1 / rate` to it: a fraction that
//! has no finite binary form for a rate of 3, and whose error adds up. Counting
//! in 10^-18 connections and in nanoseconds, with rates to nine decimal places,
//! everything is a whole number: from any moment on, `t` seconds admit at most
//! `burst + rate * t`, and a client that always asks gets them all but one,
//! for as long as the process may live.
//!
//! It also keeps what a client used, not when it would be free: a higher rate
//! holds at once, for what was used up under the old one too.
//!
//! Source: ITU-T I.371, annex A (both forms, and that they are equal).

use std::{num::NonZeroU32, time::Duration};

/// One connection, in the unit that buckets count in. A rate in 10^-9
/// connections a second is as many of these a nanosecond.
const CONNECTION: u128 = 1_000_000_000_000_000_000;

/// New connections a second, and how many may come at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RateLimit {
    /// In 10^-9 connections a second.
    rate: u64,
    burst: NonZeroU32,
}

impl RateLimit {
    /// `per_second` connections on average, to nine decimal places, and `burst`
    /// at once. `None` unless the rate is between one in 11 days (1e-6) and 1e9.
    pub fn new(per_second: f64, burst: NonZeroU32) -> Option<Self> {
        // Written so as to refuse NaN. Rounding takes 0.3 for what was written,
        // and not for the double next to it; whole rates come out exact.
        let rate = (1e-6..=1e9)
            .contains(&per_second)
            .then(|| (per_second * 1e9).round() as u64)?;
        Some(Self { rate, burst })
    }

    /// Connections a second.
    pub const fn per_second(&self) -> f64 {
        self.rate as f64 / 1e9
    }

    /// Connections that may come at once.
    pub const fn burst(&self) -> NonZeroU32 {
        self.burst
    }
}

/// What one client has used up. Times are nanoseconds since the table's epoch.
///
/// Nothing here can overflow: `used` stays under 2^32 connections, which is
/// 92 bits, and a time multiplied by a rate is under 124.
#[derive(Debug, Default)]
pub(super) struct Bucket {
    used: u128,
    /// At which it is given back since `at`: that of the last limit.
    rate: u64,
    at: u64,
}

impl Bucket {
    fn used(&self, now: u64) -> u128 {
        let passed = now.saturating_sub(self.at);
        self.used
            .saturating_sub(u128::from(passed) * u128::from(self.rate))
    }

    /// Whether nothing is used up: then this is as good as a new bucket.
    pub(super) fn is_full(&self, now: u64) -> bool {
        self.used(now) == 0
    }

    /// When nothing will be used up any more, without further connections.
    pub(super) fn full_at(&self) -> u64 {
        let time = match self.rate {
            0 => 0,
            rate => self.used.div_ceil(u128::from(rate)),
        };
        let time = u64::try_from(time).unwrap_or(u64::MAX);
        self.at.saturating_add(time)
    }

    /// Takes one connection out, or says how long until there is one.
    pub(super) fn take(&mut self, limit: &RateLimit, now: u64) -> Result<(), Duration> {
        // Up to here the old rate holds, even if this is refused. Writing this
        // down costs the client nothing: it is exact.
        *self = Self {
            used: self.used(now),
            rate: limit.rate,
            // Callers on several threads come here not quite in order.
            at: now.max(self.at),
        };
        let used = self.used + CONNECTION;
        let over = used.saturating_sub(u128::from(limit.burst.get()) * CONNECTION);
        if over > 0 {
            let nanos = over.div_ceil(u128::from(limit.rate));
            let nanos = u64::try_from(nanos).unwrap_or(u64::MAX);
            return Err(Duration::from_nanos(nanos));
        }
        self.used = used;
        Ok(())
    }
}
