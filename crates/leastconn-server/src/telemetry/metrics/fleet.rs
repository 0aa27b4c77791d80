//! Metrics of a fleet member. They are shown only while the process is a member of a fleet.

use std::fmt;

use prometheus_client::{
    encoding::{DescriptorEncoder, EncodeLabelSet},
    metrics::{
        MetricType,
        counter::{ConstCounter, Counter},
        gauge::ConstGauge,
        histogram::{Histogram, exponential_buckets},
    },
};

use super::family::{ServerLabels, family, single};
use crate::fleet::FleetState;

/// Counters of a fleet member. They keep their values when a reload changes the fleet.
#[derive(Debug)]
pub struct FleetMetrics {
    /// Duration of successful exchanges with the store.
    pub exchange_seconds: Histogram,
    exchange_failures: Counter,
    asks: [Counter; AskOutcome::ALL.len()],
}

/// The outcome for a connection that waited for the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AskOutcome {
    /// The store admitted it.
    Granted,
    /// The store refused it.
    Refused,
    /// The store did not answer within `ask_timeout`.
    TimedOut,
}

impl AskOutcome {
    const ALL: [Self; 3] = [Self::Granted, Self::Refused, Self::TimedOut];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Granted => "granted",
            Self::Refused => "refused",
            Self::TimedOut => "timeout",
        }
    }
}

/// The state of the fleet at a scrape.
#[derive(Clone, Debug)]
pub struct FleetGauges {
    pub state: FleetState,
    /// Members that are alive, including this one.
    pub members: usize,
    /// Upstream and server, and the number of open connections of other members to it.
    pub elsewhere: Vec<(String, String, u64)>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StateLabels {
    state: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct AskLabels {
    outcome: &'static str,
}

impl Default for FleetMetrics {
    fn default() -> Self {
        Self {
            // An exchange takes 0.1 ms if the store is on the same machine, and fails after 250 ms.
            exchange_seconds: Histogram::new(exponential_buckets(0.000_125, 2.0, 12)),
            exchange_failures: Counter::default(),
            asks: Default::default(),
        }
    }
}

impl FleetMetrics {
    pub fn exchange_failed(&self) {
        self.exchange_failures.inc();
    }

    /// Exchanges that failed since the start of the process.
    pub fn exchange_failures(&self) -> u64 {
        self.exchange_failures.get()
    }

    /// Counts connections that waited for the store.
    pub fn asked(&self, outcome: AskOutcome, connections: u64) {
        self.asks[outcome as usize].inc_by(connections);
    }

    pub(super) fn encode(
        &self,
        gauges: &FleetGauges,
        encoder: &mut DescriptorEncoder<'_>,
    ) -> Result<(), fmt::Error> {
        let states = FleetState::ALL.into_iter().map(|state| {
            let labels = StateLabels {
                state: state.as_str(),
            };
            let is_current = i64::from(state == gauges.state);
            (labels, ConstGauge::new(is_current))
        });
        family(
            encoder,
            "leastconn_fleet_state",
            "1 for the current state in the fleet: joining, joined, cut_off; else 0",
            MetricType::Gauge,
            states,
        )?;
        single(
            encoder,
            "leastconn_fleet_members",
            "Members of the fleet that are alive, including this one",
            MetricType::Gauge,
            &ConstGauge::new(i64::try_from(gauges.members).unwrap_or(i64::MAX)),
        )?;
        single(
            encoder,
            "leastconn_fleet_exchange_seconds",
            "Duration of successful exchanges with the store",
            MetricType::Histogram,
            &self.exchange_seconds,
        )?;
        single(
            encoder,
            "leastconn_fleet_exchange_failures",
            "Exchanges with the store that failed",
            MetricType::Counter,
            &self.exchange_failures,
        )?;
        let asks = AskOutcome::ALL.into_iter().map(|outcome| {
            let labels = AskLabels {
                outcome: outcome.as_str(),
            };
            (labels, ConstCounter::new(self.asks[outcome as usize].get()))
        });
        family(
            encoder,
            "leastconn_fleet_asks",
            "Connections near a limit that waited for the store, by outcome",
            MetricType::Counter,
            asks,
        )?;
        let elsewhere = gauges.elsewhere.iter().map(|(upstream, server, count)| {
            let labels = ServerLabels {
                upstream: upstream.clone(),
                server: server.clone(),
            };
            let count = i64::try_from(*count).unwrap_or(i64::MAX);
            (labels, ConstGauge::new(count))
        });
        family(
            encoder,
            "leastconn_server_connections_elsewhere",
            "Open connections of other members of the fleet to a server",
            MetricType::Gauge,
            elsewhere,
        )
    }
}
