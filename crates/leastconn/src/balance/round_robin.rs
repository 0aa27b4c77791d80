//! Weighted round robin without bursts and without a lock.
//!
//! The algorithm is earliest deadline first: each server has a deadline in virtual time, and the
//! server with the earliest deadline is picked. A pick adds 1 / weight to the server's deadline.
//! For example, a server of weight 5 alongside five servers of weight 1 gets every second
//! connection and never five in a row. In any sequence of picks, a server's number of connections
//! is close to its share by weight; the test `round_robin_is_even_in_every_window` checks the
//! bound. The initial deadlines are spread over one round. Otherwise servers of the same weight
//! would always be due at the same time.
//!
//! A pick is one compare-and-swap of the deadline that the scan has read. Deadlines only grow, so
//! if the compare-and-swap succeeds, no other server has an earlier deadline. Therefore `n` picks
//! by several threads choose the same servers as `n` picks by one thread.
//!
//! A server that returns after being unavailable does not make up for the picks that it missed: its
//! old deadline is treated as equal to the deadline of the latest pick.
//!
//! Source: Envoy's `edf_scheduler.h`. nginx's smooth weighted round robin has the same effect, but
//! needs a lock.

use super::{
    picker::{Acquired, PickContext, Picker, Servers},
    sample::scale_below,
    slow_start::FULL_SHARE,
};
use crate::{
    spec::Weight,
    sync::{AtomicU64, Ordering},
};

/// Virtual time between two picks of a server of weight 1. For a server of the largest weight it is
/// 256, which limits the rounding error to 1 %. A server of weight 1 can be picked 10^12 times
/// before virtual time overflows.
const ROUND: u64 = 1 << 24;

/// The servers' deadlines, shared by all picks.
#[derive(Debug)]
pub(crate) struct RoundRobin {
    deadlines: Box<[AtomicU64]>,
    /// The deadline of the latest pick. Server deadlines before this time are treated as equal to
    /// it.
    time: AtomicU64,
}

impl RoundRobin {
    pub(super) fn new(weights: impl Iterator<Item = Weight>, seed: u64) -> Self {
        // Multiples of the golden ratio are spread evenly, whatever the number of positions.
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

    /// Returns the position of the next open server and advances its deadline.
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
                // Among overdue servers, pick the server with the earliest deadline.
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
            // If a concurrent pick has changed the server's state word, retry with the same server.
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

/// Virtual time between two picks of a server with this share of new connections.
fn interval(share: u32) -> u64 {
    ROUND * u64::from(FULL_SHARE) / u64::from(share)
}
