//! Least connections, weighted and exact.
//!
//! The next connection goes to the server with the smallest `(in_flight + 1) / weight`, that
//! is, where it adds the least load. Counting the new connection makes an idle server of
//! weight 1 lose against an idle one of weight 5. Fractions are compared by cross
//! multiplication: exact, and without a division.
//!
//! Ties are the normal case (in an idle pool all servers are tied). Starting the scan at a
//! random position and taking the first would favour a server that follows one that is not
//! tied. Instead each server gets a pseudo-random number from the seed and its position, and
//! the smallest number among the tied wins.
//!
//! The scan is followed by a compare-and-swap of the word that it saw; if that fails, the scan
//! starts again. While only picks run, counts only grow, so a server that was the least loaded
//! when it was seen, and has the same count now, still is: n concurrent connections on m equal
//! servers never differ by more than one, for any number of threads.
//!
//! Cost: one cache line and one or two multiplications per server.
//!
//! Source: HAProxy `lb_fwlc.c` (load plus one over weight); Envoy issue 31146 (ties must not go
//! to the first host).

use std::cmp::Ordering;

use super::{
    p2c::better_of_two,
    picker::{Acquired, Load, Open, PickContext, Picker, Servers},
    sample::{mix64, scale_below},
    slow_start::FULL_SHARE,
};

#[derive(Debug)]
pub(crate) struct LeastConn;

impl Picker for LeastConn {
    // Not inlined among the other algorithms, so that the scan has all registers.
    #[inline(never)]
    fn pick<S: Servers>(&self, context: &PickContext<'_, S>) -> Option<Acquired> {
        loop {
            let mut ramping = false;
            let steady = context.servers.steady(context.now, &mut ramping);
            let loads = steady.map(|steady| steady.map(|s| (s.load, s.word)));
            let chosen = least(loads, context.next_seed());
            if ramping {
                return pick_beside_ramping(context);
            }
            let (position, word) = chosen?;
            if let Some(acquired) = context.try_acquire(position, word) {
                return Some(acquired);
            }
        }
    }
}

const fn load(open: Open) -> Load {
    Load {
        in_flight: open.in_flight,
        weight: open.weight,
    }
}

/// The candidate with the least load: its position, and what came with its load. Skips `None`.
fn least<T>(candidates: impl Iterator<Item = Option<(Load, T)>>, seed: u64) -> Option<(usize, T)> {
    let mut best: Option<(usize, Load, T)> = None;
    for (position, candidate) in candidates.enumerate() {
        let Some((load, payload)) = candidate else {
            continue;
        };
        let is_better = best
            .as_ref()
            .is_none_or(|&(held, least, _)| match load.compare(least) {
                Ordering::Less => true,
                Ordering::Equal => mix64(seed, position) < mix64(seed, held),
                Ordering::Greater => false,
            });
        if is_better {
            best = Some((position, load, payload));
        }
    }
    best.map(|(position, _, payload)| (position, payload))
}

/// Least connections while servers are in slow start. At most one of those takes part in a
/// pick, drawn so that each gets no more than the ramp allows of all new connections; it wins
/// only if no other server has less load.
///
/// If all open servers are in slow start, those past their whole share take part as if they
/// were steady. If there are none of these either, the better of two drawn by progress wins:
/// no server can be spared, yet the newest must not get every connection.
#[cold]
#[inline(never)]
fn pick_beside_ramping<S: Servers>(context: &PickContext<'_, S>) -> Option<Acquired> {
    context.acquire_with(|| {
        let seed = context.next_seed();
        let open = open_servers(context);
        let is_steady: fn(Open) -> bool = |open| open.ramp.is_none();
        let has_full_share: fn(Open) -> bool =
            |open| open.ramp.is_none_or(|ramp| ramp >= FULL_SHARE);
        let takes_part = [is_steady, has_full_share]
            .into_iter()
            .find(|is| open.iter().any(|&(_, open)| is(open)));
        let Some(takes_part) = takes_part else {
            return better_of_two(context, seed);
        };
        // The slice of new connections that each of the other servers may get.
        let slice = |open: Open| {
            let ramp = open.ramp.filter(|_| !takes_part(open));
            u64::from(open.weight.get()) * u64::from(ramp.unwrap_or(0))
        };
        let sum = |of: &dyn Fn(Open) -> u64| open.iter().map(|&(_, open)| of(open)).sum();
        let slices: u64 = sum(&slice);
        let whole: u64 = sum(&|open| u64::from(open.weight.get()) * u64::from(FULL_SHARE));
        let mut point = scale_below(mix64(seed, open.len()), whole.max(slices));
        let mut drawn = None;
        for &(position, open) in &open {
            let slice = slice(open);
            if point < slice {
                drawn = Some((position, open));
                break;
            }
            point -= slice;
        }
        let loads = open
            .iter()
            .map(|&(position, open)| takes_part(open).then_some((load(open), (position, open))));
        let (_, least) = least(loads, seed)?;
        // The drawn server wins ties: how often it may win was decided by the draw.
        let (position, open) = drawn
            .filter(|drawn| load(least.1).compare(load(drawn.1)) != Ordering::Less)
            .unwrap_or(least);
        Some((position, open.word))
    })
}

