//! Formats numbers, sizes and durations for tables.

use leastconn_server::api::SlowStart;

/// Formats a size: `1023B`, `1.5KiB`.
pub(crate) fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if bytes < 1024 {
        return format!("{bytes}B");
    }
    let mut size = bytes as f64;
    let mut unit = "B";
    for next in UNITS {
        // Avoid "1024.0KiB": round up to the next unit.
        if size < 1023.95 {
            break;
        }
        size /= 1024.0;
        unit = next;
    }
    format!("{size:.1}{unit}")
}

/// Formats a rate: `0`, `0.4`, `12`, `1,234`.
#[cfg(feature = "top")]
pub(crate) fn rate(per_second: f64) -> String {
    if per_second > 0.0 && per_second < 9.95 {
        return format!("{per_second:.1}");
    }
    number(per_second.max(0.0).round() as u64)
}

/// Formats a number: `1,234,567`.
#[cfg(feature = "top")]
pub(crate) fn number(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (position, digit) in digits.chars().enumerate() {
        if position > 0 && (digits.len() - position).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// Formats a number of things: `1 server`, `2 servers`.
pub(crate) fn count(count: usize, one: &str) -> String {
    match count {
        1 => format!("1 {one}"),
        n => format!("{n} {one}s"),
    }
}

/// Formats a duration with at most two units: `12s`, `5m03s`, `2h15m`, `3d04h`.
pub(crate) fn age(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, _) => format!("{minutes}m{:02}s", seconds % 60),
        (0, _, _) => format!("{hours}h{:02}m", minutes % 60),
        _ => format!("{days}d{:02}h", hours % 24),
    }
}

/// Formats the progress of slow start: `35% of its share, full in 20s`.
pub(crate) fn slow_start(slow: &SlowStart) -> String {
    let left = age(slow.remaining_seconds.ceil() as u64);
    format!("{} of its share, full in {left}", percent(slow.share))
}

/// Formats the share of a server in slow start: `35%`. At most 99%, because slow start has
/// not ended.
pub(crate) fn percent(share: f64) -> String {
    format!("{}%", (share * 100.0).round().clamp(0.0, 99.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_and_sizes_are_abbreviated() {
        for (seconds, shown) in [
            (0, "0s"),
            (59, "59s"),
            (60, "1m00s"),
            (3599, "59m59s"),
            (3600, "1h00m"),
            (86_399, "23h59m"),
            (90_000, "1d01h"),
        ] {
            assert_eq!(age(seconds), shown);
        }
        for (size, shown) in [
            (0, "0B"),
            (1023, "1023B"),
            (1024, "1.0KiB"),
            (1536, "1.5KiB"),
            (1024 * 1024 - 1, "1.0MiB"),
            (5 * 1024 * 1024 * 1024, "5.0GiB"),
            (u64::MAX, "16384.0PiB"),
        ] {
            assert_eq!(bytes(size), shown, "{size}");
        }
    }

    #[cfg(feature = "top")]
    #[test]
    fn numbers_have_thousands_separators() {
        assert_eq!(rate(0.0), "0");
        assert_eq!(rate(0.44), "0.4");
        assert_eq!(rate(1234.4), "1,234");
        assert_eq!(number(999), "999");
        assert_eq!(number(1_000_000), "1,000,000");
    }

    #[test]
    fn slow_start_is_formatted() {
        for (share, remaining_seconds, shown) in [
            (0.1, 30.0, "10% of its share, full in 30s"),
            (0.29, 59.2, "29% of its share, full in 1m00s"),
            (0.999, 0.03, "99% of its share, full in 1s"),
        ] {
            let slow = SlowStart {
                share,
                remaining_seconds,
            };
            assert_eq!(slow_start(&slow), shown);
        }
    }
}
