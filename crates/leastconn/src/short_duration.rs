use std::{fmt, time::Duration};

/// Formats a duration with at most three significant digits, such as `476ms`, `1.5s` or `16.7m`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShortDuration(pub Duration);

/// Units and their lengths in nanoseconds, largest first.
const UNITS: [(&str, f64); 7] = [
    ("d", 86_400e9),
    ("h", 3_600e9),
    ("m", 60e9),
    ("s", 1e9),
    ("ms", 1e6),
    ("us", 1e3),
    ("ns", 1.0),
];

/// Counts of this size or above would be rounded to four digits.
const MAX_COUNT: f64 = 999.5;

impl fmt::Display for ShortDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nanos = self.0.as_nanos() as f64;
        if nanos == 0.0 {
            return f.write_str("0s");
        }
        // Use the smallest unit for which the count has at most three digits. From 100 seconds
        // or minutes on, use the next larger unit, because hundreds of seconds or minutes are
        // hard to read.
        let is_fit = |&(unit, size): &(&str, f64)| match unit {
            "d" => true,
            "s" | "m" => nanos / size < 99.95,
            _ => nanos / size < MAX_COUNT,
        };
        let fit = UNITS.iter().rev().find(|unit| is_fit(unit));
        let &(unit, size) = fit.unwrap_or(&UNITS[0]);
        let count = nanos / size;
        let decimals = match count {
            _ if count < 9.995 => 2,
            _ if count < 99.95 => 1,
            _ => 0,
        };
        let digits = format!("{count:.decimals$}");
        let digits = match digits.contains('.') {
            true => digits.trim_end_matches('0').trim_end_matches('.'),
            false => &digits,
        };
        write!(f, "{digits}{unit}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shows_three_significant_digits() {
        for (nanos, shown) in [
            (0, "0s"),
            (1, "1ns"),
            (999, "999ns"),
            (1_000, "1us"),
            (1_500, "1.5us"),
            (475_699_022, "476ms"),
            (999_600_000, "1s"),
            (1_000_000_000, "1s"),
            (1_234_567_890, "1.23s"),
            (59_949_999_999, "59.9s"),
            (90_000_000_000, "90s"),
            (125_000_000_000, "2.08m"),
            (3_600_000_000_000, "60m"),
            (9_000_000_000_000, "2.5h"),
            (u64::MAX, "213504d"),
        ] {
            let shown_as = ShortDuration(Duration::from_nanos(nanos)).to_string();
            assert_eq!(shown_as, shown, "{nanos}");
        }
    }
}
