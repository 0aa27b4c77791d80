//! Picking a server: checking whether it is a candidate, and counting a connection on it.

use std::time::Instant;

use super::{
    CLOSED, DIALLED_UNAVAILABLE, DOWN, EJECTED, EXTERNAL, FAILED_RECENTLY, RAMPING, RESERVED,
    Server, TOO_MANY_IN_FLIGHT, connecting, count, counting::Counting, external::Confirmed,
};
use crate::{balance::slow_start::Ramp, health::Availability, sync::Ordering};

impl Server {
    /// Returns the server if it may be picked at `now` and is not in slow start. Sets `ramping` to
    /// `true` if the server is in slow start.
    ///
    /// `QUEUED`: the pick is for a connection that waited in the queue, so it may use slots that
    /// are reserved for the queue.
    pub(crate) fn steady<const QUEUED: bool>(
        &self,
        now: Instant,
        ramping: &mut bool,
    ) -> Option<Candidate> {
        let word = self.word.load(Ordering::Acquire);
        let in_flight = count(word);
        // A single test covers all unusual states.
        let unusual =
            closed(QUEUED) | EJECTED | RAMPING | FAILED_RECENTLY | EXTERNAL | TOO_MANY_IN_FLIGHT;
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
        if !self.is_open::<QUEUED>(word, now) {
            return None;
        }
        if word & EJECTED != 0 {
            // A server on trial gets one connection at a time, so slow start does not apply to it.
            if !self.condition.lock().health.trial_is_due(now) {
                return None;
            }
        } else if word & RAMPING != 0 {
            *ramping = true;
            return None;
        }
        Some(Candidate::steady(word, self.load(word, now)))
    }

    /// Whether the server has room for a connection, and is neither down nor out of service.
    fn is_open<const QUEUED: bool>(&self, word: u64, now: Instant) -> bool {
        word & (closed(QUEUED) | TOO_MANY_IN_FLIGHT) == 0 && self.has_slot(word, now)
    }

    /// Returns the connections in flight, plus the failures of the last second, plus the external
    /// load.
    fn load(&self, word: u64, now: Instant) -> u32 {
        let failures = if word & FAILED_RECENTLY == 0 {
            0
        } else {
            self.recent_failures(now)
        };
        count(word)
            .saturating_add(failures)
            .saturating_add(self.external_load_of(word))
    }

