//! Random numbers and weighted sampling.

/// A pseudo-random number for `position`: the finalizer of splitmix64 on `seed` and position.
/// A bijection for a fixed seed, so no two positions get the same number.
pub(crate) const fn mix64(seed: u64, position: usize) -> u64 {
    let mut z = seed.wrapping_add((position as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Maps a random number to one below `bound`.
pub(super) const fn scale_below(random: u64, bound: u64) -> u64 {
    ((random as u128 * bound as u128) >> 64) as u64
}

/// One of the candidates, each with a probability proportional to its share: the position and
/// what came with the share. Skips `None`. Shares must not be zero, and their sum must fit a
/// `u64`.
///
/// One pass without knowing the sum of the shares: candidate `k` replaces the chosen one with
/// the probability of its share in the sum so far.
///
/// Source: M. T. Chao, "A general purpose unequal probability sampling plan" (1982), for a
/// sample of one.
pub(super) fn weighted_sample<T>(
    candidates: impl Iterator<Item = Option<(u32, T)>>,
    seed: u64,
) -> Option<(usize, T)> {
    let mut total = 0;
    let mut chosen = None;
    for (position, candidate) in candidates.enumerate() {
        let Some((share, payload)) = candidate else {
            continue;
        };
        total += u64::from(share);
        if scale_below(mix64(seed, position), total) < u64::from(share) {
            chosen = Some((position, payload));
        }
    }
    chosen
}
