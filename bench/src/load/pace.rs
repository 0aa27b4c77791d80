//! When the next operation is due.

use std::{cell::Cell, time::Duration};

use tokio::time::Instant;

/// Hands out turns. With a rate (open loop), turn `k` is due at `start + k/rate`
/// whether or not those before it are done, and latency counts from then: a
/// balancer that stalls is charged for what waited.
#[derive(Debug)]
pub struct Pace {
    start: Instant,
    rate: Option<f64>,
    turns: Cell<u64>,
}

impl Pace {
    /// From `start` on; without a rate, every turn is due at once.
    pub const fn new(start: Instant, rate: Option<f64>) -> Self {
        Self {
            start,
            rate,
            turns: Cell::new(0),
        }
    }

    /// The next turn; `None`: now.
    pub fn turn(&self) -> Option<Instant> {
        let rate = self.rate?;
        let turn = self.turns.replace(self.turns.get() + 1);
        // Rates that no machine reaches, and centuries, are the same as none.
        let offset = Duration::try_from_secs_f64(turn as f64 / rate).ok()?;
        self.start.checked_add(offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_evenly_spaced() {
        let start = Instant::now();
        let pace = Pace::new(start, Some(250.0));
        for k in 0..5 {
            assert_eq!(pace.turn(), Some(start + Duration::from_millis(4 * k)));
        }
        assert_eq!(Pace::new(start, None).turn(), None);
        assert_eq!(Pace::new(start, Some(0.0)).turn(), None);
    }
}
