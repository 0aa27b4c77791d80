//! How many records without data a client may send.

use std::time::{Duration, Instant};

/// Records without data that may come in a row; more come back with time.
const BURST: u32 = 100;

/// One comes back each. HAProxy allows as many key updates a second.
const EACH: Duration = Duration::from_millis(10);

/// A bucket for what costs work and carries nothing: key updates, warnings,
/// empty records. rustls counts key updates between two records of data, so a
/// byte of data between them makes them free; this does not care about data.
#[derive(Debug)]
pub(crate) struct Patience {
    left: u32,
    /// Up to when the time was counted. `None`: nothing was ever taken.
    counted: Option<Instant>,
}

impl Patience {
    pub(crate) const fn new() -> Self {
        Self {
            left: BURST,
            counted: None,
        }
    }

    /// Takes one. `false`: there was none.
    pub(crate) fn take(&mut self, now: Instant) -> bool {
        let since = now.saturating_duration_since(*self.counted.get_or_insert(now));
        let back = since.as_millis() / EACH.as_millis();
        if back > 0 {
            self.left = self
                .left
                .saturating_add(u32::try_from(back).unwrap_or(BURST))
                .min(BURST);
            self.counted = Some(now);
        }
        match self.left.checked_sub(1) {
            Some(left) => {
                self.left = left;
                true
            }
            None => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_and_then_one_each_ten_milliseconds() {
        let mut now = leastconn::net::now();
        let mut patience = Patience::new();
        for _ in 0..BURST {
            assert!(patience.take(now));
        }
        assert!(!patience.take(now));
        for _ in 0..1000 {
            now += EACH;
            assert!(patience.take(now));
            assert!(!patience.take(now));
        }
        now += Duration::from_secs(1 << 32);
        for _ in 0..BURST {
            assert!(patience.take(now));
        }
        assert!(!patience.take(now));
    }
}
