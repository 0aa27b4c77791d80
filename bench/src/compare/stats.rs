//! Medians and ratios. Means and standard deviations are not used, because they mean little
//! with few rounds on a noisy machine.

use serde::Serialize;

/// Median, minimum and maximum of several values.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Spread {
    pub median: f64,
    pub min: f64,
    pub max: f64,
}

impl Spread {
    /// Returns the spread of values in any order, or `None` if there are no values. Ignores
    /// infinities and NaN.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.into_iter().filter(|v| v.is_finite()).collect();
        values.sort_by(f64::total_cmp);
        let (min, max) = (*values.first()?, *values.last()?);
        let middle = values.len() / 2;
        let median = if values.len() % 2 == 1 {
            values[middle]
        } else {
            f64::midpoint(values[middle - 1], values[middle])
        };
        Some(Self { median, min, max })
    }

    /// Returns the spread of the ratios of pairs of values. Both values of a pair must be from the
    /// same round, because the machine's speed may change between rounds. For the same reason,
    /// per-round ratios are better than the ratio of two medians.
    pub fn of_ratios(pairs: impl IntoIterator<Item = (f64, f64)>) -> Option<Self> {
        Self::of(pairs.into_iter().map(|(a, b)| a / b))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spread(median: f64, min: f64, max: f64) -> Option<Spread> {
        Some(Spread { median, min, max })
    }

    #[test]
    fn median_of_odd_and_even_counts() {
        assert_eq!(Spread::of([3.0, 1.0, 2.0]), spread(2.0, 1.0, 3.0));
        assert_eq!(Spread::of([4.0, 1.0, 2.0, 9.0]), spread(3.0, 1.0, 9.0));
        assert_eq!(Spread::of([5.0]), spread(5.0, 5.0, 5.0));
        assert_eq!(Spread::of([f64::NAN]), None);
        assert_eq!(Spread::of([]), None);
    }

    #[test]
    fn ratios_are_taken_per_round() {
        // The machine is twice as slow in the second round.
        let pairs = [(1.0, 2.0), (2.0, 4.0), (1.2, 2.0)];
        assert_eq!(Spread::of_ratios(pairs), spread(0.5, 0.5, 0.6));
        assert_eq!(Spread::of_ratios([(1.0, 0.0)]), None);
    }
}
