//! Slow start: how fast a new or recovered server ramps up to its share of connections.
//!
//! A server with cold caches must not get a surge of new connections. Least connections sends all
//! new connections to an empty server until it has as many connections as the other servers. A
//! reduced weight does not prevent this: with a tenth of its weight, the server still gets all new
//! connections until it has a tenth of another server's connections. Slow start therefore limits
//! the fraction of *new* connections that a server gets.
//!
//! During the configured `slow_start` time, the server's share grows linearly from a tenth of its
//! share by weight to the whole. It starts at a tenth, as in Envoy (`min_weight_percent`). This is
//! enough to show that the server works and to warm its caches. With a lower share, a server of a
//! small site would get no connections at first.
//!
//! With [`Balance::LeastConn`], the limit also depends on how many connections the server lacks;
//! see [`new_connection_limit`]:
//!
//! - If the server already has as many connections as its share implies, the limit equals the
//!   share. This is the case if connections are short.
//! - If the server has fewer connections, the limit grows faster, up to [`CATCH_UP_SHARE`].
//! - After `slow_start`, the limit stays at [`CATCH_UP_SHARE`] until the server has as many
//!   connections as the other servers.
//! - A server whose connections end sooner than those of the other servers never catches up. After
//!   [`CATCH_UP_PERIODS`] periods of `slow_start`, the limit therefore doubles with each further
//!   period, until the server may get every new connection.
//!
//! The ramp starts with the first pick that could have chosen the server. Recording a recovery
//! therefore needs no clock, and time without connections does not count as warm-up.
//!
//! [`Balance::LeastConn`]: crate::Balance::LeastConn

use std::time::Duration;

/// A server's whole share, in the unit that all shares use.
pub(crate) const FULL_SHARE: u32 = 1024;

/// The share at the start of a ramp.
const FIRST_SHARE: u64 = FULL_SHARE as u64 / 10;

/// The largest limit for new connections to a server that lacks connections: 1.4 times its share.
/// With exponentially distributed durations, such a server has caught up with the other servers
/// after 1.25 times the mean duration.
const CATCH_UP_SHARE: u64 = FULL_SHARE as u64 * 14 / 10;

/// How much faster than the share the limit grows while the server has no connections.
const CATCH_UP_SLOPE: u64 = 3;

/// The number of `slow_start` periods after which the limit grows beyond [`CATCH_UP_SHARE`].
const CATCH_UP_PERIODS: u64 = 60;

/// Returns the limit for the share of new connections that a server in slow start gets with least
/// connections. `share` is the share that its ramp has reached. `present` is its load divided by
/// the lowest load among the servers that are not in slow start. Both are in units of 1 /
/// [`FULL_SHARE`].
pub(crate) fn new_connection_limit(share: u32, present: u64) -> u64 {
    let share = u64::from(share);
    if share >= FULL_SHARE.into() {
        return share * CATCH_UP_SHARE / u64::from(FULL_SHARE);
    }
    let lacking = share.saturating_sub(present);
    let growth = share.saturating_sub(FIRST_SHARE);
    (share + CATCH_UP_SLOPE * growth * lacking / share.max(1)).min(CATCH_UP_SHARE)
}

/// The duration of slow start and the share at which it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ramp {
    /// Nanoseconds until the whole share is reached.
    duration: u64,
    /// The share at which the ramp ends, at least [`FULL_SHARE`].
    end: u32,
}

impl Ramp {
    /// Creates a ramp that ends at the whole share. A duration of zero disables slow start.
    pub(crate) fn new(duration: Duration) -> Self {
        Self {
            duration: u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX),
            end: FULL_SHARE,
        }
    }

    /// Returns the same ramp, but ending at `times` the whole share.
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
        let share = match whole.checked_sub(CATCH_UP_PERIODS) {
            None if whole == 0 => part.max(FIRST_SHARE),
            None => FULL_SHARE.into(),
            Some(doubled @ 0..32) => (u64::from(FULL_SHARE) + part) << doubled,
            Some(_) => return None,
        };
        u32::try_from(share).ok().filter(|&share| share < self.end)
    }

    /// Returns the share after `elapsed` nanoseconds and the time left until the whole share is
    /// reached, or `None` if it has already been reached.
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
    fn share_doubles_after_sixty_periods() {
        let ramp = Ramp::new(Duration::from_secs(10)).up_to(6);
        let at = |seconds| {
            ramp.share_after(seconds * SECOND)
                .map(|r| f64::from(r) / 1024.0)
        };
        assert_eq!(
            [5, 10, 15, 600, 605, 610, 615].map(at),
            [0.5, 1.0, 1.0, 1.0, 1.5, 2.0, 3.0].map(Some)
        );
        assert_eq!((at(620), at(625), at(1_000_000)), (Some(4.0), None, None));
    }

    #[test]
    fn limit_depends_on_the_connections_that_are_lacking() {
        // At first the limit is a tenth, however many connections the server lacks.
        assert_eq!(new_connection_limit(102, 0), 102);
        // With as many connections as expected or more, the limit is the share.
        assert_eq!(
            [512, 1024].map(|present| new_connection_limit(512, present)),
            [512, 512]
        );
        // The server has half as many connections as expected.
        assert_eq!(new_connection_limit(512, 256), 512 + 3 * 410 / 2);
        // The server has few connections, first during slow start and then after it.
        let most = 1024 * 14 / 10;
        assert_eq!(new_connection_limit(900, 25), most);
        assert_eq!(new_connection_limit(1024, 1000), most);
        assert_eq!(new_connection_limit(2048, 25), 2 * most);
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

        #[test]
        fn limit_is_between_share_and_catch_up_share(
            share in 102..=FULL_SHARE, present: u64,
        ) {
            let limit = new_connection_limit(share, present);
            prop_assert!(u64::from(share) <= limit && limit <= CATCH_UP_SHARE);
        }
    }
}
