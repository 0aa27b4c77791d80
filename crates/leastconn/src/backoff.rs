//! Exponential backoff with jitter. The caller supplies the random numbers.

use std::time::Duration;

/// Delays that double from `min` to `max`. Each delay is shortened by a random amount, at most half
/// of it, so that several waiting tasks do not retry at the same time.
#[derive(Clone, Debug)]
pub struct Backoff {
    min: Duration,
    max: Duration,
    next: Duration,
}

impl Backoff {
    /// Creates a backoff with delays from `min` to `max`. A `max` below `min` is raised to
    /// `min`. If `min` is zero, all delays are zero.
    pub fn new(min: Duration, max: Duration) -> Self {
        Self {
            min,
            max: max.max(min),
            next: min,
        }
    }

    /// Returns a random delay between half of the current step and the whole step, then doubles the
    /// step.
    pub fn next_delay(&mut self, random: u64) -> Duration {
        let step = self.next;
        self.next = step.saturating_mul(2).min(self.max);
        let half = step / 2;
        step.saturating_sub(half) + share(half, random)
    }

    /// Resets the step to `min`. Call this after a success.
    pub const fn reset(&mut self) {
        self.next = self.min;
    }
}

/// Returns a random fraction of `duration`: `duration * random / 2^64`.
pub fn share(duration: Duration, random: u64) -> Duration {
    // A duration above 584 years is shortened, so that the product fits into 128 bits.
    let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
    let share = (u128::from(nanos) * u128::from(random)) >> 64;
    Duration::from_nanos(share as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn longest_delay_does_not_overflow() {
        let mut backoff = Backoff::new(Duration::MAX, Duration::MAX);
        assert!(backoff.next_delay(u64::MAX) >= Duration::MAX / 2);
        assert!(share(Duration::MAX, u64::MAX) <= Duration::MAX);
    }

    proptest! {
        #[test]
        fn delays_stay_within_their_step(
            min in 1u64..10_000, factor in 1u64..1_000, randoms in prop::collection::vec(any::<u64>(), 1..20),
        ) {
            let (min, max) = (Duration::from_micros(min), Duration::from_micros(min * factor));
            let mut backoff = Backoff::new(min, max);
            let mut step = min;
            for random in randoms {
                let delay = backoff.next_delay(random);
                prop_assert!(delay >= step / 2 && delay <= step, "{delay:?} for a step of {step:?}");
                step = (step * 2).min(max);
            }
            backoff.reset();
            prop_assert!(backoff.next_delay(u64::MAX) <= min);
        }
    }
}
