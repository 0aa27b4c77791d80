//! Weighted round robin without bursts and without a lock.
//!
//! Earliest deadline first: each server has a virtual time at which it is due, and the server
//! that is due first is next. A pick moves the server's deadline on by 1 / weight, so a server
//! of weight 5 among five of weight 1 gets every second connection and never five in a row.
//! Between any two moments each server gets the connections that its weight says, give or take
//! one. Deadlines start spread over the first round; otherwise servers of the same weight would
//! stay in step.
//!
//! A pick is one compare-and-swap of the deadline that the scan saw. Deadlines only grow, so if
//! the swap succeeds, no other server was due earlier: n picks by any number of threads are the
//! n picks that one thread would have made.
//!
//! A server that was not available for a while does not make up for the picks it missed: it is
//! due once, now.
//!
//! Source: Envoy's `edf_scheduler.h`. nginx's smooth weighted round robin has the same effect
//! under a lock.

use super::{
    picker::{Acquired, PickContext, Picker, Servers},
    sample::scale_below,
    slow_start::FULL_SHARE,
};
use crate::{
    spec::Weight,
    sync::{AtomicU64, Ordering},
};

/// Virtual time between two picks of a server of weight 1. For the largest weight it is 256,
/// which bounds the rounding error to 1 %; a server of weight 1 can be picked 10^12 times.
const ROUND: u64 = 1 << 24;

/// The schedule of one set of servers.
#[derive(Debug)]
pub(crate) struct RoundRobin {
    deadlines: Box<[AtomicU64]>,
    /// The deadline of the latest pick. Earlier deadlines count as this one.
    time: AtomicU64,
}

impl RoundRobin {
    pub(super) fn new(weights: impl Iterator<Item = Weight>, seed: u64) -> Self {
        // Steps of the golden ratio spread any number of points evenly.
        let point = |position: u64| seed.wrapping_add(position.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let deadlines = weights.zip(0..).map(|(weight, position)| {
            let share = u32::from(weight.get()) * FULL_SHARE;
            AtomicU64::new(scale_below(point(position), interval(share)))
        });
        Self {
            deadlines: deadlines.collect(),
            time: AtomicU64::new(0),
        }
    }

    /// Takes the next position among the open servers.
    fn next<S: Servers>(&self, context: &PickContext<'_, S>) -> Option<usize> {
        loop {
            let time = self.time.load(Ordering::Relaxed);
            let earliest = context
                .all()
                .zip(&self.deadlines)
                .enumerate()
                .filter_map(|(position, (open, deadline))| {
                    Some((deadline.load(Ordering::Relaxed), position, open?.share()))
                })
                // Among several that are overdue, the one that has waited longest.
                .min_by_key(|&(deadline, position, _)| (deadline.max(time), deadline, position));
            let (seen, position, share) = earliest?;
            let due = seen.max(time);
            let next = due + interval(share);
            let slot = &self.deadlines[position];
            if slot
                .compare_exchange(seen, next, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok()
            {
                self.time.fetch_max(due, Ordering::Relaxed);
                return Some(position);
            }
        }
    }
}

impl Picker for RoundRobin {
    fn pick<S: Servers>(&self, context: &PickContext<'_, S>) -> Option<Acquired> {
        loop {
            let position = self.next(context)?;
            // If a concurrent pick changed the word of the server, retry with the same server.
            let acquired = context.acquire_with(|| {
                let open = context.open(position)?;
                Some((position, open.word))
            });
            if acquired.is_some() {
                return acquired;
            }
        }
    }
}

/// Virtual time between two picks of a server with this share.
fn interval(share: u32) -> u64 {
    ROUND * u64::from(FULL_SHARE) / u64::from(share)
}
