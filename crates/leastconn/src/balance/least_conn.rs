//! Least connections, weighted and exact.
//!
//! The next connection goes to the server with the smallest `(load + 1) / weight`, the load that
//! the server would have with the new connection. Because the new connection is included, an idle
//! server of weight 5 is preferred to an idle server of weight 1. Fractions are compared by cross
//! multiplication, which is exact and needs no division.
//!
//! Ties are common: in an idle pool, all servers are tied. To break ties, the scan derives a
//! pseudo-random number for each server from the pick's seed and the server's position. Among tied
//! servers, the one with the smallest number is picked. It would not be fair to start at a random
//! position and take the first tied server: that would favour servers that come right after busier
//! servers.
//!
//! After the scan, a compare-and-swap counts the connection on the chosen server. It fails if the
//! server's state word has changed since the scan, and the scan is then repeated. As long as no
//! connection ends, counts only grow, so a server whose count has not changed since the scan still
//! has the least load. As a result, the counts of equal servers never differ by more than one, for
//! any number of threads.
//!
//! Cost per server: one cache line and one or two multiplications.
//!
//! Sources: HAProxy's `lb_fwlc.c` (dividing the load plus one by the weight) and Envoy issue 31146
//! (ties must not always go to the first host).

use std::cmp::Ordering;

use super::{
    p2c::better_of_two,
    picker::{Acquired, Load, Open, PickContext, Picker, Servers},
    sample::{mix64, scale_below},
    slow_start::{FULL_SHARE, new_connection_limit},
};
use crate::sync::{self, AtomicU64};

#[derive(Debug)]
pub(crate) struct LeastConn {
    draws: Draws,
}

impl LeastConn {
    pub(crate) fn new() -> Self {
        Self {
            draws: Draws(AtomicU64::new(0)),
        }
    }
}

/// Numbers that are spread evenly over all `u64` values, used for the draws among servers in slow
/// start.
///
/// With random numbers, the number of connections that a server gets per second would vary by a
/// fifth at 100 connections per second, and would exceed the limit in every other second. The
/// multiples of the golden ratio (a Weyl sequence) fall into each interval almost exactly in
/// proportion to its length.
#[derive(Debug)]
struct Draws(AtomicU64);

impl Draws {
    fn next(&self) -> u64 {
        let number = self.0.fetch_add(1, sync::Ordering::Relaxed);
        number.wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }
}

