//! Counts the failures of the last second. They count as load, so that a server that fails quickly
//! does not look idle.

use std::time::{Duration, Instant};

const SLOTS: usize = 10;
/// A failure counts in its own interval and in the next nine, which is 0.9 to 1 second in total.
const INTERVAL: Duration = Duration::from_millis(100);

/// Counts failures by interval, in constant space.
#[derive(Debug, Default)]
pub(super) struct RecentFailures {
    /// The start of interval 0: the time of the first failure.
    epoch: Option<Instant>,
    slots: [Slot; SLOTS],
}

#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    interval: u64,
    failures: u32,
}

impl RecentFailures {
    pub(super) fn add(&mut self, now: Instant) {
        let epoch = *self.epoch.get_or_insert(now);
        let interval = interval(epoch, now);
        let slot = &mut self.slots[(interval % SLOTS as u64) as usize];
        if slot.interval != interval {
            *slot = Slot {
                interval,
                failures: 0,
            };
        }
        slot.failures = slot.failures.saturating_add(1);
    }

    pub(super) fn count(&self, now: Instant) -> u32 {
        let Some(epoch) = self.epoch else {
            return 0;
        };
        let now = interval(epoch, now);
        let recent = self.slots.iter();
        recent
            .filter(|slot| slot.interval + SLOTS as u64 > now)
            .fold(0, |sum, slot| sum.saturating_add(slot.failures))
    }
}

fn interval(epoch: Instant, now: Instant) -> u64 {
    let elapsed = now.saturating_duration_since(epoch).as_nanos();
    u64::try_from(elapsed / INTERVAL.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(
        clippy::disallowed_methods,
        reason = "an Instant cannot be constructed otherwise"
    )]
    fn failures_count_for_a_second() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let mut failures = RecentFailures::default();
        assert_eq!(failures.count(start), 0);
        for millis in [0, 0, 450, 450, 450] {
            failures.add(at(millis));
        }
        assert_eq!([0, 899].map(|millis| failures.count(at(millis))), [5, 5]);
        assert_eq!([1_000, 1_299].map(|t| failures.count(at(t))), [3, 3]);
        assert_eq!(failures.count(at(1_450)), 0);
        // The slot of an interval from an earlier second is reused.
        failures.add(at(10_420));
        assert_eq!(failures.count(at(10_420)), 1);
        assert_eq!(failures.count(at(1_000_000_000)), 0);
    }
}
