//! Random numbers and weighted sampling.

/// Computes a pseudo-random number from `seed` and `position` with the finalizer of splitmix64. For
/// a fixed seed the function is a bijection, so no two positions get the same number.
pub(crate) const fn mix64(seed: u64, position: usize) -> u64 {
    let mut z = seed.wrapping_add((position as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Maps a random 64-bit number to a number below `bound`.
pub(super) const fn scale_below(random: u64, bound: u64) -> u64 {
    ((random as u128 * bound as u128) >> 64) as u64
}

/// Draws one candidate with a probability proportional to its share. Returns the candidate's
/// position and the value paired with its share. Candidates that are `None` are ignored. Shares
/// must not be zero, and their sum must fit into a `u64`.
///
/// One pass over the candidates is enough, because the sum of all shares need not be known.
/// Candidate `k` replaces the current choice with a probability equal to its share divided by the
/// sum of the shares of all candidates up to and including `k`.
///
/// Source: M. T. Chao, "A general purpose unequal probability sampling plan" (1982), for a
/// sample of size one.
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
