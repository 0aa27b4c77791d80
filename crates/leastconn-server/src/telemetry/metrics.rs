//! What Prometheus reads. Label values are configured names and reason codes,
//! never anything that a client sends.

mod collect;
mod process;
mod series;

use std::{collections::HashSet, fmt::Write, sync::Arc};

use leastconn::Reason;
use parking_lot::RwLock;
use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::Registry,
};

pub use collect::{Dated, Observed};
pub use series::ClientMetrics;

use series::{AllSeries, Series};

/// All counters of the process.
#[derive(Debug)]
pub struct Metrics {
    registry: RwLock<Registry>,
    series: Arc<Series>,
    reloads: Family<Reload, Counter>,
    connections_limit: Gauge,
    /// From accept to established TLS.
    pub handshake_seconds: Histogram,
    /// From the first attempt to an open connection to a server.
    pub connect_seconds: Histogram,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Reload {
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Version {
    version: &'static str,
}

/// The counters of one listener, at hand: no look-up on a connection's way.
#[derive(Debug)]
pub struct ListenerMetrics {
    /// Connections that are open.
    pub active: Gauge,
    /// TLS handshakes that are going on.
    pub handshakes: Gauge,
    /// Those that wait for others: for a place, or for a turn at the processor.
    pub waiting: Gauge,
    outcomes: Vec<Counter>,
    /// Bytes received from clients.
    pub received: Counter,
    /// Bytes sent to clients.
    pub sent: Counter,
}

impl Metrics {
    /// Registers everything.
    pub fn new() -> Self {
        let mut registry = Registry::default();
        // A full handshake takes some 0.4 ms of CPU and a round trip or two;
        // connecting within a data centre much less.
        let seconds = || Histogram::new(exponential_buckets(0.000_25, 2.0, 16));
        let metrics = Self {
            series: Arc::default(),
            reloads: Family::default(),
            connections_limit: Gauge::default(),
            handshake_seconds: seconds(),
            connect_seconds: seconds(),
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
            "Connections that may be open at once, of all listeners together",
            m.connections_limit.clone(),
        );
        registry.register(
            "leastconn_handshake_seconds",
            "Time from accept to established TLS",
            m.handshake_seconds.clone(),
        );
        registry.register(
            "leastconn_server_connect_seconds",
            "Time until a connection to a server was open, further attempts included",
            m.connect_seconds.clone(),
        );
        registry.register(
            "leastconn_config_reloads",
            "Reloads of the configuration, and loads of changed TLS files",
            m.reloads.clone(),
        );
        registry.register("leastconn_build_info", "The version that runs", version);
        registry.register_collector(Box::new(process::Process::new()));
        registry.register_collector(Box::new(AllSeries(Arc::clone(&metrics.series))));
        Self {
            registry: RwLock::new(registry),
            ..metrics
        }
    }

    /// Adds what is read from the running state at each scrape.
    pub fn observe(&self, observed: impl Observed) {
        self.registry
            .write()
            .register_collector(Box::new(collect::Collect(observed)));
    }

    /// The metrics of a listener. Created where there are none.
    pub fn listener(&self, name: &str) -> Arc<ListenerMetrics> {
        self.series.listeners.get_or_create(name)
    }

    /// So many connections may be open at once.
    pub fn limit_connections(&self, limit: usize) {
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        self.connections_limit.set(limit);
    }

    /// The configuration was to be changed, and was or not.
    pub fn reloaded(&self, applied: bool) {
        let outcome = if applied { "applied" } else { "rejected" };
        self.reloads.get_or_create(&Reload { outcome }).inc();
    }

    /// The metrics of a client rule, if it was used.
    pub fn client(&self, name: &str) -> Option<Arc<ClientMetrics>> {
        self.series.clients.get(name)
    }

    /// The metrics of a client rule. Created where there are none.
    pub fn client_or_new(&self, name: &str) -> Arc<ClientMetrics> {
        self.series.clients.get_or_create(name)
    }

    /// Counts what a rule in shadow mode would have decided.
    pub fn client_shadowed(&self, client: &str, outcome: Reason) {
        self.series.shadows.get_or_create(client).count(outcome);
    }

    /// Removes the series of listeners and client rules that are gone from the
    /// configuration and have no open connection. `retired`: listeners that are gone, which
    /// may still be referenced. `clients` returns the names of all rules; it is called only
    /// if a rule was not found in this `generation` of the configuration yet.
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

    /// All metrics in Prometheus' text format, version 0.0.4.
    pub fn encode(&self) -> String {
        let mut open_metrics = String::new();
        let registry = self.registry.read();
        // Writing to a string does not fail.
        let _ = encode(&mut open_metrics, &registry);
        drop(registry);
        to_text_format(&open_metrics)
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Default for ListenerMetrics {
    fn default() -> Self {
        Self {
            active: Gauge::default(),
            handshakes: Gauge::default(),
            waiting: Gauge::default(),
            outcomes: Reason::ALL.iter().map(|_| Counter::default()).collect(),
            received: Counter::default(),
            sent: Counter::default(),
        }
    }
}

impl ListenerMetrics {
    /// A connection ended.
    pub fn ended(&self, reason: Reason) {
        self.active.dec();
        self.outcomes[reason.index()].inc();
    }

    /// How many ended, by reason.
    pub fn outcomes(&self) -> impl Iterator<Item = (Reason, u64)> {
        let counted = self.outcomes.iter().map(Counter::get);
        Reason::ALL.iter().copied().zip(counted)
    }
}

/// The content type of [`Metrics::encode`].
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// OpenMetrics to the older text format, which every scraper, `promtool` and
/// `curl | grep` understands. They differ, for what is used here, in that a
/// counter's `_total` belongs to its name in the older one, and in the last line.
fn to_text_format(open_metrics: &str) -> String {
    let mut text = String::with_capacity(open_metrics.len() + 1024);
    let mut help: Option<&str> = None;
    for line in open_metrics.lines() {
        if line == "# EOF" || line.starts_with("# UNIT ") {
            continue;
        }
        if let Some(rest) = line.strip_prefix("# HELP ") {
            help = Some(rest);
            continue;
        }
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap_or((rest, "untyped"));
            let total = if kind == "counter" { "_total" } else { "" };
            if let Some((_, description)) = help.take().and_then(|help| help.split_once(' ')) {
                let _ = writeln!(text, "# HELP {name}{total} {description}");
            }
            let _ = writeln!(text, "# TYPE {name}{total} {kind}");
            continue;
        }
        text.push_str(line);
        text.push('\n');
    }
    text
}

/// Ends when dropped: for handshakes that are going on.
#[derive(Debug)]
pub struct GaugeGuard(Gauge);

impl GaugeGuard {
    /// Counts one more.
    pub fn new(gauge: &Gauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for GaugeGuard {
    fn drop(&mut self) {
        self.0.dec();
    }
}

#[cfg(test)]
mod tests;
