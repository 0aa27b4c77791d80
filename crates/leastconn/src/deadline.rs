//! Deadlines and elapsed times that cannot overflow.

use std::time::{Duration, Instant};

/// A century: longer than any uptime.
pub(crate) const FAR_FUTURE: Duration = Duration::from_secs(100 * 365 * 86_400);

/// Returns `start + delay`, with `delay` limited to [`FAR_FUTURE`]. Many delays come from the
/// configuration, and adding a very large `Duration` to an `Instant` panics.
pub(crate) fn after(start: Instant, delay: Duration) -> Instant {
    start.checked_add(delay.min(FAR_FUTURE)).unwrap_or(start)
}

/// Returns the nanoseconds from `epoch` to `now`, or 0 if `now` is earlier.
pub(crate) fn nanos_since(epoch: Instant, now: Instant) -> u64 {
    let elapsed = now.saturating_duration_since(epoch);
    u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(
        clippy::disallowed_methods,
        reason = "an Instant cannot be constructed otherwise"
    )]
    fn longest_delay_does_not_overflow() {
        let start = Instant::now();
        assert_eq!(after(start, Duration::MAX), start + FAR_FUTURE);
        let second = Duration::from_secs(1);
        assert_eq!(after(start, second), start + second);
    }
}
