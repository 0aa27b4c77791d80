//! Weights that are changed while the pool is in use.
//!
//! Such a weight may be a fraction, for example half of weight 1. Picks use whole numbers and
//! depend only on the ratios of the weights. If any weight in the pool is a fraction, all weights
//! are therefore multiplied by the same factor.

use super::Member;
use crate::{Weight, spec::ServerSpec, sync::Arc, weight::Hundredths};

/// Returns whole-number weights with the same ratios. If weights up to 65,535 cannot represent the
/// ratios exactly, the weights are rounded. A weight of zero becomes 1: the server gets no
/// connections, so picks do not use its whole-number weight.
fn whole_weights(weights: &[Hundredths]) -> impl Iterator<Item = Weight> {
    let divisor = weights
        .iter()
        .fold(100, |divisor, weight| gcd(divisor, weight.get()));
    let largest = weights.iter().map(|weight| weight.get() / divisor).max();
    let largest = u64::from(largest.unwrap_or(0)).max(65_535);
    weights.iter().map(move |weight| {
        let scaled = (u64::from(weight.get() / divisor) * 65_535 + largest / 2) / largest;
        let scaled = u32::try_from(scaled).unwrap_or(u32::MAX);
        Weight::new(scaled).unwrap_or_default()
    })
}

const fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// Sets the effective weights and connection limits of all members.
pub(super) fn apply(members: &mut [Member]) {
    let weights: Vec<_> = members
        .iter()
        .map(|member| member.server.weight_in_effect(member.details.spec.weight))
        .collect();
    for ((member, weight), whole) in members
        .iter_mut()
        .zip(&weights)
        .zip(whole_weights(&weights))
    {
        member.weight = whole;
        let configured = member.details.spec.max_conns;
        member.max_conns = member.server.max_conns_in_effect(configured);
        member.details = Arc::new(Details {
            spec: member.details.spec.clone(),
            weight: *weight,
        });
    }
}

/// The parts of a [`Member`] that picks do not read.
#[derive(Clone, Debug)]
pub(super) struct Details {
    pub(super) spec: ServerSpec,
    pub(super) weight: Hundredths,
}

#[cfg(all(test, not(loom)))]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn whole(hundredths: &[u32]) -> Vec<u16> {
        let weights: Vec<_> = hundredths.iter().copied().map(Hundredths::of).collect();
        whole_weights(&weights).map(Weight::get).collect()
    }

    #[test]
    fn whole_weights_are_not_scaled() {
        assert_eq!(whole(&[100, 500, 300]), [1, 5, 3]);
        assert_eq!(whole(&[6_553_500, 100]), [65_535, 1]);
    }

    #[test]
    fn fractions_scale_all_weights() {
        assert_eq!(whole(&[50, 100, 100]), [1, 2, 2]);
        assert_eq!(whole(&[75, 100, 0]), [3, 4, 1]);
        assert_eq!(whole(&[33, 200]), [33, 200]);
    }

    proptest! {
        #[test]
        fn ratios_are_kept_within_rounding(
            weights in prop::collection::vec(1..=Hundredths::LARGEST, 2..8),
        ) {
            let largest = f64::from(*weights.iter().max().unwrap());
            for (weight, whole) in weights.iter().zip(whole(&weights)) {
                let exact = f64::from(*weight) / largest;
                let max = f64::from(*self::whole(&weights).iter().max().unwrap());
                let rounded = f64::from(whole) / max;
                // One step, relative to the largest weight, is 1 / 65,535.
                prop_assert!((exact - rounded).abs() <= 1.0 / 65_535.0 || whole == 1);
            }
        }
    }
}
