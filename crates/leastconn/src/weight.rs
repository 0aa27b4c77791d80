//! Weights that can be changed while a server is in use.

use std::{fmt, str::FromStr};

use crate::spec::Weight;

/// A weight that replaces the configured weight of a server; see
/// [`Pool::set_weight`](crate::Pool::set_weight).
///
/// ```
/// use leastconn::WeightOverride;
///
/// assert_eq!("50%".parse(), Ok(WeightOverride::Percent(50)));
/// assert_eq!("7".parse(), Ok(WeightOverride::Absolute(7)));
/// assert_eq!(WeightOverride::Percent(50).to_string(), "50%");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WeightOverride {
    /// An absolute weight. Zero stops new connections.
    Absolute(u16),
    /// A percentage of the configured weight. Zero stops new connections. The resulting weight is
    /// limited to 65,535.
    Percent(u16),
}

/// The text is not a [`WeightOverride`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected a weight from 0 to 65535, or a percentage of the configured weight such as 50%")]
pub struct ParseWeightError;

impl FromStr for WeightOverride {
    type Err = ParseWeightError;

    fn from_str(text: &str) -> Result<Self, ParseWeightError> {
        let (digits, kind): (_, fn(u16) -> Self) = match text.strip_suffix('%') {
            Some(digits) => (digits, Self::Percent),
            None => (text, Self::Absolute),
        };
        // `parse` would accept a sign.
        if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(ParseWeightError);
        }
        digits.parse().map(kind).map_err(|_| ParseWeightError)
    }
}

impl fmt::Display for WeightOverride {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Absolute(weight) => write!(f, "{weight}"),
            Self::Percent(percent) => write!(f, "{percent}%"),
        }
    }
}

/// A weight in hundredths, so that a percentage of a weight is a whole number. Zero: the server
/// gets no new connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Hundredths(u32);

impl Hundredths {
    pub(crate) const LARGEST: u32 = 65_535 * 100;

    pub(crate) fn new(configured: Weight, weight: Option<WeightOverride>) -> Self {
        let configured = u32::from(configured.get());
        Self(match weight {
            None => configured * 100,
            Some(WeightOverride::Absolute(weight)) => u32::from(weight) * 100,
            Some(WeightOverride::Percent(percent)) => {
                (configured * u32::from(percent)).min(Self::LARGEST)
            }
        })
    }

    pub(crate) const fn is_zero(self) -> bool {
        self.0 == 0
    }

    pub(crate) const fn get(self) -> u32 {
        self.0
    }

    pub(crate) fn to_weight(self) -> f64 {
        f64::from(self.0) / 100.0
    }

    #[cfg(test)]
    pub(crate) const fn of(hundredths: u32) -> Self {
        Self(hundredths)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentages_are_relative_to_the_configured_weight() {
        let weight = |configured, weight| {
            Hundredths::new(Weight::new(configured).unwrap(), Some(weight)).to_weight()
        };
        assert_eq!(weight(4, WeightOverride::Percent(50)), 2.0);
        assert_eq!(weight(1, WeightOverride::Percent(150)), 1.5);
        assert_eq!(weight(7, WeightOverride::Absolute(3)), 3.0);
        assert_eq!(weight(60_000, WeightOverride::Percent(65_535)), 65_535.0);
        assert!(Hundredths::new(Weight::ONE, Some(WeightOverride::Percent(0))).is_zero());
    }

    #[test]
    fn only_plain_numbers_and_percentages_are_weights() {
        for text in ["", "%", "-1", "+1", "1.5", "65536", "70000%", "50 %", "x"] {
            assert_eq!(
                text.parse::<WeightOverride>(),
                Err(ParseWeightError),
                "{text}"
            );
        }
        assert_eq!("0%".parse(), Ok(WeightOverride::Percent(0)));
        assert_eq!("65535".parse(), Ok(WeightOverride::Absolute(65_535)));
    }
}
