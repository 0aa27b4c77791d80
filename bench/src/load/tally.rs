//! Results of a load session.

use std::{collections::BTreeMap, fmt, time::Duration};

use hdrhistogram::Histogram;
use serde::Serialize;

use super::{Mode, client::Failure};

/// Maximum latency. Longer latencies are recorded as this value.
const LONGEST_NS: u64 = 60_000_000_000;

/// Counts, errors and latencies of a measurement period.
#[derive(Debug)]
pub struct Tally {
    pub elapsed: Duration,
    pub operations: u64,
    /// Successful connections with a resumed TLS session.
    pub resumed: u64,
    /// Payload bytes in the measured direction.
    pub bytes: u64,
    /// Number of failures by step and kind.
    pub errors: BTreeMap<String, u64>,
    /// Connections open at the end of the period.
    pub open: usize,
    /// Negotiated TLS version and cipher suite of one of the connections.
    pub negotiated: String,
    latencies: Histogram<u64>,
}

/// Percentiles of the latency, in nanoseconds.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Latency {
    pub p50: u64,
    pub p99: u64,
    pub p999: u64,
    pub max: u64,
}

impl Default for Tally {
    fn default() -> Self {
        // Record latencies from 1 ns with three significant digits.
        let latencies = Histogram::new_with_bounds(1, LONGEST_NS, 3)
            .unwrap_or_else(|_| unreachable!("these bounds are valid"));
        Self {
            elapsed: Duration::ZERO,
            operations: 0,
            resumed: 0,
            bytes: 0,
            errors: BTreeMap::new(),
            open: 0,
            negotiated: String::new(),
            latencies,
        }
    }
}

impl Tally {
    pub fn succeeded(&mut self, took: Duration, bytes: u64) {
        self.operations += 1;
        self.bytes += bytes;
        let ns = u64::try_from(took.as_nanos()).unwrap_or(LONGEST_NS);
        self.latencies.saturating_record(ns);
    }

    pub fn failed(&mut self, failure: &Failure) {
        *self.errors.entry(failure.to_string()).or_default() += 1;
    }

    /// Percentiles of the latency. `None` if no operation has succeeded.
    pub fn latency(&self) -> Option<Latency> {
        if self.latencies.is_empty() {
            return None;
        }
        Some(Latency {
            p50: self.latencies.value_at_quantile(0.5),
            p99: self.latencies.value_at_quantile(0.99),
            p999: self.latencies.value_at_quantile(0.999),
            max: self.latencies.max(),
        })
    }

    /// The result that `load` prints.
    pub fn summary(&self, mode: Mode) -> Summary {
        let seconds = self.elapsed.as_secs_f64();
        let per_second = |n: u64| {
            if seconds > 0.0 {
                n as f64 / seconds
            } else {
                0.0
            }
        };
        Summary {
            mode,
            seconds,
            connections_open: self.open,
            operations: self.operations,
            operations_per_second: per_second(self.operations),
            bytes: self.bytes,
            mib_per_second: per_second(self.bytes) / 1_048_576.0,
            latency_ns: self.latency(),
            errors: self.errors.clone(),
            negotiated: self.negotiated.clone(),
        }
    }
}

/// The printed result of `load`, as text or JSON.
#[derive(Debug, Serialize)]
pub struct Summary {
    mode: Mode,
    seconds: f64,
    connections_open: usize,
    operations: u64,
    operations_per_second: f64,
    bytes: u64,
    mib_per_second: f64,
    latency_ns: Option<Latency>,
    errors: BTreeMap<String, u64>,
    negotiated: String,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |ns: u64| ns as f64 / 1e6;
        writeln!(f, "time          {:.2} s", self.seconds)?;
        writeln!(
            f,
            "connections   {} open ({})",
            self.connections_open, self.negotiated
        )?;
        if let Some(latency) = &self.latency_ns {
            writeln!(
                f,
                "operations    {} ({:.0}/s)",
                self.operations, self.operations_per_second
            )?;
            writeln!(
                f,
                "latency       p50 {:.3} ms, p99 {:.3} ms, p99.9 {:.3} ms, max {:.3} ms",
                ms(latency.p50),
                ms(latency.p99),
                ms(latency.p999),
                ms(latency.max)
            )?;
        }
        if self.bytes > 0 {
            writeln!(f, "payload       {:.1} MiB/s", self.mib_per_second)?;
        }
        if self.errors.is_empty() {
            return writeln!(f, "errors        none");
        }
        for (kind, count) in &self.errors {
            writeln!(f, "errors        {count} × {kind}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;
    use crate::load::client::Step;

    #[test]
    fn percentiles_exclude_errors() {
        let mut tally = Tally::default();
        assert!(tally.latency().is_none());
        for ms in 1..=1000 {
            tally.succeeded(Duration::from_millis(ms), 64);
        }
        let reset = || io::Error::from(io::ErrorKind::ConnectionReset);
        tally.failed(&Failure::at(Step::Echo)(reset()));
        tally.failed(&Failure::at(Step::Echo)(reset()));
        tally.failed(&Failure::at(Step::Connect)(reset()));
        tally.elapsed = Duration::from_secs(2);

        let latency = tally.latency().unwrap();
        let near = |ns: u64, ms: u64| (ns as f64 / (ms as f64 * 1e6) - 1.0).abs() < 0.002;
        assert!(near(latency.p50, 500), "{latency:?}");
        assert!(near(latency.p99, 990), "{latency:?}");
        assert!(near(latency.p999, 999), "{latency:?}");
        let errors: Vec<_> = tally.errors.iter().map(|(k, n)| (k.as_str(), *n)).collect();
        assert_eq!(
            errors,
            [
                ("connect: connection reset", 1),
                ("echo: connection reset", 2)
            ]
        );
        let text = tally.summary(Mode::Echo).to_string();
        assert!(text.contains("1000 (500/s)"), "{text}");
    }

    #[test]
    fn latencies_are_capped_at_a_minute() {
        let mut tally = Tally::default();
        tally.succeeded(Duration::from_secs(3600), 0);
        let max = tally.latency().unwrap().max;
        assert!((59..=61).contains(&(max / 1_000_000_000)), "{max}");
    }
}
