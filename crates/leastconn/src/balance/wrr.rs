//! Turns by weight, without bursts and without a lock.
//!
//! Each candidate has the time at which its next turn is due, in a time of its own that
//! only turns move: a turn moves it on by 1 / weight. Who is due first is next, so a
//! candidate of weight 5 among five of weight 1 has every second turn, and no five in a
//! row. Between any two moments each has as many turns as its weight says, give or take
//! one. Candidates begin at different points of their first round, or those of the same
//! weight would stay together.
//!
//! Taking a turn is one compare-and-swap of what the scan saw. Times only grow, so if
//! it succeeds, nobody was due earlier: for any number of threads, n turns are the n
//! that one thread would have had.
//!
//! A candidate that was not available for a while has turns left from the past, which
//! are not made up for: it is due now, once.
//!
//! Source: earliest deadline first, as in Envoy's `edf_scheduler.h`; nginx's smooth
//! weighted round robin has the same effect, under a lock.

use crate::{
    Weight,
    balance::least_conn::below,
    balance::slow_start::FULL,
    sync::{AtomicU64, Ordering},
};

/// The time that a turn takes at weight 1. For the largest weight it is 256, whose
/// rounding is below 1 in 100; and a server of weight 1 may have 10^12 turns.
const ROUND: u64 = 1 << 24;

#[derive(Debug)]
pub(crate) struct Turns {
    due: Box<[AtomicU64]>,
    /// When the last turn was due: nobody is due before.
    time: AtomicU64,
}

impl Turns {
    pub(crate) fn new(weights: impl Iterator<Item = Weight>, seed: u64) -> Self {
        // The golden ratio spreads any number of points evenly.
        let point = |position: u64| seed.wrapping_add(position.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let due = weights.zip(0..).map(|(weight, position)| {
            let share = u32::from(weight.get()) * FULL;
            AtomicU64::new(below(point(position), length(share)))
        });
        Self {
            due: due.collect(),
            time: AtomicU64::new(0),
        }
    }

    /// Takes the next turn among the candidates, which come with their shares and stand
    /// in the order in which the turns were made. `None`: there is no candidate.
    pub(crate) fn next<T, I>(&self, candidates: impl Fn() -> I) -> Option<(usize, T)>
    where
        I: Iterator<Item = Option<(u32, T)>>,
    {
        loop {
            let time = self.time.load(Ordering::Relaxed);
            let seen = candidates().zip(&self.due).enumerate();
            let first = seen
                .filter_map(|(position, (candidate, due))| {
                    let (share, with) = candidate?;
                    Some((due.load(Ordering::Relaxed), position, share, with))
                })
                // Of several from the past, the one that has waited longest.
                .min_by_key(|&(due, position, ..)| (due.max(time), due, position));
            let (seen, position, share, with) = first?;
            let due = seen.max(time);
            let next = due + length(share);
            let slot = &self.due[position];
            if slot
                .compare_exchange(seen, next, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok()
            {
                self.time.fetch_max(due, Ordering::Relaxed);
                return Some((position, with));
            }
        }
    }
}

/// The time that a turn takes.
fn length(share: u32) -> u64 {
    ROUND * u64::from(FULL) / u64::from(share)
}
