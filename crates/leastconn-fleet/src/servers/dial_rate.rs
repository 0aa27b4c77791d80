//! How often a member dials a server, and what that says about the other members.

use std::time::{Duration, Instant};

/// Time constant of the average.
const WINDOW: Duration = Duration::from_secs(1);

/// The largest echo of one dial.
const MAX_ECHO: f64 = 8.0;

/// Dials per second, as an exponentially weighted average over about a second.
#[derive(Clone, Copy, Debug, Default)]
pub struct DialRate {
    per_second: f64,
    /// The number of dials at the last update, and its time.
    last: Option<(u64, Instant)>,
}

impl DialRate {
    /// Updates the average. `dials` is the number of dials since an arbitrary start.
    pub fn update(&mut self, dials: u64, now: Instant) {
        if let Some((before, at)) = self.last {
            let elapsed = now.saturating_duration_since(at);
            if elapsed.is_zero() {
                return;
            }
            let elapsed = elapsed.as_secs_f64();
            let rate = dials.saturating_sub(before) as f64 / elapsed;
            let weight = 1.0 - (-elapsed / WINDOW.as_secs_f64()).exp();
            self.per_second += (rate - self.per_second) * weight;
        }
        self.last = Some((dials, now));
    }

    pub const fn per_second(&self) -> f64 {
        self.per_second
    }
}

/// How many connections of the other members each dial of this member stands for, until the next
/// report. The members dial at the rates `own` and `others`.
///
/// The others see the same old numbers as this member, and thus send their connections to the
/// same servers. When this member picks a server, the others have picked it `others / own` times,
/// on average. Half of that is added. In simulations, the whole ratio spread connections a little
/// more evenly if all clients may use all servers, but less evenly if some may use only a part of
/// them. So did the ratio of the rates on all servers instead of one server.
pub fn echo_per_dial(own: f64, others: f64) -> f64 {
    if others > 0.0 {
        (others / own / 2.0).min(MAX_ECHO)
    } else {
        0.0
    }
}

#[cfg(test)]
mod tests {
    use leastconn::net;

    use super::*;

    #[test]
    fn rate_approaches_the_true_rate_with_any_interval() {
        for millis in [2, 50, 100, 700] {
            let (mut rate, mut now, mut dials) = (DialRate::default(), net::now(), 5);
            rate.update(dials, now);
            for _ in 0..10_000 / millis {
                now += Duration::from_millis(millis);
                dials += millis;
                rate.update(dials, now);
            }
            let per_second = rate.per_second();
            assert!((995.0..=1_000.0).contains(&per_second), "{per_second}");
        }
    }

    #[test]
    fn rate_decays_within_seconds() {
        let (mut rate, now) = (DialRate::default(), net::now());
        rate.update(0, now);
        rate.update(100, now + Duration::from_millis(100));
        assert!(rate.per_second() > 90.0);
        rate.update(100, now + Duration::from_secs(8));
        assert!(rate.per_second() < 0.1);
    }

    #[test]
    fn echo_is_half_of_the_ratio_with_maximum() {
        let echo = |own, others| (echo_per_dial(own, others) * 100.0).round() / 100.0;
        assert_eq!((echo(10.0, 20.0), echo(10.0, 1.0)), (1.0, 0.05));
        assert_eq!((echo(1.0, 1_000.0), echo(0.0, 0.1)), (MAX_ECHO, MAX_ECHO));
        assert_eq!((echo(5.0, 0.0), echo(0.0, 0.0)), (0.0, 0.0));
    }
}
