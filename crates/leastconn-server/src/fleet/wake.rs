//! Requests an exchange before the next regular one.

use std::{
    sync::atomic::{AtomicU8, Ordering},
    time::Duration,
};

use tokio::sync::Notify;

/// Minimum time between the starts of two exchanges while a client waits for an answer.
const URGENT_SPACING: Duration = Duration::from_millis(2);

/// Minimum time between the starts of two exchanges that only report changes. Several changes in
/// one exchange cost the store and this process less. Precision does not suffer: what is not
/// acknowledged yet counts against the client, which asks when it comes near its limit.
const CHANGE_SPACING: Duration = Duration::from_millis(10);

/// The same while other members may change something for this one.
const WAITING_SPACING: Duration = Duration::from_millis(20);

/// The same after nothing has changed for several exchanges.
const WAITING_LONG_SPACING: Duration = Duration::from_millis(50);

const IDLE: u8 = 0;
const WAITING_LONG: u8 = 1;
const WAITING: u8 = 2;
const CHANGED: u8 = 3;
const URGENT: u8 = 4;

/// Wakes the fleet thread. Any number of threads may call it, and one task waits.
#[derive(Debug, Default)]
pub struct Wake {
    level: AtomicU8,
    notify: Notify,
}

impl Wake {
    /// Requests an exchange soon: numbers of this process have changed.
    ///
    /// Call it after the change is visible to [`Participant::report`](super::Participant::report).
    pub fn changed(&self) {
        self.raise(CHANGED);
    }

    /// Requests an exchange at once: a client waits for the answer.
    ///
    /// Call it after the request is visible to [`Participant::report`](super::Participant::report).
    pub fn urgent(&self) {
        self.raise(URGENT);
    }

    /// Requests an exchange because other members may change something for this one at any time.
    /// `unchanged` is the number of exchanges in a row that have found no change.
    pub fn waiting(&self, unchanged: u32) {
        self.raise(match unchanged {
            0..=2 => CHANGED,
            3..=6 => WAITING,
            _ => WAITING_LONG,
        });
    }

    fn raise(&self, level: u8) {
        // Always a read-modify-write, so that `take` sees everything before it.
        if self.level.fetch_max(level, Ordering::AcqRel) < level {
            self.notify.notify_one();
        }
    }

    /// Waits until the level was raised since the last call of [`Self::take`].
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub(super) async fn raised(&self) {
        self.notify.notified().await;
    }

    /// Resets the level. Call it before the report is built.
    pub(super) fn take(&self) {
        self.level.swap(IDLE, Ordering::AcqRel);
    }

    /// Minimum time since the start of the last exchange. `None`: no exchange was requested.
    pub(super) fn spacing(&self) -> Option<Duration> {
        match self.level.load(Ordering::Acquire) {
            IDLE => None,
            WAITING_LONG => Some(WAITING_LONG_SPACING),
            WAITING => Some(WAITING_SPACING),
            CHANGED => Some(CHANGE_SPACING),
            _ => Some(URGENT_SPACING),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiting_without_a_change_slows_down() {
        let wake = Wake::default();
        let spacings = (0..20).map(|unchanged| {
            wake.take();
            wake.waiting(unchanged);
            wake.spacing().unwrap_or_default().as_millis()
        });
        let spacings: Vec<_> = spacings.collect();
        assert_eq!(spacings[..8], [10, 10, 10, 20, 20, 20, 20, 50]);
        assert_eq!(spacings[19], 50);
        wake.changed();
        assert_eq!(wake.spacing(), Some(CHANGE_SPACING));
        wake.waiting(19);
        assert_eq!(wake.spacing(), Some(CHANGE_SPACING));
    }
}