impl Picker for LeastConn {
    // Inlining this function into the dispatch over all algorithms would leave fewer registers for
    // the scan.
    #[inline(never)]
    fn pick<S: Servers>(&self, context: &PickContext<'_, S>) -> Option<Acquired> {
        loop {
            let mut ramping = false;
            let steady = context.servers.steady(context.now, &mut ramping);
            let loads = steady.map(|steady| steady.map(|s| (s.load, s.word)));
            let chosen = least(loads, context.next_seed());
            if ramping {
                return pick_beside_ramping(context, self.draws.next());
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
        count: open.load,
        weight: open.weight,
    }
}

/// Returns the position of the candidate with the least load, and the value paired with that load.
/// Candidates that are `None` are ignored.
fn least<T>(candidates: impl Iterator<Item = Option<(Load, T)>>, seed: u64) -> Option<(usize, T)> {
    let mut candidates = candidates.enumerate();
    let first = candidates.find_map(|(position, candidate)| {
        let (load, payload) = candidate?;
        Some(Best::new(position, load, payload, seed))
    })?;
    // With `fold`, the compiler keeps the best candidate in registers. With a `for` loop, each item
    // would go through memory.
    let best = candidates.fold(first, |best, (position, candidate)| {
        let Some((load, payload)) = candidate else {
            return best;
        };
        match load.compare(best.load) {
            Ordering::Less => Best::new(position, load, payload, seed),
            Ordering::Equal => {
                let tied = Best::new(position, load, payload, seed);
                if tied.number < best.number {
                    tied
                } else {
                    best
                }
            }
            Ordering::Greater => best,
        }
    });
    Some((best.position, best.payload))
}

/// The least loaded candidate so far.
struct Best<T> {
    position: usize,
    load: Load,
    /// The candidate's pseudo-random number, which breaks ties.
    number: u64,
    payload: T,
}

impl<T> Best<T> {
    const fn new(position: usize, load: Load, payload: T, seed: u64) -> Self {
        Self {
            position,
            load,
            number: mix64(seed, position),
            payload,
        }
    }
}

/// Least connections while some servers are in slow start.
///
/// At most one server in slow start takes part in a pick. `draw` selects this server, or none, so
/// that no server in slow start gets more new connections than its limit allows. The drawn server
/// is picked only if no other server has less load.
///
/// If all open servers are in slow start, those that have exceeded their whole share are treated
/// like servers that are not in slow start. If no server has exceeded its whole share, two servers
/// are drawn with probabilities proportional to their shares, and the less loaded one is picked.
/// Plain least connections would instead send all connections to the newest server.
#[cold]
#[inline(never)]
fn pick_beside_ramping<S: Servers>(context: &PickContext<'_, S>, draw: u64) -> Option<Acquired> {
    context.acquire_with(|| {
        let seed = context.next_seed();
        let open = open_servers(context);
        let is_steady: fn(Open) -> bool = |open| open.ramp.is_none();
        let has_full_share: fn(Open) -> bool =
            |open| open.ramp.is_none_or(|ramp| ramp >= FULL_SHARE);
        let is_full = [is_steady, has_full_share]
            .into_iter()
            .find(|is| open.iter().any(|&(_, open)| is(open)));
        let Some(is_full) = is_full else {
            return better_of_two(context, seed);
        };
        let loads = open
            .iter()
            .map(|&(position, open)| is_full(open).then_some((load(open), (position, open))));
        let (_, least) = least(loads, seed)?;
        let least_load = load(least.1);
        // The limit for new connections to a server in slow start, in the same unit as `total`.
        let limit = |open: Open| {
            let ramp = open.ramp.filter(|_| !is_full(open));
            ramp.map_or(0, |ramp| {
                let present = load(open).relative_to(least_load, FULL_SHARE);
                u64::from(open.weight.get()) * new_connection_limit(ramp, present)
            })
        };
        let sum = |of: &dyn Fn(Open) -> u64| open.iter().map(|&(_, open)| of(open)).sum();
        let limits: u64 = sum(&limit);
        let total: u64 = sum(&|open| u64::from(open.weight.get()) * u64::from(FULL_SHARE));
        let mut point = scale_below(draw, total.max(limits));
        let mut drawn = None;
        for &(position, open) in &open {
            let has_caught_up = load(open).compare(least_load) != Ordering::Less;
            if !is_full(open) && has_full_share(open) && has_caught_up {
                context.servers.end_ramp(position, open.word);
            }
            let limit = limit(open);
            if drawn.is_none() && point < limit {
                drawn = Some((position, open));
            }
            point = point.saturating_sub(limit);
        }
        // The drawn server wins ties, because the draw already limits how often it is picked.
        let (position, open) = drawn
            .filter(|drawn| least_load.compare(load(drawn.1)) != Ordering::Less)
            .unwrap_or(least);
        Some((position, open.word))
    })
}

/// Returns all open servers. A server's ramp continues beyond the whole share, until the server may
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

    /// Creates loads from pairs of in-flight connections and weight. Weight 0 stands for an
    /// unavailable server.
    fn loads(of: &[(u32, u32)]) -> impl Iterator<Item = Option<(Load, ())>> {
        of.iter()
            .map(|&(count, weight)| Weight::new(weight).map(|weight| (Load { count, weight }, ())))
    }

    proptest! {
        #[test]
        fn picked_server_has_the_least_load(
            table in prop::collection::vec((prop_oneof![0u32..6, any::<u32>()], 0u32..6), 0..12),
            seed: u64,
        ) {
            // Divide in fixed point with 64 fractional bits. This is precise enough, because two
            // different loads differ by at least 1 / (65,535 * 65,535).
            let load = |(count, weight): (u32, u32)| {
                (weight > 0).then(|| ((u128::from(count) + 1) << 64) / u128::from(weight))
            };
            let expected = table.iter().copied().filter_map(load).min();
            let picked = least(loads(&table), seed).map(|(position, ())| position);
            prop_assert_eq!(picked.and_then(|position| load(table[position])), expected);
            prop_assert_eq!(least(loads(&table), seed).map(|p| p.0), picked, "the choice depends only on the seed");
        }
    }

    #[test]
    fn least_load_per_weight_wins() {
        assert_eq!(
            least(loads(&[(3, 1), (1, 1), (2, 1)]), 7).map(|p| p.0),
            Some(1)
        );
        // The second server wins, because (8+1)/5 is less than (1+1)/1. With 9 connections, it
        // would be tied with the first: (9+1)/5 = (1+1)/1.
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
        // Position 1 is not tied. Taking the first tied server from a random starting position
        // would favour position 2: it would be picked for the starting positions 1 and 2.
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
