//! Who is chosen among the candidates. Pure: no clock, no randomness of its own, no
//! I/O. First the order of least connections and how ties are broken; the others are
//! below.
//!
//! The next connection goes to the server on which it would weigh least, that
//! is, with the smallest `(in_flight + 1) / weight`. Counting the new
//! connection in makes an idle server of weight 1 lose against an idle one of
//! weight 5, which is what weights are for. Fractions are compared by
//! multiplying crosswise: exact, and without a division.
//!
//! Ties are the normal case (an idle pool is one large tie), so they decide how
//! even a quiet pool looks. Starting the scan at a random place and taking the
//! first would favour a server that stands behind one that is not tied; here
//! each candidate draws a number from the seed and its position, and the
//! smallest number among the tied wins, which is uniform whoever is tied.
//!
//! Cost: one pass, a multiplication or two per candidate.
//!
//! Source: HAProxy `lb_fwlc.c` (load plus one over weight); Envoy issue 31146
//! (ties must not go to the first host).
//!
//! [`drawn`] chooses by weight in one pass, without the sum of the weights:
//! whoever is held is replaced by the next candidate with the chance of its share
//! in the sum so far (Chao, "A general purpose unequal probability sampling plan",
//! 1982, for a sample of one). [`rendezvous`] gives each candidate a score of the
//! key and its name, divided by nothing but its own weight, so that no candidate's
//! coming, going or weight moves a key between two others (Thaler and Ravishankar
//! 1998; weights by `-w / ln(u)`, Schindelhauer and Schomaker 2005).

use std::cmp::Ordering;

use crate::Weight;

/// What picking looks at: connections in flight and weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Load {
    /// Connections that the server has, being dialled or open.
    pub(crate) in_flight: u32,
    /// Its weight.
    pub(crate) weight: Weight,
}

impl Load {
    /// Which of two servers a new connection would weigh less on.
    pub(crate) fn compare(self, other: Self) -> Ordering {
        let weighed =
            |of: Self, by: Self| (u64::from(of.in_flight) + 1) * u64::from(by.weight.get());
        weighed(self, other).cmp(&weighed(other, self))
    }
}

/// The candidate with the least load: its position, and what came with its
/// load. `None` where there is no candidate; a `None` in `candidates` is passed
/// over.
pub(crate) fn least<T>(
    candidates: impl Iterator<Item = Option<(Load, T)>>,
    seed: u64,
) -> Option<(usize, T)> {
    let mut best: Option<(usize, Load, T)> = None;
    for (position, candidate) in candidates.enumerate() {
        let Some((load, with)) = candidate else {
            continue;
        };
        let better = best
            .as_ref()
            .is_none_or(|&(held, least, _)| match load.compare(least) {
                Ordering::Less => true,
                Ordering::Equal => draw(seed, position) < draw(seed, held),
                Ordering::Greater => false,
            });
        if better {
            best = Some((position, load, with));
        }
    }
    best.map(|(position, _, with)| (position, with))
}

/// One of the candidates, each with a chance in proportion to its share. A `None`
/// is passed over. Shares must not be zero, nor add up to more than a `u64` holds.
pub(crate) fn drawn<T>(
    candidates: impl Iterator<Item = Option<(u32, T)>>,
    seed: u64,
) -> Option<(usize, T)> {
    let mut total = 0;
    let mut held = None;
    for (position, candidate) in candidates.enumerate() {
        let Some((share, with)) = candidate else {
            continue;
        };
        total += u64::from(share);
        if below(draw(seed, position), total) < u64::from(share) {
            held = Some((position, with));
        }
    }
    held
}

/// The candidate that a key belongs to. Each comes with its share, a hash of its
/// name, and what is returned with its position.
pub(crate) fn rendezvous<T>(
    candidates: impl Iterator<Item = Option<(u32, u64, T)>>,
    key: u64,
) -> Option<(usize, T)> {
    let mut best: Option<(usize, f64, T)> = None;
    for (position, candidate) in candidates.enumerate() {
        let Some((share, name, with)) = candidate else {
            continue;
        };
        // Of 53 bits, and neither 0 nor 1: the score is a positive number.
        let uniform = ((draw(key ^ name, 0) >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
        let score = -f64::from(share) / uniform.ln();
        if best.as_ref().is_none_or(|&(_, held, _)| score > held) {
            best = Some((position, score, with));
        }
    }
    best.map(|(position, _, with)| (position, with))
}

/// A number below `bound`, of one that is random.
pub(crate) const fn below(random: u64, bound: u64) -> u64 {
    ((random as u128 * bound as u128) >> 64) as u64
}

/// The number that a candidate draws in a tie: a bijective mix (splitmix64's
/// finalizer) of seed and position, so no two candidates draw the same.
pub(crate) const fn draw(seed: u64, position: usize) -> u64 {
    let mut z = seed.wrapping_add((position as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// In flight and weight; weight 0 stands for a server that is out.
    fn loads(of: &[(u32, u32)]) -> impl Iterator<Item = Option<(Load, ())>> {
        of.iter().map(|&(in_flight, weight)| {
            Weight::new(weight).map(|weight| (Load { in_flight, weight }, ()))
        })
    }

    proptest! {
        #[test]
        fn nobody_is_less_loaded_than_the_one_picked(
            table in prop::collection::vec((prop_oneof![0u32..6, any::<u32>()], 0u32..6), 0..12),
            seed: u64,
        ) {
            // By division, in a number with digits enough for it to be exact:
            // two loads that differ do so by at least 1 / (65,535 * 65,535).
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
    fn the_least_loaded_per_weight_wins() {
        assert_eq!(
            least(loads(&[(3, 1), (1, 1), (2, 1)]), 7).map(|p| p.0),
            Some(1)
        );
        // (9+1)/5 = 2 against (1+1)/1 = 2 would tie; one less does not.
        assert_eq!(least(loads(&[(1, 1), (8, 5)]), 7).map(|p| p.0), Some(1));
        assert_eq!(least(loads(&[]), 7), None);
    }

    #[test]
    fn candidates_that_are_out_are_passed_over() {
        assert_eq!(
            least(loads(&[(0, 0), (9, 1), (0, 0)]), 7).map(|p| p.0),
            Some(1)
        );
        assert_eq!(least(loads(&[(0, 0)]), 7), None);
    }

    #[test]
    fn ties_are_fair_even_beside_a_server_that_is_not_tied() {
        // With "random start, first wins", position 2 would be drawn half the
        // time: for the starts 1 and 2.
        let table = [(0, 1), (5, 1), (0, 1), (0, 1)];
        let mut wins = [0u32; 4];
        for seed in 0..30_000u64 {
            let seed = draw(seed, 1);
            let (winner, _) = least(loads(&table), seed).unwrap();
            wins[winner] += 1;
        }
        assert_eq!(wins[1], 0);
        for winner in [0, 2, 3] {
            assert!((9_600..10_400).contains(&wins[winner]), "{wins:?}");
        }
    }
}
