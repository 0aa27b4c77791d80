//! Exponential back-off with jitter. Pure: the random number is an argument.

use std::time::Duration;

/// Delays that double from `min` to `max`, each shortened by up to half at
/// random, so that many waiters do not come back in step.
#[derive(Clone, Debug)]
pub struct Backoff {
    min: Duration,
    max: Duration,
    next: Duration,
}

impl Backoff {
    /// Delays from `min` to `max`; a `max` under `min` counts as `min`. A `min` of
    /// zero stays zero.
    pub fn new(min: Duration, max: Duration) -> Self {
        Self {
            min,
            max: max.max(min),
            next: min,
        }
    }

    /// The next delay: between half of and all of the current step.
    pub fn next_delay(&mut self, random: u64) -> Duration {
        let step = self.next;
        self.next = step.saturating_mul(2).min(self.max);
        let half = step / 2;
        step.saturating_sub(half) + share(half, random)
    }

    /// Starts over at `min`, after a success.
    pub const fn reset(&mut self) {
        self.next = self.min;
    }
}

/// `of` times a fraction that `random` draws from 0 to 1.
pub fn share(of: Duration, random: u64) -> Duration {
    // 584 years are enough of a delay, and keep the product within 128 bits.
    let nanos = u64::try_from(of.as_nanos()).unwrap_or(u64::MAX);
    let share = (u128::from(nanos) * u128::from(random)) >> 64;
    Duration::from_nanos(share as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_longest_delay_does_not_overflow() {
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
