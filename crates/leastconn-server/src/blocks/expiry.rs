//! When a block ends.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use leastconn::net;

/// Smaller differences between two clocks are ignored.
const TOLERANCE: Duration = Duration::from_secs(2);

/// Longer than any block. Stands for durations that an [`Instant`] cannot represent.
const LONGEST: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// The end of a block. A block ends by the monotonic clock, because a step of the system clock must
/// not end it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expiry {
    deadline: Instant,
    /// The deadline by the system clock when the block was set.
    until: Timestamp,
}

impl Expiry {
    pub fn after(duration: Duration) -> Self {
        let now = net::now();
        Self {
            deadline: now.checked_add(duration).unwrap_or(now + LONGEST),
            until: later(Timestamp::now(), duration),
        }
    }

    /// A block that another process has set, or has shown.
    pub fn at(until: Timestamp) -> Self {
        let remaining = Timestamp::now().duration_until(until);
        let remaining = Duration::try_from(remaining).unwrap_or_default();
        Self {
            until,
            ..Self::after(remaining)
        }
    }

    pub fn is_over(&self, now: Instant) -> bool {
        now >= self.deadline
    }

    /// The end by the present system clock.
    pub fn until(&self) -> Timestamp {
        let remaining = self.deadline.saturating_duration_since(net::now());
        let until = later(Timestamp::now(), remaining);
        match difference(until, self.until) <= TOLERANCE {
            true => self.until,
            false => until,
        }
    }

    pub fn max(self, other: Self) -> Self {
        match self.deadline >= other.deadline {
            true => self,
            false => other,
        }
    }

    /// Whether both are the same, as far as different clocks can tell.
    pub(crate) fn is_about(&self, other: &Self) -> bool {
        let (one, other) = (self.deadline, other.deadline);
        let difference = one.max(other).saturating_duration_since(one.min(other));
        difference <= TOLERANCE
    }
}

fn later(now: Timestamp, duration: Duration) -> Timestamp {
    now.saturating_add(duration).unwrap_or(Timestamp::MAX)
}

fn difference(one: Timestamp, other: Timestamp) -> Duration {
    one.duration_since(other).unsigned_abs()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clock_step_does_not_change_the_expiry() {
        let minute = Duration::from_secs(60);
        let hour = Duration::from_secs(3600);
        for stepped in [
            Timestamp::now().saturating_sub(hour),
            Timestamp::now().saturating_add(hour),
        ] {
            let expiry = Expiry {
                until: stepped.unwrap(),
                ..Expiry::after(minute)
            };
            let now = net::now();
            assert!(!expiry.is_over(now));
            assert!(expiry.is_over(now + minute));
            let shown = difference(expiry.until(), later(Timestamp::now(), minute));
            assert!(shown < Duration::from_secs(50), "{shown:?}");
            // As another process gets it.
            assert!(!Expiry::at(expiry.until()).is_over(net::now()));
        }
    }

    #[test]
    fn shown_end_stays_the_same() {
        let until = later(Timestamp::now(), Duration::from_secs(60));
        assert_eq!(Expiry::at(until).until(), until);
        assert!(Expiry::at(Timestamp::UNIX_EPOCH).is_over(net::now()));
        assert!(!Expiry::after(Duration::MAX).is_over(net::now()));
    }
}
