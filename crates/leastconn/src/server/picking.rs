//! Picking a server: whether it is a candidate, and counting a connection on it.

use std::time::Instant;

use super::{CLOSED, DIALLED_UNAVAILABLE, DOWN, EJECTED, OUT_OF_SERVICE, RAMPING, Server, count};
use crate::{balance::slow_start::Ramp, sync::Ordering};

impl Server {
    /// Returns the word and the number of connections in flight if the server may be picked
    /// at `now` and is not in slow start. Sets `ramping` if the server is in slow start.
    pub(crate) fn steady(&self, now: Instant, ramping: &mut bool) -> Option<(u64, u32)> {
        let word = self.word.load(Ordering::Acquire);
        let in_flight = count(word);
        if word & CLOSED != 0 || in_flight == u32::MAX {
            return None;
        }
        if word & (EJECTED | RAMPING) != 0 {
            if word & EJECTED == 0 {
                *ramping = true;
                return None;
            }
            // A server on trial gets one connection at a time, so slow start does not apply
            // to it.
            if !self.trial_is_due(now) {
                return None;
            }
        }
        Some((word, in_flight))
    }

    // Not inlined into the scan of a pick, so that the scan can use all registers.
    #[cold]
    #[inline(never)]
    fn trial_is_due(&self, now: Instant) -> bool {
        self.condition.lock().health.trial_is_due(now)
    }

    /// Like [`Self::steady`], but includes a server in slow start. Clears the slow start
    /// state of a server whose ramp has ended.
    pub(crate) fn available(&self, now: Instant, ramp: Ramp) -> Option<Candidate> {
        let mut ramping = false;
        let steady = self.steady(now, &mut ramping);
        if !ramping {
            return steady.map(Candidate::steady);
        }
        let Some(share) = self.ramp_share(now, ramp) else {
            self.end_ramp();
            // If another thread has started a new ramp, the next pick applies that ramp.
            return self.steady(now, &mut ramping).map(Candidate::steady);
        };
        let word = self.word.load(Ordering::Acquire);
        let is_open = word & CLOSED == 0 && count(word) != u32::MAX;
        is_open.then_some(Candidate {
            word,
            in_flight: count(word),
            ramp: Some(share),
        })
    }

    /// Like [`Self::available`], but also returns an ejected server, and with `down` a server
    /// that is down. Picks use this method while no server is available.
    pub(crate) fn candidate_if_unavailable(&self, down: bool) -> Option<Candidate> {
        let word = self.word.load(Ordering::Acquire);
        let closed = if down { OUT_OF_SERVICE } else { CLOSED };
        let in_flight = count(word);
        (word & closed == 0 && in_flight != u32::MAX)
            .then_some(Candidate::steady((word, in_flight)))
    }

    /// Counts one more connection, unless the word has changed from `seen`. Returns whether
    /// the connection was counted.
    ///
    /// On an ejected server, this connection is the trial. The trial is recorded only after
    /// the connection was counted: if counting fails because another connection ended
    /// concurrently, the next trial must not be delayed. The lock is held during both steps,
    /// so that only one trial begins.
    #[inline]
    pub(crate) fn try_acquire(&self, seen: u64, now: Instant) -> bool {
        if seen & EJECTED == 0 {
            self.count_one(seen)
        } else {
            self.try_acquire_for_trial(seen, now)
        }
    }

    #[cold]
    fn try_acquire_for_trial(&self, seen: u64, now: Instant) -> bool {
        let mut condition = self.condition.lock();
        let acquired = condition.health.trial_is_due(now) && self.count_one(seen);
        if acquired {
            condition.health.start_trial(now);
        }
        acquired
    }

    fn count_one(&self, seen: u64) -> bool {
        self.word
            .compare_exchange(seen, seen + 1, Ordering::AcqRel, Ordering::Relaxed)
            .is_ok()
    }

    /// Like [`Self::try_acquire`], but for a server that is picked while no server is
    /// available. The second value is whether this is the first such connection since the
    /// server was last available.
    pub(crate) fn try_acquire_unavailable(&self, seen: u64) -> (bool, bool) {
        let is_unhealthy = seen & (DOWN | EJECTED) != 0;
        let is_first = is_unhealthy && seen & DIALLED_UNAVAILABLE == 0;
        let mark = if is_first { DIALLED_UNAVAILABLE } else { 0 };
        let counted = self.word.compare_exchange(
            seen,
            (seen + 1) | mark,
            Ordering::AcqRel,
            Ordering::Relaxed,
        );
        (counted.is_ok(), is_first)
    }

    /// Decreases the count that [`Self::try_acquire`] has increased.
    pub(crate) fn release(&self) {
        let before = self.word.fetch_sub(1, Ordering::AcqRel);
        debug_assert_ne!(count(before), 0, "a lease was released twice");
    }

    pub(crate) const fn name_hash(&self) -> u64 {
        self.name_hash
    }
}

/// A server that could be picked when it was read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Candidate {
    pub(crate) word: u64,
    pub(crate) in_flight: u32,
    /// Share that the server has reached in slow start; [`FULL_SHARE`] is the whole share.
    pub(crate) ramp: Option<u32>,
}

impl Candidate {
    const fn steady((word, in_flight): (u64, u32)) -> Self {
        Self {
            word,
            in_flight,
            ramp: None,
        }
    }
}
