//! Metrics for Prometheus. Label values are configured names and reason codes, never
//! anything that a client sends.

mod collect;
mod family;
mod fleet;
mod format;
mod latency;
mod listener;
mod process;
mod series;

use std::{collections::HashSet, sync::Arc};

use parking_lot::RwLock;
use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

pub use collect::{DiscoveryState, FileValidity, Observed};
pub use fleet::{AskOutcome, FleetGauges, FleetMetrics};
pub use format::Format;
pub use latency::{LatencyCounts, LatencyHistogram};
pub use listener::{GaugeGuard, ListenerMetrics};
pub use series::ClientMetrics;

use series::{AllSeries, Series};

use crate::reason_code::ReasonCode;

/// All metrics of the process.
#[derive(Debug)]
pub struct Metrics {
    registry: RwLock<Registry>,
    series: Arc<Series>,
    reloads: Family<Reload, Counter>,
    connections_limit: Gauge,
    /// Time from accept to the end of the TLS handshake.
    pub handshake_seconds: LatencyHistogram,
    /// Time from the first connection attempt until a server is connected.
    pub connect_seconds: LatencyHistogram,
    /// Time that a connection has waited in the queue of its upstream.
    pub queue_seconds: LatencyHistogram,
    /// Shown only while the process is a member of a fleet.
    pub fleet: Arc<FleetMetrics>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Reload {
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Version {
    version: &'static str,
}

impl Metrics {
    pub fn new() -> Self {
        let mut registry = Registry::default();
        let metrics = Self {
            series: Arc::default(),
            reloads: Family::default(),
            connections_limit: Gauge::default(),
            handshake_seconds: LatencyHistogram::default(),
            connect_seconds: LatencyHistogram::default(),
            queue_seconds: LatencyHistogram::default(),
            fleet: Arc::default(),
            registry: RwLock::default(),
        };
        let version = Family::<Version, Gauge>::default();
        version
            .get_or_create(&Version {
                version: env!("CARGO_PKG_VERSION"),
            })
            .set(1);
        for outcome in ["applied", "rejected"] {
            let _ = metrics.reloads.get_or_create(&Reload { outcome });
        }
        let m = &metrics;
        registry.register(
            "leastconn_connections_limit",
            "Maximum open connections, of all listeners together",
            m.connections_limit.clone(),
        );
        registry.register(
            "leastconn_handshake_seconds",
            "Time from accept to the end of the TLS handshake",
            m.handshake_seconds.clone(),
        );
        registry.register(
            "leastconn_server_connect_seconds",
            "Time until a server was connected, including retries",
            m.connect_seconds.clone(),
        );
        registry.register(
            "leastconn_upstream_queue_seconds",
            "Time that connections waited in the queue of their upstream, served or not",
            m.queue_seconds.clone(),
        );
        registry.register(
            "leastconn_config_reloads",
            "Reloads of the configuration or of changed TLS files",
            m.reloads.clone(),
        );
        registry.register(
            "leastconn_build_info",
            "Version of the running program",
            version,
        );
        registry.register_collector(Box::new(process::Process::new()));
        registry.register_collector(Box::new(AllSeries(Arc::clone(&metrics.series))));
        Self {
            registry: RwLock::new(registry),
            ..metrics
        }
    }

    /// Adds metrics that are read from the running state at each scrape.
    pub fn observe(&self, observed: impl Observed) {
        self.registry
            .write()
            .register_collector(Box::new(collect::Collect {
                observed,
                fleet: Arc::clone(&self.fleet),
            }));
    }

    /// Metrics of a listener, created on first use.
    pub fn listener(&self, name: &str) -> Arc<ListenerMetrics> {
        self.series.listeners.get_or_create(name)
    }

    pub fn set_connections_limit(&self, limit: usize) {
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        self.connections_limit.set(limit);
    }

    /// Counts a reload.
    pub fn reloaded(&self, applied: bool) {
        let outcome = if applied { "applied" } else { "rejected" };
        self.reloads.get_or_create(&Reload { outcome }).inc();
    }

    /// Metrics of a client rule, if it has ever been used.
    pub fn client(&self, name: &str) -> Option<Arc<ClientMetrics>> {
        self.series.clients.get(name)
    }

    /// Metrics of a client rule, created on first use.
    pub fn client_or_new(&self, name: &str) -> Arc<ClientMetrics> {
        self.series.clients.get_or_create(name)
    }

    /// Counts a decision of a rule in shadow mode.
    pub fn client_shadowed(&self, client: &str, outcome: ReasonCode) {
        self.series.shadows.get_or_create(client).count(outcome);
    }

    /// Removes the series of listeners and client rules that were removed from the
    /// configuration and have no open connection. `retired` returns whether a listener was
    /// removed and may still be referenced. `clients` returns the names of all rules. It is
    /// called only if a rule has not been found in this `generation` of the configuration.
    pub fn prune<'a>(
        &self,
        generation: u64,
        retired: impl Fn(&str) -> bool,
        listener_exists: impl Fn(&str) -> bool,
        clients: impl FnOnce() -> HashSet<&'a str>,
    ) {
        let Series {
            listeners,
            clients: rules,
            shadows,
        } = &*self.series;
        listeners.retain(generation, &listener_exists, |name, listener| {
            retired(name) && listener.active.get() == 0
        });
        if rules.all_found_in(generation) && shadows.all_found_in(generation) {
            return;
        }
        let names = clients();
        let exists = |name: &str| names.contains(name);
        for table in [rules, shadows] {
            table.retain(generation, exists, |_, _| false);
        }
    }

    /// All metrics as text.
    pub fn encode(&self, format: Format) -> String {
        let mut open_metrics = String::new();
        let registry = self.registry.read();
        // Writing to a `String` does not fail.
        let _ = encode(&mut open_metrics, &registry);
        drop(registry);
        match format {
            Format::OpenMetrics => open_metrics,
            Format::Prometheus => format::to_prometheus(&open_metrics),
        }
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests;
