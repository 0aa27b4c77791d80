//! Picking a server: whether it is a candidate, and counting a connection on it.

use std::{num::NonZeroU32, time::Instant};

use super::{
    CLOSED, CONNECTING_SHIFT, DIALLED_UNAVAILABLE, DOWN, EJECTED, FAILED_RECENTLY, MAX_IN_FLIGHT,
    RAMPING, RESERVED, Server, TOO_MANY_IN_FLIGHT, connecting, count,
};
use crate::{balance::slow_start::Ramp, health::Availability, sync::Ordering};

impl Server {
    /// Returns the server if it may be picked at `now` and is not in slow start. Sets
    /// `ramping` if the server is in slow start.
    ///
    /// `QUEUED`: the pick is for a connection that waited in the queue, so it may use slots
    /// that are reserved for the queue.
    pub(crate) fn steady<const QUEUED: bool>(
        &self,
        now: Instant,
        ramping: &mut bool,
    ) -> Option<Candidate> {
        let word = self.word.load(Ordering::Acquire);
        let in_flight = count(word);
        // One test for everything that is unusual.
        let unusual = closed(QUEUED) | EJECTED | RAMPING | FAILED_RECENTLY | TOO_MANY_IN_FLIGHT;
        if word & unusual != 0 {
            return self.steady_with_flags::<QUEUED>(word, now, ramping);
        }
        Some(Candidate::steady(word, in_flight))
    }

    // Not inlined, so that the loop over the servers can use all registers.
    #[cold]
    #[inline(never)]
    fn steady_with_flags<const QUEUED: bool>(
        &self,
        word: u64,
        now: Instant,
        ramping: &mut bool,
    ) -> Option<Candidate> {
        if word & (closed(QUEUED) | TOO_MANY_IN_FLIGHT) != 0 {
            return None;
        }
        if word & EJECTED != 0 {
            // A server on trial gets one connection at a time, so slow start does not apply
            // to it.
            if !self.condition.lock().health.trial_is_due(now) {
                return None;
            }
        } else if word & RAMPING != 0 {
            *ramping = true;
            return None;
        }
        Some(Candidate::steady(word, self.load(word, now)))
    }

    /// The connections in flight, plus the failures of the last second.
    fn load(&self, word: u64, now: Instant) -> u32 {
        let failures = if word & FAILED_RECENTLY == 0 {
            0
        } else {
            self.recent_failures(now)
        };
        count(word).saturating_add(failures)
    }

    /// Like [`Self::steady`], but includes a server in slow start. Clears the slow start
    /// state of a server whose ramp has ended.
    pub(crate) fn available<const QUEUED: bool>(
        &self,
        now: Instant,
        ramp: Ramp,
    ) -> Option<Candidate> {
        let mut ramping = false;
        let steady = self.steady::<QUEUED>(now, &mut ramping);
        if !ramping {
            return steady;
        }
        let Some(share) = self.ramp_share(now, ramp) else {
            self.end_ramp();
            // If another thread has started a new ramp, the next pick applies that ramp.
            return self.steady::<QUEUED>(now, &mut ramping);
        };
        let word = self.word.load(Ordering::Acquire);
        let is_open = word & closed(QUEUED) == 0 && word & TOO_MANY_IN_FLIGHT == 0;
        is_open.then(|| Candidate {
            word,
            load: self.load(word, now),
            ramp: Some(share),
        })
    }

    /// Like [`Self::available`], but also returns an ejected server, and with `down` a server
    /// that is down. Picks use this method while no server is available.
    pub(crate) fn candidate_if_unavailable<const QUEUED: bool>(
        &self,
        now: Instant,
        down: bool,
    ) -> Option<Candidate> {
        let word = self.word.load(Ordering::Acquire);
        let closed = closed(QUEUED) & if down { !DOWN } else { u64::MAX };
        let is_open = word & closed == 0 && word & TOO_MANY_IN_FLIGHT == 0;
        is_open.then(|| Candidate::steady(word, self.load(word, now)))
    }

    /// Counts one more connection, unless the word has changed from `seen`. Returns whether
    /// the connection was counted.
    ///
    /// On an ejected server, this connection is the trial. The trial is recorded only after
    /// the connection was counted: if counting fails because another connection ended
    /// concurrently, the next trial must not be delayed. The lock is held during both steps,
    /// so that only one trial begins.
    #[inline]
    pub(crate) fn try_acquire(&self, seen: u64, counting: Counting, now: Instant) -> bool {
        if seen & EJECTED == 0 {
            self.count_one(seen, counting)
        } else {
            self.try_acquire_for_trial(seen, counting, now)
        }
    }

    #[cold]
    fn try_acquire_for_trial(&self, seen: u64, counting: Counting, now: Instant) -> bool {
        let mut condition = self.condition.lock();
        let acquired = condition.health.trial_is_due(now) && self.count_one(seen, counting);
        if acquired {
            condition.health.start_trial(now);
        }
        acquired
    }

