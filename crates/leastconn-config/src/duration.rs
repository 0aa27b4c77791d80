//! Durations such as `250ms`, `10s` and `1h30m`.

use std::time::Duration;

/// Maximum duration. A longer duration is probably a typo. The limit also prevents overflow in sums
/// of times.
const LONGEST: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);

const UNITS: [(&str, u64); 5] = [
    ("d", 86_400_000),
    ("h", 3_600_000),
    ("m", 60_000),
    ("s", 1_000),
    ("ms", 1),
];

/// Reason why a text is not a valid duration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DurationError {
    #[error("expected a duration like \"10s\"")]
    NoNumber,
    #[error("the unit is missing: \"{0}s\", \"{0}ms\"?")]
    NoUnit(String),
    #[error("unknown unit \"{0}\": the units are ms, s, m, h and d")]
    UnknownUnit(String),
    #[error("durations are whole numbers: \"1500ms\", not \"1.5s\"")]
    Fraction,
    #[error("a duration has no spaces: \"10s\", \"1h30m\"")]
    Space,
    #[error("a duration is at most ten years")]
    TooLong,
}

/// Parses a duration.
///
/// # Errors
/// Returns an error if the text is not a sequence of whole numbers with units, or if the
/// duration is too long.
pub fn parse(text: &str) -> Result<Duration, DurationError> {
    if text.contains(' ') && parse(&text.replace(' ', "")).is_ok() {
        return Err(DurationError::Space);
    }
    let mut rest = text;
    let mut total = Duration::ZERO;
    loop {
        let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let (number, tail) = rest.split_at(digits);
        if number.is_empty() {
            return Err(DurationError::NoNumber);
        }
        if tail.starts_with(['.', ',']) {
            return Err(DurationError::Fraction);
        }
        let letters = tail
            .find(|c: char| c.is_ascii_digit())
            .unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(letters);
        if unit.is_empty() {
            return Err(DurationError::NoUnit(number.to_owned()));
        }
        let (_, millis) = UNITS
            .into_iter()
            .find(|(name, _)| *name == unit)
            .ok_or_else(|| DurationError::UnknownUnit(unit.to_owned()))?;
        total = number
            .parse::<u64>()
            .ok()
            .and_then(|number| number.checked_mul(millis))
            .and_then(|millis| total.checked_add(Duration::from_millis(millis)))
            .filter(|total| *total <= LONGEST)
            .ok_or(DurationError::TooLong)?;
        if tail.is_empty() {
            return Ok(total);
        }
        rest = tail;
    }
}

/// Formats a duration so that [`parse`] reads it. Fractions of a millisecond are dropped.
pub fn text(duration: Duration) -> String {
    let millis = duration.as_millis();
    // Use the largest unit that divides the duration, except that 60s stays "60s".
    let whole = UNITS.into_iter().find(|(unit, size)| {
        *unit != "d"
            && millis.is_multiple_of(u128::from(*size))
            && (millis != u128::from(*size) || *unit != "m")
    });
    match whole {
        _ if millis == 0 => "0s".to_owned(),
        Some((unit, size)) => format!("{}{unit}", millis / u128::from(size)),
        None => format!("{millis}ms"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formatted_durations_can_be_parsed() {
        for (text_, duration) in [
            ("0s", Duration::ZERO),
            ("250ms", Duration::from_millis(250)),
            ("10s", Duration::from_secs(10)),
            ("60s", Duration::from_secs(60)),
            ("2m", Duration::from_secs(120)),
            ("1h", Duration::from_secs(3600)),
        ] {
            assert_eq!(parse(text_), Ok(duration));
            assert_eq!(text(duration), text_);
        }
        assert_eq!(parse("1h30m"), Ok(Duration::from_secs(5400)));
        assert_eq!(parse("1d"), Ok(Duration::from_secs(86_400)));
    }

    #[test]
    fn errors_explain_what_is_wrong() {
        for (text, error) in [
            ("", DurationError::NoNumber),
            ("s", DurationError::NoNumber),
            ("-1s", DurationError::NoNumber),
            ("ten seconds", DurationError::NoNumber),
            ("10", DurationError::NoUnit("10".into())),
            ("10 s", DurationError::Space),
            ("10sec", DurationError::UnknownUnit("sec".into())),
            ("1.5s", DurationError::Fraction),
            ("99999999999999999999s", DurationError::TooLong),
            ("11111d", DurationError::TooLong),
        ] {
            assert_eq!(parse(text), Err(error), "{text}");
        }
    }
}
