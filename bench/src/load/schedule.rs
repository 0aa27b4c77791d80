//! Start times of operations.

use std::{cell::Cell, time::Duration};

use tokio::time::Instant;

/// Start times of operations. With a rate (open loop), operation `k` is due at `start + k/rate`
/// even if earlier operations are not done. Latency counts from the due time, so that it includes
/// any time for which a stalled balancer delays the start.
#[derive(Debug)]
pub struct Schedule {
    start: Instant,
    rate: Option<f64>,
    slots: Cell<u64>,
}

impl Schedule {
    /// Creates a schedule. Without a rate, every operation is due immediately.
    pub const fn new(start: Instant, rate: Option<f64>) -> Self {
        Self {
            start,
            rate,
            slots: Cell::new(0),
        }
    }

    /// When the next operation is due; `None`: immediately.
    pub fn next_due(&self) -> Option<Instant> {
        let rate = self.rate?;
        let slot = self.slots.replace(self.slots.get() + 1);
        // If the offset is out of range, the operation is due immediately.
        let offset = Duration::try_from_secs_f64(slot as f64 / rate).ok()?;
        self.start.checked_add(offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_evenly_spaced() {
        let start = Instant::now();
        let schedule = Schedule::new(start, Some(250.0));
        for k in 0..5 {
            assert_eq!(
                schedule.next_due(),
                Some(start + Duration::from_millis(4 * k))
            );
        }
        assert_eq!(Schedule::new(start, None).next_due(), None);
        assert_eq!(Schedule::new(start, Some(0.0)).next_due(), None);
    }
}
