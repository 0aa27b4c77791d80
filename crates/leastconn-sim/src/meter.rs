//! Measurements of one simulation.

use std::time::Duration;

use crate::site::Watched;

/// The result of one simulation.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// Time average of the highest load of a server divided by the mean load. Loads are open
    /// connections divided by weight. 1 is perfect balance.
    pub peak_to_mean: f64,
    /// Connections that clients opened.
    pub connections: u64,
    /// Connections without a usable server.
    pub refused: u64,
    /// Connections that a server accepted, but then closed immediately or never answered.
    pub failed: u64,
    /// Highest number of connections that were open on one server at the same time.
    pub most_open: u32,
    /// Number of connections that each server accepted.
    pub connects: Vec<u64>,
    /// Time from a client's arrival until its connection to a server is established.
    pub waits: Vec<Duration>,
    /// One item per second, starting when the watched server received its first connection.
    pub watched: Vec<Second>,
}

/// One second of the watched server.
#[derive(Clone, Copy, Debug, Default)]
pub struct Second {
    /// Connections that the server accepted in this second, divided by its fair share.
    pub rate: f64,
    /// Connections open on the server at the end of this second, divided by its fair share.
    pub share: f64,
}

impl Outcome {
    /// The fraction of all accepted connections that `server` accepted.
    pub fn share_of(&self, server: usize) -> f64 {
        let all: u64 = self.connects.iter().sum();
        ratio(self.connects[server] as f64, all as f64)
    }
}

fn ratio(part: f64, whole: f64) -> f64 {
    if whole > 0.0 { part / whole } else { 0.0 }
}

/// Counts connections during one simulation.
#[derive(Debug)]
pub struct Meter {
    weights: Vec<f64>,
    in_flight: Vec<u32>,
    is_member: Vec<bool>,
    warm_up: Duration,
    /// The time up to which `area` is complete.
    measured_until: Duration,
    /// Integral of peak/mean over time, in seconds, and the total time with at least one
    /// connection.
    area: f64,
    loaded: f64,
    watched: Option<WatchedMeter>,
    pub outcome: Outcome,
}

#[derive(Debug)]
struct WatchedMeter {
    watched: Watched,
    began: Option<Duration>,
    /// Connections accepted in the current second: by the watched server, and by all servers.
    own: u32,
    all: u32,
}

impl Meter {
    pub fn new(
        weights: Vec<f64>,
        is_member: Vec<bool>,
        warm_up: Duration,
        watched: Option<Watched>,
    ) -> Self {
        Self {
            in_flight: vec![0; weights.len()],
            outcome: Outcome {
                connects: vec![0; weights.len()],
                ..Outcome::default()
            },
            weights,
            is_member,
            warm_up,
            measured_until: warm_up,
            area: 0.0,
            loaded: 0.0,
            watched: watched.map(|watched| WatchedMeter {
                watched,
                began: None,
                own: 0,
                all: 0,
            }),
        }
    }

    pub fn joined(&mut self, now: Duration, server: usize) {
        self.advance(now);
        self.is_member[server] = true;
    }

    /// Records the start of a connection to `server`.
    pub fn opened(&mut self, now: Duration, server: usize) {
        self.advance(now);
        self.in_flight[server] += 1;
        let most = &mut self.outcome.most_open;
        *most = (*most).max(self.in_flight[server]);
    }

    /// Records the end of a connection to `server`.
    pub fn closed(&mut self, now: Duration, server: usize) {
        self.advance(now);
        self.in_flight[server] = self.in_flight[server].saturating_sub(1);
    }

    /// Records that `server` has accepted a connection from a client that arrived at `arrived`.
    pub fn accepted(&mut self, now: Duration, arrived: Duration, server: usize) {
        self.advance(now);
        if self.is_measuring(now) {
            self.outcome.connects[server] += 1;
            self.outcome.waits.push(now.saturating_sub(arrived));
        }
        if let Some(meter) = &mut self.watched {
            let is_watched = server == meter.watched.server;
            if is_watched && now >= meter.watched.from {
                meter.began.get_or_insert(now);
            }
            if meter.began.is_some() {
                meter.all += 1;
                meter.own += u32::from(is_watched);
            }
        }
    }

