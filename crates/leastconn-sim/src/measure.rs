//! Measures of simulations.

use std::time::Duration;

use crate::meter::{Outcome, Second};

/// A column of a scenario's table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Measure {
    PeakToMean,
    /// The percentage of connections that one server accepted.
    ShareOf {
        server: usize,
        column: &'static str,
    },
    /// The percentage of connections that a server accepted but did not serve.
    Failed,
    /// The percentage of connections without a usable server.
    Refused,
    MostOpen,
    /// The longest time until a connection was established, in seconds.
    LongestWait,
    /// New connections per second to the watched server, relative to its fair share: the maximum of
    /// the means over three seconds. The rate in a single second is noisy.
    PeakRate,
    /// Open connections of the watched server this many seconds after its first connection, as a
    /// percentage of its fair share.
    ShareAfter(usize),
}

impl Measure {
    /// The heading of the column, with the unit.
    pub fn column(self) -> String {
        match self {
            Self::PeakToMean => "peak/mean".to_owned(),
            Self::ShareOf { column, .. } => format!("{column} %"),
            Self::Failed => "failed %".to_owned(),
            Self::Refused => "refused %".to_owned(),
            Self::MostOpen => "most open".to_owned(),
            Self::LongestWait => "longest wait s".to_owned(),
            Self::PeakRate => "peak rate ×fair".to_owned(),
            Self::ShareAfter(seconds) => format!("share after {seconds} s %"),
        }
    }

    /// The mean of `outcomes`.
    pub fn value(self, outcomes: &[Outcome]) -> f64 {
        match self {
            // Average over the runs first: the maximum of one run is mostly noise.
            Self::PeakRate => seconds(outcomes)
                .windows(3)
                .map(|window| mean(window.iter().map(|second| second.rate)))
                .fold(0.0, f64::max),
            Self::ShareAfter(after) => seconds(outcomes)
                .get(after.saturating_sub(1))
                .map_or(0.0, |second| 100.0 * second.share),
            _ => mean(outcomes.iter().map(|outcome| self.of(outcome))),
        }
    }

    fn of(self, outcome: &Outcome) -> f64 {
        let percent = |part: u64| 100.0 * part as f64 / outcome.connections.max(1) as f64;
        match self {
            Self::PeakToMean => outcome.peak_to_mean,
            Self::ShareOf { server, .. } => 100.0 * outcome.share_of(server),
            Self::Failed => percent(outcome.failed),
            Self::Refused => percent(outcome.refused),
            Self::MostOpen => outcome.most_open.into(),
            Self::LongestWait => {
                let longest = outcome.waits.iter().max();
                longest.map_or(0.0, Duration::as_secs_f64)
            }
            Self::PeakRate | Self::ShareAfter(_) => 0.0,
        }
    }
}

fn mean(values: impl ExactSizeIterator<Item = f64>) -> f64 {
    let count = values.len().max(1) as f64;
    values.sum::<f64>() / count
}

/// The per-second means for the watched server, each over all simulations that reached that second.
pub fn seconds(outcomes: &[Outcome]) -> Vec<Second> {
    let longest = outcomes.iter().map(|outcome| outcome.watched.len()).max();
    (0..longest.unwrap_or(0))
        .map(|at| {
            let reached: Vec<Second> = outcomes
                .iter()
                .filter_map(|outcome| outcome.watched.get(at).copied())
                .collect();
            Second {
                rate: mean(reached.iter().map(|second| second.rate)),
                share: mean(reached.iter().map(|second| second.share)),
            }
        })
        .collect()
}