/// All open servers. A server in slow start ramps beyond its whole share here, until it may
/// get every new connection.
fn open_servers<S: Servers>(context: &PickContext<'_, S>) -> Vec<(usize, Open)> {
    (0..context.servers.len())
        .filter_map(|position| {
            let weight = u64::from(context.servers.weight(position).get());
            let ramp = context.ramp.up_to(context.weights.total.div_ceil(weight));
            let open = context.servers.open(position, context.now, ramp)?;
            Some((position, open))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::Weight;

    /// From pairs of in-flight connections and weight. Weight 0 marks an unavailable server.
    fn loads(of: &[(u32, u32)]) -> impl Iterator<Item = Option<(Load, ())>> {
        of.iter().map(|&(in_flight, weight)| {
            Weight::new(weight).map(|weight| (Load { in_flight, weight }, ()))
        })
    }

    proptest! {
        #[test]
        fn picked_server_has_the_least_load(
            table in prop::collection::vec((prop_oneof![0u32..6, any::<u32>()], 0u32..6), 0..12),
            seed: u64,
        ) {
            // Division in fixed point with 64 fractional bits. That is precise enough: different
            // loads differ by at least 1 / (65,535 * 65,535).
            let load = |(in_flight, weight): (u32, u32)| {
                (weight > 0).then(|| ((u128::from(in_flight) + 1) << 64) / u128::from(weight))
            };
            let expected = table.iter().copied().filter_map(load).min();
            let picked = least(loads(&table), seed).map(|(position, ())| position);
            prop_assert_eq!(picked.and_then(|position| load(table[position])), expected);
            prop_assert_eq!(least(loads(&table), seed).map(|p| p.0), picked, "the same seed");
        }
    }

    #[test]
    fn least_load_per_weight_wins() {
        assert_eq!(
            least(loads(&[(3, 1), (1, 1), (2, 1)]), 7).map(|p| p.0),
            Some(1)
        );
        // (9+1)/5 would tie with (1+1)/1. (8+1)/5 is less.
        assert_eq!(least(loads(&[(1, 1), (8, 5)]), 7).map(|p| p.0), Some(1));
        assert_eq!(least(loads(&[]), 7), None);
    }

    #[test]
    fn unavailable_servers_are_skipped() {
        assert_eq!(
            least(loads(&[(0, 0), (9, 1), (0, 0)]), 7).map(|p| p.0),
            Some(1)
        );
        assert_eq!(least(loads(&[(0, 0)]), 7), None);
    }

    #[test]
    fn ties_are_broken_evenly() {
        // If the first tie after a random start won, position 2 would win half of the picks:
        // those that start at 1 or 2.
        let table = [(0, 1), (5, 1), (0, 1), (0, 1)];
        let mut wins = [0u32; 4];
        for seed in 0..30_000u64 {
            let seed = mix64(seed, 1);
            let (winner, _) = least(loads(&table), seed).unwrap();
            wins[winner] += 1;
        }
        assert_eq!(wins[1], 0);
        for winner in [0, 2, 3] {
            assert!((9_600..10_400).contains(&wins[winner]), "{wins:?}");
        }
    }
}