    fn count_one(&self, seen: u64, counting: Counting) -> bool {
        let counted = seen + counting.0;
        self.word
            .compare_exchange(seen, counted, Ordering::AcqRel, Ordering::Relaxed)
            .is_ok()
    }

    /// Like [`Self::try_acquire`], but for a server that is picked while no server is
    /// available. The second value is whether this is the first such connection since the
    /// server was last available.
    pub(crate) fn try_acquire_unavailable(&self, seen: u64, counting: Counting) -> (bool, bool) {
        let is_unhealthy = seen & (DOWN | EJECTED) != 0;
        let is_first = is_unhealthy && seen & DIALLED_UNAVAILABLE == 0;
        let mark = if is_first { DIALLED_UNAVAILABLE } else { 0 };
        let counted = self.word.compare_exchange(
            seen,
            (seen + counting.0) | mark,
            Ordering::AcqRel,
            Ordering::Relaxed,
        );
        (counted.is_ok(), is_first)
    }

    /// Ends the dial of a connection that was acquired with [`Counting::DIAL`]. The connection
    /// still counts as a connection.
    pub(crate) fn dialled(&self) {
        let dial = Counting::DIAL.0 - Counting::CONNECTION.0;
        let before = self.word.fetch_sub(dial, Ordering::AcqRel);
        debug_assert_ne!(connecting(before), 0, "a dial was ended twice");
    }

    /// Decreases the counts that [`Self::try_acquire`] has increased.
    pub(crate) fn release(&self, counting: Counting) {
        let before = self.word.fetch_sub(counting.0, Ordering::AcqRel);
        debug_assert_ne!(count(before), 0, "a lease was released twice");
        if before & RESERVED != 0 {
            self.slot_freed();
        }
    }

    #[cold]
    #[inline(never)]
    fn slot_freed(&self) {
        if let Some(group) = self.group.upgrade() {
            group.slots().freed(self);
        }
    }

    /// Reserves the free slots of the server for the queue. Returns `false` if they are
    /// reserved already.
    pub(crate) fn reserve(&self) -> bool {
        if self.word.load(Ordering::Acquire) & RESERVED != 0 {
            return false;
        }
        self.update(|word| word | RESERVED);
        true
    }

    pub(crate) fn end_reservation(&self) {
        self.update(|word| word & !RESERVED);
    }

    /// The time from which an ejected server may be used for a trial connection. `None`: the
    /// server is not ejected, or cannot be picked for another reason.
    pub(crate) fn trial_at(&self) -> Option<Instant> {
        let word = self.word.load(Ordering::Acquire);
        if word & CLOSED != 0 || word & EJECTED == 0 {
            return None;
        }
        match self.condition.lock().health.availability() {
            Availability::Ejected(until) => Some(until),
            _ => None,
        }
    }

    /// Whether the server is available at `now`, or may be used for a trial connection. Ignores
    /// `max_conns` and reservations.
    pub(crate) fn is_available_at(&self, now: Instant) -> bool {
        let word = self.word.load(Ordering::Acquire);
        word & CLOSED == 0
            && (word & EJECTED == 0 || self.condition.lock().health.trial_is_due(now))
    }

    pub(crate) const fn name_hash(&self) -> u64 {
        self.name_hash
    }
}

/// The states in which a server is not picked.
const fn closed(queued: bool) -> u64 {
    if queued { CLOSED } else { CLOSED | RESERVED }
}

/// How a connection is counted on its server: what it adds to the state word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Counting(u64);

impl Counting {
    pub(crate) const CONNECTION: Self = Self(1);
    /// As a connection and as a dial in progress.
    pub(crate) const DIAL: Self = Self(1 | 1 << CONNECTING_SHIFT);
}

/// A maximum of dials in progress on one server.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DialLimit {
    /// The smallest word at the limit. Dials are counted in the highest bits of the word, so
    /// one comparison is enough.
    first_word: u64,
}

impl DialLimit {
    pub(crate) const NONE: Self = Self {
        first_word: u64::MAX,
    };

    pub(crate) fn new(max: NonZeroU32) -> Self {
        let first_word = u64::from(max.get().min(MAX_IN_FLIGHT)) << CONNECTING_SHIFT;
        Self { first_word }
    }

    pub(crate) const fn is_reached(self, word: u64) -> bool {
        word >= self.first_word
    }
}

/// A server that could be picked when it was read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Candidate {
    pub(crate) word: u64,
    /// Connections in flight plus failures of the last second.
    pub(crate) load: u32,
    /// Share that the server has reached in slow start; [`FULL_SHARE`] is the whole share.
    ///
    /// [`FULL_SHARE`]: crate::balance::slow_start::FULL_SHARE
    pub(crate) ramp: Option<u32>,
}

impl Candidate {
    const fn steady(word: u64, load: u32) -> Self {
        Self {
            word,
            load,
            ramp: None,
        }
    }

    /// Connections in flight.
    pub(crate) const fn in_flight(self) -> u32 {
        count(self.word)
    }
}