    /// Whether an event at `now` is counted in the outcome.
    pub fn is_measuring(&self, now: Duration) -> bool {
        now >= self.warm_up
    }

    pub fn finish(mut self, end: Duration) -> Outcome {
        self.advance(end);
        self.outcome.peak_to_mean = ratio(self.area, self.loaded);
        self.outcome
    }

    /// Adds the time since the last event to the averages. Must be called before the counts
    /// change.
    fn advance(&mut self, now: Duration) {
        self.finish_seconds(now);
        let Some(elapsed) = now.checked_sub(self.measured_until) else {
            return;
        };
        self.measured_until = now;
        let (mut peak, mut open, mut weight) = (0f64, 0u32, 0f64);
        for (server, &count) in self.in_flight.iter().enumerate() {
            if self.is_member[server] {
                peak = peak.max(f64::from(count) / self.weights[server]);
                open += count;
                weight += self.weights[server];
            }
        }
        if open > 0 {
            let seconds = elapsed.as_secs_f64();
            self.area += seconds * peak * weight / f64::from(open);
            self.loaded += seconds;
        }
    }

    /// Records the seconds of the watched server that have ended by `now`.
    fn finish_seconds(&mut self, now: Duration) {
        let Some(meter) = &mut self.watched else {
            return;
        };
        let Some(began) = meter.began else {
            return;
        };
        let server = meter.watched.server;
        let members = self.weights.iter().zip(&self.is_member);
        let total: f64 = members
            .filter(|(_, is)| **is)
            .map(|(weight, _)| weight)
            .sum();
        let fair = self.weights[server] / total;
        let seconds = &mut self.outcome.watched;
        while began + Duration::from_secs(seconds.len() as u64 + 1) <= now {
            let open: u32 = self.in_flight.iter().sum();
            seconds.push(Second {
                rate: ratio(f64::from(meter.own), f64::from(meter.all) * fair),
                share: ratio(f64::from(self.in_flight[server]), f64::from(open) * fair),
            });
            (meter.own, meter.all) = (0, 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn peak_to_mean_is_averaged_over_time_with_load() {
        let weights = vec![1.0, 3.0];
        let mut meter = Meter::new(weights, vec![true, true], SECOND, None);
        // Before the warm-up ends: not measured.
        meter.opened(Duration::ZERO, 0);
        // From 1 s to 3 s, loads 1 and 0: peak/mean is 1 / (1/4).
        meter.opened(3 * SECOND, 1);
        meter.opened(3 * SECOND, 1);
        meter.opened(3 * SECOND, 1);
        // From 3 s to 5 s, loads 1 and 1: peak/mean is 1.
        for _ in 0..3 {
            meter.closed(5 * SECOND, 1);
        }
        meter.closed(5 * SECOND, 0);
        // From then on, there is no load.
        let outcome = meter.finish(100 * SECOND);
        assert!((outcome.peak_to_mean - 2.5).abs() < 1e-9, "{outcome:?}");
        assert_eq!(outcome.most_open, 3);
    }

    #[test]
    fn watched_seconds_begin_with_the_first_connection() {
        let watched = Watched {
            server: 1,
            from: SECOND,
        };
        let mut meter = Meter::new(vec![1.0; 2], vec![true; 2], SECOND, Some(watched));
        let mut connect = |at, server| {
            meter.opened(at, server);
            meter.accepted(at, at, server);
        };
        connect(Duration::ZERO, 1);
        connect(2 * SECOND, 0);
        connect(4 * SECOND, 1);
        connect(4 * SECOND + SECOND / 2, 0);
        let seconds = meter.finish(6 * SECOND).watched;
        // Second 1: one of two new connections, and two of four open ones.
        assert_eq!(seconds.len(), 2);
        assert!((seconds[0].rate - 1.0).abs() < 1e-9 && (seconds[0].share - 1.0).abs() < 1e-9);
        assert!(seconds[1].rate.abs() < 1e-9 && (seconds[1].share - 1.0).abs() < 1e-9);
    }
}
