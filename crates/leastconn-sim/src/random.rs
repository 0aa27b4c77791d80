//! Pseudo-random numbers. The generator is part of this crate, so that the same seed produces
//! the same results with every version of every dependency.

use std::time::Duration;

/// SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014).
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// A generator for one purpose. Different values of `stream` give independent sequences for
    /// the same seed, so that for example more arrivals do not change the hold times.
    pub fn new(seed: u64, stream: u64) -> Self {
        let mut random = Self(seed ^ stream.wrapping_mul(0xd134_2543_de82_ef95));
        Self(random.next_u64())
    }

    pub const fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number from 0 to `bound - 1`; 0 if `bound` is 0.
    pub fn below(&mut self, bound: usize) -> usize {
        ((u128::from(self.next_u64()) * bound as u128) >> 64) as usize
    }

    /// A number in the interval (0, 1], so that its logarithm is finite.
    fn unit(&mut self) -> f64 {
        ((self.next_u64() >> 11) + 1) as f64 / (1u64 << 53) as f64
    }

    /// A duration from the exponential distribution.
    pub fn exponential(&mut self, mean: Duration) -> Duration {
        mean.mul_f64(-self.unit().ln())
    }

    /// A duration from the Pareto distribution with the given mean. `shape` must be greater
    /// than 1. Below 2, the variance is infinite: a few connections last very long.
    pub fn pareto(&mut self, mean: Duration, shape: f64) -> Duration {
        let min = mean.mul_f64((shape - 1.0) / shape);
        // Cap draws at a year, because a `Duration` cannot represent every draw.
        const YEAR: f64 = 365.0 * 86_400.0;
        let draw = min.as_secs_f64() / self.unit().powf(1.0 / shape);
        Duration::from_secs_f64(draw.min(YEAR))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEAN: Duration = Duration::from_secs(2);

    fn mean_of(mut draw: impl FnMut() -> Duration) -> f64 {
        (0..100_000).map(|_| draw().as_secs_f64()).sum::<f64>() / 100_000.0
    }

    #[test]
    fn distributions_have_the_requested_mean() {
        let mut random = Random::new(1, 0);
        let exponential = mean_of(|| random.exponential(MEAN));
        assert!((1.97..2.03).contains(&exponential), "{exponential}");
        let pareto = mean_of(|| random.pareto(MEAN, 3.0));
        assert!((1.97..2.03).contains(&pareto), "{pareto}");
    }

    #[test]
    fn streams_of_one_seed_differ() {
        let mut one = Random::new(1, 0);
        let mut two = Random::new(1, 1);
        assert_ne!(one.next_u64(), two.next_u64());
        assert!((0..1_000).all(|_| one.below(7) < 7));
    }
}
