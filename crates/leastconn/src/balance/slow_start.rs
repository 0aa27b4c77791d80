//! How fast a server that is new, or came back, gets to its share. Pure.
//!
//! What a cold server must be kept from is a surge of new connections: it has the
//! fewest, so least connections would give it all that come until it has as many as
//! the others. A smaller weight alone does not help: at a tenth of its weight it still
//! gets all that come, until it has a tenth of what the others have, and from then on
//! all that it takes to keep up with its growing weight. So what is bounded is its
//! part of the connections that *come*:
//!
//! - within `slow_start` a server gets at most its share by weight of them, times the
//!   part of the time that has passed, and a tenth at first;
//! - beyond, where the count decides ([`Balance::LeastConn`]), a server whose
//!   connections live for long has still fewer than its peers. What it may get goes on
//!   to grow: to twice its share at the end of the next such time, four times at the
//!   end of the one after, and so on, until it is all that come.
//!
//! A tenth at first, as in Envoy (`min_weight_percent`): enough to see that the server
//! works, and to begin to fill its caches; of nothing, a small site would never know.
//!
//! The time runs from the first pick that the server could have been in, not from when
//! it came back: no clock is needed then, and a night without connections warms nobody.
//!
//! [`Balance::LeastConn`]: crate::Balance::LeastConn

use std::time::Duration;

/// A server's whole share.
pub(crate) const FULL: u32 = 1024;

/// What there is of it at first.
const FIRST: u64 = FULL as u64 / 10;

/// How fast, and how far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pace {
    /// Nanoseconds to the whole share.
    duration: u64,
    /// What is the end, from [`FULL`] on.
    last: u32,
}

impl Pace {
    /// Up to the whole share. Without a duration, at once.
    pub(crate) fn new(duration: Duration) -> Self {
        Self {
            duration: u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX),
            last: FULL,
        }
    }

    /// Beyond the whole share, until it has `times` of it.
    pub(crate) fn up_to(self, times: u64) -> Self {
        let last = u32::try_from(times.saturating_mul(FULL.into())).unwrap_or(u32::MAX);
        Self { last, ..self }
    }

    /// Whether every server has its whole share at once.
    pub(crate) const fn is_none(self) -> bool {
        self.duration == 0
    }

    /// How far so many nanoseconds bring a server; `None`: to the end.
    pub(crate) fn reached(self, passed: u64) -> Option<u32> {
        let whole = passed.checked_div(self.duration)?;
        let rest = u128::from(passed % self.duration) * u128::from(FULL);
        // Less than FULL.
        let part = (rest / u128::from(self.duration)) as u64;
        let reached = match whole {
            0 => part.max(FIRST),
            1..=31 => (u64::from(FULL) + part) << (whole - 1),
            _ => return None,
        };
        u32::try_from(reached).ok().filter(|&r| r < self.last)
    }

    /// As [`Self::reached`] before the whole share is reached, with how long that takes
    /// from there.
    pub(crate) fn to_whole(self, passed: u64) -> Option<(u32, Duration)> {
        let reached = self.reached(passed).filter(|&reached| reached < FULL)?;
        let remaining = self.duration.saturating_sub(passed);
        Some((reached, Duration::from_nanos(remaining)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn a_share_grows_in_a_line_from_a_tenth() {
        let pace = Pace::new(Duration::from_secs(10));
        let at = |seconds| pace.reached(seconds * SECOND);
        assert_eq!(
            (at(0), at(1), at(2), at(5)),
            (Some(102), Some(102), Some(204), Some(512))
        );
        assert_eq!((at(10), at(u64::MAX / SECOND)), (None, None));
        assert_eq!(Pace::new(Duration::ZERO).reached(0), None);
    }

    #[test]
    fn what_is_left_is_counted_to_the_whole_share() {
        let pace = Pace::new(Duration::from_secs(10));
        for pace in [pace, pace.up_to(6)] {
            let at = |seconds| pace.to_whole(seconds * SECOND);
            assert_eq!(at(0), Some((102, Duration::from_secs(10))));
            assert_eq!(at(4), Some((409, Duration::from_secs(6))));
            assert_eq!((at(10), at(15)), (None, None));
        }
        assert_eq!(Pace::new(Duration::ZERO).to_whole(0), None);
    }

    #[test]
    fn beyond_the_whole_it_doubles() {
        let pace = Pace::new(Duration::from_secs(10)).up_to(6);
        let at = |seconds| {
            pace.reached(seconds * SECOND)
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
        fn it_never_shrinks_and_never_is_nothing(
            duration in 1..=u64::MAX, times in 1..=u64::MAX, one: u64, other: u64,
        ) {
            let pace = Pace::new(Duration::from_nanos(duration)).up_to(times);
            let [early, late] = [one.min(other), one.max(other)].map(|at| pace.reached(at));
            let end = |reached: Option<u32>| reached.unwrap_or(u32::MAX);
            prop_assert!(end(early) >= 102 && end(early) <= end(late));
        }
    }
}
