//! What Prometheus reads. Label values are configured names and reason codes,
//! never anything that a client sends.

mod collect;
mod process;

use std::{fmt::Write, sync::RwLock};

use leastconn::Reason;
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

/// All counters of the process.
#[derive(Debug)]
pub struct Metrics {
    registry: RwLock<Registry>,
    connections: Family<Ended, Counter>,
    active: Family<OfListener, Gauge>,
    handshakes: Family<OfListener, Gauge>,
    waiting: Family<OfListener, Gauge>,
    bytes: Family<Bytes, Counter>,
    client_connections: Family<ClientEnded, Counter>,
    client_active: Family<OfClient, Gauge>,
    client_shadow: Family<ClientEnded, Counter>,
    /// The sum of `client_connections` over all reasons. Not told: there may be very
    /// many rules to be put in order by it, and that is one look-up for each.
    client_ended: Family<OfClient, Counter>,
    reloads: Family<Reload, Counter>,
    connections_limit: Gauge,
    /// From accept to established TLS.
    pub handshake_seconds: Histogram,
    /// From the first attempt to an open connection to a server.
    pub connect_seconds: Histogram,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Ended {
    listener: String,
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfListener {
    listener: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Bytes {
    listener: String,
    direction: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ClientEnded {
    client: String,
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfClient {
    client: String,
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
            connections: Family::default(),
            active: Family::default(),
            handshakes: Family::default(),
            waiting: Family::default(),
            bytes: Family::default(),
            client_connections: Family::default(),
            client_active: Family::default(),
            client_shadow: Family::default(),
            client_ended: Family::default(),
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
            "leastconn_connections",
            "Accepted connections that ended, by reason code",
            m.connections.clone(),
        );
        registry.register(
            "leastconn_connections_active",
            "Connections that are open",
            m.active.clone(),
        );
        registry.register(
            "leastconn_connections_limit",
            "Connections that may be open at once, of all listeners together",
            m.connections_limit.clone(),
        );
        registry.register(
            "leastconn_handshakes_active",
            "TLS handshakes that are going on",
            m.handshakes.clone(),
        );
        registry.register(
            "leastconn_handshakes_waiting",
            "TLS handshakes that wait for others",
            m.waiting.clone(),
        );
        registry.register(
            "leastconn_handshake_seconds",
            "Time from accept to established TLS",
            m.handshake_seconds.clone(),
        );
        registry.register(
            "leastconn_bytes",
            "Bytes carried, received from and sent to clients",
            m.bytes.clone(),
        );
        registry.register(
            "leastconn_client_connections",
            "Connections of a client rule that ended, by reason code",
            m.client_connections.clone(),
        );
        registry.register(
            "leastconn_client_connections_active",
            "Connections of a client rule that are open",
            m.client_active.clone(),
        );
        registry.register(
            "leastconn_client_shadow",
            "Connections that a rule in shadow mode would have decided, by what it would have",
            m.client_shadow.clone(),
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
        Self {
            registry: RwLock::new(registry),
            ..metrics
        }
    }

    /// Adds what is read from the running state at each scrape.
    pub fn observe(&self, observed: impl Observed) {
        self.registry
            .write()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .register_collector(Box::new(collect::Collect(observed)));
    }

    /// The counters of a listener.
    pub fn listener(&self, name: &str) -> ListenerMetrics {
        let listener = name.to_owned();
        let bytes = |direction| {
            let listener = name.to_owned();
            self.bytes.get_or_create_owned(&Bytes {
                listener,
                direction,
            })
        };
        let outcome = |reason: &Reason| {
            self.connections.get_or_create_owned(&Ended {
                listener: name.to_owned(),
                outcome: reason.as_str(),
            })
        };
        let of = OfListener { listener };
        ListenerMetrics {
            active: self.active.get_or_create_owned(&of),
            handshakes: self.handshakes.get_or_create_owned(&of),
            waiting: self.waiting.get_or_create_owned(&of),
            outcomes: Reason::ALL.iter().map(outcome).collect(),
            received: bytes("received"),
            sent: bytes("sent"),
        }
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

    /// The number of a client rule's open connections.
    pub fn client_active(&self, client: &str) -> Gauge {
        self.client_active.get_or_create_owned(&OfClient {
            client: client.to_owned(),
        })
    }

    /// A client rule's open connections.
    pub fn client_open(&self, client: &str) -> i64 {
        let client = client.to_owned();
        let active = self.client_active.get(&OfClient { client });
        active.map_or(0, |active| active.get())
    }

    /// A client rule's open connections, and how many have ended.
    pub fn client_counts(&self, client: &str) -> (i64, u64) {
        let client = client.to_owned();
        let client = OfClient { client };
        let Some(active) = self.client_active.get(&client).map(|active| active.get()) else {
            // Whatever has ended was open.
            return (0, 0);
        };
        let ended = self.client_ended.get(&client);
        (active, ended.map_or(0, |ended| ended.get()))
    }

    /// How many connections of a client rule ended, by reason. Those of which there
    /// was none may be missing.
    pub fn client_outcomes(&self, client: &str) -> impl Iterator<Item = (Reason, u64)> {
        Reason::ALL.iter().filter_map(move |&reason| {
            let ended = ClientEnded {
                client: client.to_owned(),
                outcome: reason.as_str(),
            };
            let counter = self.client_connections.get(&ended)?;
            Some((reason, counter.get()))
        })
    }

    /// A connection of a client rule ended.
    pub fn client_ended(&self, client: &str, reason: Reason) {
        let ended = ClientEnded {
            client: client.to_owned(),
            outcome: reason.as_str(),
        };
        self.client_connections.get_or_create(&ended).inc();
        let client = ended.client;
        self.client_ended.get_or_create(&OfClient { client }).inc();
    }

    /// A rule in shadow mode would have decided so.
    pub fn client_shadowed(&self, client: &str, outcome: Reason) {
        let judged = ClientEnded {
            client: client.to_owned(),
            outcome: outcome.as_str(),
        };
        self.client_shadow.get_or_create(&judged).inc();
    }

    /// All metrics in Prometheus' text format, version 0.0.4.
    pub fn encode(&self) -> String {
        let mut open_metrics = String::new();
        let registry = self
            .registry
            .read()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
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
pub struct Counted(Gauge);

impl Counted {
    /// Counts one more.
    pub fn new(gauge: &Gauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}

#[cfg(test)]
mod tests;