    /// Like [`Self::steady`], but includes servers in slow start. If the server's ramp has ended,
    /// clears its slow start state.
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
            // If another thread has started a new ramp, the next pick will apply it.
            return self.steady::<QUEUED>(now, &mut ramping);
        };
        let word = self.word.load(Ordering::Acquire);
        self.is_open::<QUEUED>(word, now).then(|| Candidate {
            word,
            load: self.load(word, now),
            ramp: Some(share),
        })
    }

    /// Like [`Self::available`], but also returns an ejected server and, if `down` is set, a server
    /// that is down. Picks use this method while no server is available.
    pub(crate) fn candidate_if_unavailable<const QUEUED: bool>(
        &self,
        now: Instant,
        down: bool,
    ) -> Option<Candidate> {
        let word = self.word.load(Ordering::Acquire);
        let closed = closed(QUEUED) & if down { !DOWN } else { u64::MAX };
        let is_open = word & (closed | TOO_MANY_IN_FLIGHT) == 0 && self.has_slot(word, now);
        is_open.then(|| Candidate::steady(word, self.load(word, now)))
    }

    /// Counts one more connection, unless the word has changed from `seen`. Returns whether the
    /// connection was counted.
    ///
    /// If the server is ejected, this connection is the trial. The trial is recorded only after the
    /// connection was counted: if counting fails because another connection ends at the same time,
    /// this must not delay the next trial. The lock is held during both steps, so that only one
    /// trial begins.
    #[inline]
    pub(crate) fn try_acquire<const QUEUED: bool>(
        &self,
        seen: u64,
        counting: Counting,
        now: Instant,
    ) -> bool {
        if seen & (EJECTED | EXTERNAL) == 0 {
            self.count_one(seen, counting)
        } else {
            self.try_acquire_with_flags::<QUEUED>(seen, counting, now)
        }
    }

    #[cold]
    fn try_acquire_with_flags<const QUEUED: bool>(
        &self,
        seen: u64,
        counting: Counting,
        now: Instant,
    ) -> bool {
        let count = || match self.count_one(seen, counting) {
            true => self.confirm(seen, counting, now),
            false => Confirmed::NO,
        };
        let confirmed = if seen & EJECTED == 0 {
            count()
        } else {
            let mut condition = self.condition.lock();
            let confirmed = match condition.health.trial_is_due(now) {
                true => count(),
                false => Confirmed::NO,
            };
            if confirmed == Confirmed::Yes {
                condition.health.start_trial(now);
            }
            confirmed
        };
        self.settle::<QUEUED>(confirmed)
    }

    /// Returns whether the connection is counted. If the count was reverted, serves the queue,
    /// unless the pick was made by the queue itself, which then picks again. The caller must not
    /// hold the lock of `condition`.
    fn settle<const QUEUED: bool>(&self, confirmed: Confirmed) -> bool {
        if confirmed == (Confirmed::Reverted { is_reserved: true }) && !QUEUED {
            self.slot_freed();
        }
        confirmed == Confirmed::Yes
    }

    fn count_one(&self, seen: u64, counting: Counting) -> bool {
        let counted = seen + counting.word();
        self.word
            .compare_exchange(seen, counted, Ordering::AcqRel, Ordering::Relaxed)
            .is_ok()
    }

    /// Like [`Self::try_acquire`], but for a server that is picked while no server is available.
    /// The second value tells whether this is the first such connection since the server was last
    /// available.
    pub(crate) fn try_acquire_unavailable<const QUEUED: bool>(
        &self,
        seen: u64,
        counting: Counting,
        now: Instant,
    ) -> (bool, bool) {
        let is_unhealthy = seen & (DOWN | EJECTED) != 0;
        let is_first = is_unhealthy && seen & DIALLED_UNAVAILABLE == 0;
        let mark = if is_first { DIALLED_UNAVAILABLE } else { 0 };
        let counted = self.word.compare_exchange(
            seen,
            (seen + counting.word()) | mark,
            Ordering::AcqRel,
            Ordering::Relaxed,
        );
        let is_counted =
            counted.is_ok() && self.settle::<QUEUED>(self.confirm(seen, counting, now));
        (is_counted, is_first)
    }

    /// Ends the dial of a connection that was acquired with [`Counting::DIAL`]. It still counts as
    /// a connection.
    pub(crate) fn dialled(&self) {
        let dial = Counting::DIAL.word() - Counting::CONNECTION.word();
        let before = self.word.fetch_sub(dial, Ordering::AcqRel);
        debug_assert_ne!(connecting(before), 0, "a dial was ended twice");
    }

    /// Undoes what [`Self::try_acquire`] added to the counts.
    pub(crate) fn release(&self, counting: Counting) {
        let before = self.word.fetch_sub(counting.word(), Ordering::AcqRel);
        debug_assert_ne!(count(before), 0, "a lease was released twice");
        if before & (RESERVED | EXTERNAL) != 0 {
            self.released_with_flags(before);
        }
    }

    #[cold]
    #[inline(never)]
    fn released_with_flags(&self, before: u64) {
        if before & RESERVED != 0 {
            self.slot_freed();
        }
        if before & EXTERNAL != 0 {
            self.return_slot(before);
        }
    }

    #[cold]
    #[inline(never)]
    pub(super) fn slot_freed(&self) {
        if let Some(group) = self.group.upgrade() {
            group.slots().freed(self);
        }
    }

    /// Reserves the server's free slots for the queue. Returns `false` if they were already
    /// reserved.
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

    /// Returns the time from which an ejected server may be used for a trial connection. `None`:
    /// the server is not ejected, or cannot be picked for another reason.
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

    /// Whether the server is available at `now` or may be used for a trial connection. Ignores
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

/// A server that could be picked when it was read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Candidate {
    pub(crate) word: u64,
    /// Connections in flight, plus the failures of the last second, plus the external load.
    pub(crate) load: u32,
    /// The share that the server has reached in slow start, where [`FULL_SHARE`] is the whole
    /// share.
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

    /// Returns the number of connections in flight.
    pub(crate) const fn in_flight(self) -> u32 {
        count(self.word)
    }
}
