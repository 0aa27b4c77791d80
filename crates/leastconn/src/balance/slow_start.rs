//! Slow start: how fast a new or recovered server ramps up to its share of connections.
//!
//! A server with cold caches must not get a surge of new connections. Least connections sends
//! all new connections to an empty server until it has as many connections as the other
//! servers. A reduced weight does not prevent this. With a tenth of its weight, the server
//! still gets all new connections until it has a tenth of another server's connections.
//! Therefore slow start limits the fraction of *new* connections that a server gets:
//!
//! - During the configured `slow_start` time, the limit grows linearly with the elapsed time
//!   up to the server's share by weight. It is never less than a tenth of that share.
//! - After `slow_start`, a server with long-lived connections still has fewer connections than
//!   its peers, and [`Balance::LeastConn`] would send all new connections to it. Therefore the
//!   limit continues to grow: to twice the share at the end of a second period of
//!   `slow_start`, and to four times the share at the end of a third period. It doubles with
//!   each period until the server may get every new connection.
//!
//! The limit starts at a tenth of the share, as in Envoy (`min_weight_percent`). This is
//! enough to show that the server works and to warm its caches. With a lower limit, a server
//! of a small site would get no connections at first.
//!
//! The time is measured from the first pick that could have chosen the server. The recovery
//! itself therefore needs no clock, and time without connections does not count as warm-up.
//!
//! [`Balance::LeastConn`]: crate::Balance::LeastConn

use std::time::Duration;

/// A server's whole share, in the unit of shares.
pub(crate) const FULL_SHARE: u32 = 1024;

/// The share at the start of a ramp.
const FIRST_SHARE: u64 = FULL_SHARE as u64 / 10;

/// The duration of slow start, and the share at which it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ramp {
    /// Nanoseconds until the whole share is reached.
    duration: u64,
    /// The share at which the ramp ends, at least [`FULL_SHARE`].
    end: u32,
}

impl Ramp {
    /// Creates a ramp that ends at the whole share. With a duration of zero there is no slow
    /// start.
    pub(crate) fn new(duration: Duration) -> Self {
        Self {
            duration: u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX),
            end: FULL_SHARE,
        }
    }

    /// Returns the ramp with its end at `times` the whole share.
    pub(crate) fn up_to(self, times: u64) -> Self {
        let end = u32::try_from(times.saturating_mul(FULL_SHARE.into())).unwrap_or(u32::MAX);
        Self { end, ..self }
    }

    /// Whether slow start is disabled.
    pub(crate) const fn is_none(self) -> bool {
        self.duration == 0
    }

    /// Returns the share after `elapsed` nanoseconds, or `None` if the ramp has ended.
    pub(crate) fn share_after(self, elapsed: u64) -> Option<u32> {
        let whole = elapsed.checked_div(self.duration)?;
        let rest = u128::from(elapsed % self.duration) * u128::from(FULL_SHARE);
        // `part` is less than FULL_SHARE, so the cast is lossless.
        let part = (rest / u128::from(self.duration)) as u64;
        let share = match whole {
            0 => part.max(FIRST_SHARE),
            1..=31 => (u64::from(FULL_SHARE) + part) << (whole - 1),
            _ => return None,
        };
        u32::try_from(share).ok().filter(|&share| share < self.end)
    }

    /// Returns the share after `elapsed` nanoseconds and the time left until the whole share
    /// is reached, or `None` if it has been reached.
    pub(crate) fn progress(self, elapsed: u64) -> Option<(u32, Duration)> {
        let share = self
            .share_after(elapsed)
            .filter(|&share| share < FULL_SHARE)?;
        let remaining = self.duration.saturating_sub(elapsed);
        Some((share, Duration::from_nanos(remaining)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn share_grows_linearly_from_a_tenth() {
        let ramp = Ramp::new(Duration::from_secs(10));
        let at = |seconds| ramp.share_after(seconds * SECOND);
        assert_eq!(
            (at(0), at(1), at(2), at(5)),
            (Some(102), Some(102), Some(204), Some(512))
        );
        assert_eq!((at(10), at(u64::MAX / SECOND)), (None, None));
        assert_eq!(Ramp::new(Duration::ZERO).share_after(0), None);
    }

    #[test]
    fn remaining_time_counts_to_the_whole_share() {
        let ramp = Ramp::new(Duration::from_secs(10));
        for ramp in [ramp, ramp.up_to(6)] {
            let at = |seconds| ramp.progress(seconds * SECOND);
            assert_eq!(at(0), Some((102, Duration::from_secs(10))));
            assert_eq!(at(4), Some((409, Duration::from_secs(6))));
            assert_eq!((at(10), at(15)), (None, None));
        }
        assert_eq!(Ramp::new(Duration::ZERO).progress(0), None);
    }

    #[test]
    fn share_doubles_beyond_the_whole() {
        let ramp = Ramp::new(Duration::from_secs(10)).up_to(6);
        let at = |seconds| {
            ramp.share_after(seconds * SECOND)
                .map(|r| f64::from(r) / 1024.0)
        };
        assert_eq!(
            [5, 10, 15, 20, 25].map(at),
            [0.5, 1.0, 1.5, 2.0, 3.0].map(Some)
        );
        assert_eq!((at(30), at(35), at(1_000_000)), (Some(4.0), None, None));
    }

    proptest! {
        #[test]
        fn share_never_shrinks_and_is_never_zero(
            duration in 1..=u64::MAX, times in 1..=u64::MAX, one: u64, other: u64,
        ) {
            let ramp = Ramp::new(Duration::from_nanos(duration)).up_to(times);
            let [early, late] = [one.min(other), one.max(other)].map(|at| ramp.share_after(at));
            let end = |share: Option<u32>| share.unwrap_or(u32::MAX);
            prop_assert!(end(early) >= 102 && end(early) <= end(late));
        }
    }
}
