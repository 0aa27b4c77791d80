//! `GET /api/v1/history`: samples of the last five minutes, for the graphs of the
//! dashboard and `top`.
//!
//! The admin thread takes a sample every two seconds while the admin side listens.

mod servers;

use std::{collections::VecDeque, mem, sync::Arc, time::Duration};

use jiff::Timestamp;
use parking_lot::{Mutex, MutexGuard};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::time::{MissedTickBehavior, interval};

use super::{count, time};
use crate::{context::ServerContext, telemetry::metrics::LatencyCounts};

pub use servers::{ServerHistories, ServerHistory};

const EVERY: Duration = Duration::from_secs(2);
const KEPT: usize = 150;

/// Quantiles of a sample are those of the last ten seconds, because the two seconds of one sample
/// often contain too few connections.
const LATENCY_SAMPLES: usize = 5;

/// Samples of the last five minutes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Samples {
    /// Nominal time between two samples.
    pub interval_seconds: f64,
    /// Oldest first.
    pub samples: Vec<Sample>,
}

/// Rates between two readings.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Sample {
    /// Time of the second reading.
    pub time: String,
    /// Open connections at that time.
    pub open: u64,
    /// Connections accepted per second.
    pub accepted_per_second: f64,
    /// Connections refused per second.
    pub refused_per_second: f64,
    /// Bytes received from clients per second.
    pub received_per_second: f64,
    /// Bytes sent to clients per second.
    pub sent_per_second: f64,
    /// Time from accept to the end of the TLS handshake. Absent without handshakes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub handshake: Option<Latency>,
    /// Time until a server was connected, including retries. Absent without connects.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connect: Option<Latency>,
}

/// Quantiles of the ten seconds before a sample, interpolated within the buckets of the histogram
/// in `/metrics`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Latency {
    /// Median, in milliseconds.
    pub p50_ms: f64,
    /// 99th percentile, in milliseconds.
    pub p99_ms: f64,
}

/// Limit of the history.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct HistoryQuery {
    /// Maximum number of samples, of which the newest are returned; default: all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last: Option<usize>,
}

/// Ring buffers of samples.
#[derive(Debug, Default)]
pub struct History {
    samples: Mutex<VecDeque<Sample>>,
    pub(super) servers: ServerHistories,
}

/// Counter values at the time `at`. They only increase, except when a listener is removed.
#[derive(Clone, Copy, Debug)]
struct Reading {
    at: Timestamp,
    open: u64,
    accepted: u64,
    refused: u64,
    received: u64,
    sent: u64,
    latencies: Latencies,
}

/// Durations since the start.
#[derive(Clone, Copy, Debug, Default)]
struct Latencies {
    handshake: LatencyCounts,
    connect: LatencyCounts,
}

impl History {
    pub fn samples(&self, query: &HistoryQuery) -> Samples {
        let kept = self.lock();
        let left_out = kept.len().saturating_sub(query.last.unwrap_or(KEPT));
        Samples {
            interval_seconds: EVERY.as_secs_f64(),
            samples: kept.iter().skip(left_out).cloned().collect(),
        }
    }

    fn clear(&self) {
        self.lock().clear();
        self.servers.clear();
    }

    fn add(&self, sample: Sample) {
        let mut kept = self.lock();
        if kept.len() == KEPT {
            kept.pop_front();
        }
        kept.push_back(sample);
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Sample>> {
        self.samples.lock()
    }
}

/// Takes samples until the future is dropped. First deletes earlier samples, because hours may have
/// passed since they were taken.
pub async fn record(history: Arc<History>, context: Arc<ServerContext>) {
    history.clear();
    let mut tick = interval(EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    tick.tick().await;
    let mut before = Reading::take(&context);
    let mut latencies = [before.latencies; LATENCY_SAMPLES];
    for number in 0.. {
        if number % servers::SAMPLES == 0 {
            history.servers.read(&context);
        }
        tick.tick().await;
        let now = Reading::take(&context);
        let oldest = mem::replace(&mut latencies[number % LATENCY_SAMPLES], now.latencies);
        // After the system clock is set, one sample is wrong or missing.
        if let Some(sample) = now.since(&before, &oldest) {
            history.add(sample);
        }
        before = now;
    }
}

impl Latency {
    fn of(counts: &LatencyCounts) -> Option<Self> {
        let milliseconds = |quantile| Some((counts.quantile(quantile)? * 1e6).round() / 1e3);
        Some(Self {
            p50_ms: milliseconds(0.5)?,
            p99_ms: milliseconds(0.99)?,
        })
    }
}

impl Reading {
    fn take(context: &ServerContext) -> Self {
        context.registry.meter_traffic();
        let mut reading = Self {
            at: Timestamp::now(),
            open: 0,
            accepted: 0,
            refused: 0,
            received: 0,
            sent: 0,
            latencies: Latencies {
                handshake: context.telemetry.metrics.handshake_seconds.counts(),
                connect: context.telemetry.metrics.connect_seconds.counts(),
            },
        };
        let current = context.snapshot();
        for listener in current
            .listeners
            .values()
            .chain(current.removed_listeners.values())
        {
            let metrics = &listener.metrics;
            let open = count(metrics.active.get());
            reading.open += open;
            reading.accepted += open;
            for (reason, ended) in metrics.outcomes() {
                reading.accepted += ended;
                if reason.is_refusal() {
                    reading.refused += ended;
                }
            }
            reading.received += metrics.received.get();
            reading.sent += metrics.sent.get();
        }
        reading
    }

    /// The sample since `before`. Its latencies are those since `earlier`.
    fn since(&self, before: &Self, earlier: &Latencies) -> Option<Sample> {
        let latencies = &self.latencies;
        let seconds = (self.at.as_microsecond() - before.at.as_microsecond()) as f64 / 1e6;
        let per_second = |now: u64, then: u64| now.saturating_sub(then) as f64 / seconds;
        (seconds > 0.0).then(|| Sample {
            time: time(self.at),
            open: self.open,
            accepted_per_second: per_second(self.accepted, before.accepted),
            refused_per_second: per_second(self.refused, before.refused),
            received_per_second: per_second(self.received, before.received),
            sent_per_second: per_second(self.sent, before.sent),
            handshake: Latency::of(&latencies.handshake.since(&earlier.handshake)),
            connect: Latency::of(&latencies.connect.since(&earlier.connect)),
        })
    }
}
