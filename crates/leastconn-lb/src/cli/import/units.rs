//! Durations in the notations of the source programs.

use super::model::Value;

/// Maximum duration in the configuration.
const LONGEST_MS: u64 = 10 * 365 * 86_400_000;

/// Parses a number with an optional unit, such as `10`, `500ms` or `1h`; also sums such as
/// `1h30m`. `default` is the unit of a number without one, in milliseconds. Rounds up to
/// milliseconds.
pub(crate) fn milliseconds(text: &str, default: u64) -> Option<u64> {
    let mut rest = text;
    let mut total: u64 = 0;
    loop {
        let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let number: u64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let letters = rest
            .find(|c: char| c.is_ascii_digit())
            .unwrap_or(rest.len());
        let ms = match &rest[..letters] {
            "" => number.checked_mul(default)?,
            "us" => number.div_ceil(1000),
            "ms" => number,
            "s" => number.checked_mul(1_000)?,
            "m" => number.checked_mul(60_000)?,
            "h" => number.checked_mul(3_600_000)?,
            "d" => number.checked_mul(86_400_000)?,
            "w" => number.checked_mul(7 * 86_400_000)?,
            _ => return None,
        };
        total = total.checked_add(ms)?;
        rest = &rest[letters..];
        if rest.is_empty() {
            return Some(total);
        }
    }
}

/// Formats a duration for the configuration, in the largest unit without a fraction.
pub(crate) fn duration(ms: u64) -> Value {
    let ms = ms.min(LONGEST_MS);
    let units = [
        ("d", 86_400_000),
        ("h", 3_600_000),
        ("m", 60_000),
        ("s", 1_000),
    ];
    let unit = units
        .into_iter()
        .find(|(_, length)| ms >= *length && ms.is_multiple_of(*length));
    Value::text(match unit {
        _ if ms == 0 => "0s".to_owned(),
        Some((unit, length)) => format!("{}{unit}", ms / length),
        None => format!("{ms}ms"),
    })
}

#[cfg(test)]
mod tests {
    use super::{super::model::Value, duration, milliseconds};

    #[test]
    fn durations_keep_their_length() {
        for (text, default, expected) in [
            ("5000", 1, "5s"),
            ("5", 1000, "5s"),
            ("1500ms", 1, "1500ms"),
            ("1h", 1, "1h"),
            ("90s", 1, "90s"),
            ("1h30m", 1000, "90m"),
            ("1us", 1, "1ms"),
            ("7d", 1, "7d"),
            ("0", 1, "0s"),
        ] {
            let ms = milliseconds(text, default).unwrap();
            assert_eq!(duration(ms), Value::text(expected), "{text}");
        }
        for text in ["", "s", "1x", "-1", "1.5s"] {
            assert_eq!(milliseconds(text, 1), None, "{text}");
        }
    }
}
