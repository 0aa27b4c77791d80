//! Metrics of listeners and client rules, which a reload can add and remove.

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
};

use parking_lot::{RwLock, RwLockReadGuard, RwLockWriteGuard};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
};

use super::{family::family, listener::ListenerMetrics};
use crate::reason_code::ReasonCode;

#[derive(Debug, Default)]
pub(super) struct Series {
    pub(super) listeners: Table<ListenerMetrics>,
    pub(super) clients: Table<ClientMetrics>,
    /// Decisions of rules in shadow mode.
    pub(super) shadows: Table<ClientMetrics>,
}

/// Metrics of one client rule.
#[derive(Debug)]
pub struct ClientMetrics {
    name: Arc<str>,
    open: AtomicI64,
    refused: AtomicU64,
    outcomes: [AtomicU64; ReasonCode::ALL.len()],
}

impl ClientMetrics {
    pub const fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// Open connections.
    pub fn open(&self) -> u64 {
        u64::try_from(self.open.load(Ordering::Relaxed)).unwrap_or(0)
    }

    /// Refused connections, which ended without a server.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// Ended connections by reason.
    pub fn outcomes(&self) -> impl Iterator<Item = (ReasonCode, u64)> {
        let counts = self.outcomes.iter().map(|n| n.load(Ordering::Relaxed));
        ReasonCode::ALL.iter().copied().zip(counts)
    }

    /// Ended connections.
    pub fn ended(&self) -> u64 {
        self.outcomes().map(|(_, count)| count).sum()
    }

    pub fn opened(&self) {
        self.open.fetch_add(1, Ordering::Relaxed);
    }

    pub fn closed(&self) {
        self.open.fetch_sub(1, Ordering::Relaxed);
    }

    /// Counts an ended connection. `is_refused` means that it never had a server.
    pub fn count_end(&self, reason: ReasonCode, is_refused: bool) {
        self.count(reason);
        if is_refused {
            self.refused.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(super) fn count(&self, reason: ReasonCode) {
        self.outcomes[reason.index()].fetch_add(1, Ordering::Relaxed);
    }
}

impl Named for ClientMetrics {
    fn new(name: &Arc<str>) -> Self {
        Self {
            name: Arc::clone(name),
            open: AtomicI64::new(0),
            refused: AtomicU64::new(0),
            outcomes: [const { AtomicU64::new(0) }; ReasonCode::ALL.len()],
        }
    }
}

impl Named for ListenerMetrics {
    fn new(_: &Arc<str>) -> Self {
        Self::default()
    }
}

pub(super) trait Named {
    fn new(name: &Arc<str>) -> Self;
}

/// Metrics by the name of the listener or rule.
#[derive(Debug)]
pub(super) struct Table<T>(RwLock<HashMap<Arc<str>, Entry<T>>>);

#[derive(Debug)]
struct Entry<T> {
    metrics: Arc<T>,
    /// 1 + the last generation of the configuration that contained this name; 0 if unknown.
    found_in: AtomicU64,
}

impl<T> Default for Table<T> {
    fn default() -> Self {
        Self(RwLock::default())
    }
}

impl<T: Named> Table<T> {
    pub(super) fn get(&self, name: &str) -> Option<Arc<T>> {
        self.read()
            .get(name)
            .map(|entry| Arc::clone(&entry.metrics))
    }

    pub(super) fn get_or_create(&self, name: &str) -> Arc<T> {
        if let Some(metrics) = self.get(name) {
            return metrics;
        }
        let name: Arc<str> = name.into();
        let mut entries = self.write();
        let entry = entries.entry(Arc::clone(&name)).or_insert_with(|| Entry {
            metrics: Arc::new(T::new(&name)),
            found_in: AtomicU64::new(0),
        });
        Arc::clone(&entry.metrics)
    }

    /// Whether all names were found in this generation of the configuration.
    pub(super) fn all_found_in(&self, generation: u64) -> bool {
        let entries = self.read();
        let mut found = entries.values().map(|entry| &entry.found_in);
        found.all(|found| found.load(Ordering::Relaxed) == generation + 1)
    }

    /// Removes entries whose listener or rule no longer exists, once they are unreferenced or
    /// idle.
    pub(super) fn retain(
        &self,
        generation: u64,
        exists: impl Fn(&str) -> bool,
        is_idle: impl Fn(&str, &T) -> bool,
    ) {
        let mut gone = Vec::new();
        // Connections wait for the write lock: take it only if there is something to remove.
        for (name, entry) in self.read().iter() {
            if exists(name) {
                entry.found_in.store(generation + 1, Ordering::Relaxed);
            } else {
                entry.found_in.store(0, Ordering::Relaxed);
                gone.push(Arc::clone(name));
            }
        }
        if gone.is_empty() {
            return;
        }
        let mut entries = self.write();
        for name in gone {
            let unused = entries.get(&name).is_some_and(|entry| {
                // References are cloned only under the table's lock, which is held here.
                Arc::strong_count(&entry.metrics) == 1 || is_idle(&name, &entry.metrics)
            });
            if unused {
                entries.remove(&name);
            }
        }
    }

    /// All entries, sorted by name.
    fn list(&self) -> Vec<(Arc<str>, Arc<T>)> {
        let entries = self.read();
        let all = entries.iter();
        let mut all: Vec<_> = all
            .map(|(name, entry)| (Arc::clone(name), Arc::clone(&entry.metrics)))
            .collect();
        drop(entries);
        all.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        all
    }

    fn read(&self) -> RwLockReadGuard<'_, HashMap<Arc<str>, Entry<T>>> {
        self.0.read()
    }

    fn write(&self) -> RwLockWriteGuard<'_, HashMap<Arc<str>, Entry<T>>> {
        self.0.write()
    }
}

#[derive(Clone, Debug, EncodeLabelSet)]
struct ListenerLabels {
    listener: String,
}

#[derive(Clone, Debug, EncodeLabelSet)]
struct ListenerEnded {
    listener: String,
    outcome: &'static str,
}

#[derive(Clone, Debug, EncodeLabelSet)]
struct ListenerBytes {
    listener: String,
    direction: &'static str,
}

#[derive(Clone, Debug, EncodeLabelSet)]
struct ClientLabels {
    client: String,
}

#[derive(Clone, Debug, EncodeLabelSet)]
struct ClientEnded {
    client: String,
    outcome: &'static str,
}

#[derive(Debug)]
pub(super) struct AllSeries(pub(super) Arc<Series>);

impl Collector for AllSeries {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        self.0.encode_listeners(&mut encoder)?;
        self.0.encode_clients(&mut encoder)
    }
}

impl Series {
    fn encode_listeners(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let listeners = self.listeners.list();
        let ended = listeners.iter().flat_map(|(name, metrics)| {
            metrics.outcomes().map(|(reason, count)| {
                let labels = ListenerEnded {
                    listener: name.to_string(),
                    outcome: reason.as_str(),
                };
                (labels, ConstCounter::new(count))
            })
        });
        family(
            encoder,
            "leastconn_connections",
            "Ended connections by reason code",
            MetricType::Counter,
            ended,
        )?;
        type Value = fn(&ListenerMetrics) -> i64;
        let gauges: [(&str, &str, Value); 3] = [
            (
                "leastconn_connections_active",
                "Open connections",
                |metrics| metrics.active.get(),
            ),
            (
                "leastconn_handshakes_active",
                "TLS handshakes in progress",
                |metrics| metrics.handshakes.get(),
            ),
            (
                "leastconn_handshakes_waiting",
                "TLS handshakes waiting for a permit or a time slice",
                |metrics| metrics.waiting.get(),
            ),
        ];
        for (family_name, help, value) in gauges {
            let values = listeners.iter().map(|(name, metrics)| {
                let listener = name.to_string();
                (ListenerLabels { listener }, ConstGauge::new(value(metrics)))
            });
            family(encoder, family_name, help, MetricType::Gauge, values)?;
        }
        let bytes = listeners.iter().flat_map(|(name, metrics)| {
            let both = [("received", &metrics.received), ("sent", &metrics.sent)];
            both.map(|(direction, bytes)| {
                let listener = name.to_string();
                let labels = ListenerBytes {
                    listener,
                    direction,
                };
                (labels, ConstCounter::new(bytes.get()))
            })
        });
        family(
            encoder,
            "leastconn_bytes",
            "Bytes received from and sent to clients",
            MetricType::Counter,
            bytes,
        )
    }

    fn encode_clients(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let clients = self.clients.list();
        family(
            encoder,
            "leastconn_client_connections",
            "Ended connections of a client rule by reason code",
            MetricType::Counter,
            ended(&clients),
        )?;
        let open = clients.iter().map(|(name, metrics)| {
            let client = name.to_string();
            let open = i64::try_from(metrics.open()).unwrap_or(i64::MAX);
            (ClientLabels { client }, ConstGauge::new(open))
        });
        family(
            encoder,
            "leastconn_client_connections_active",
            "Open connections of a client rule",
            MetricType::Gauge,
            open,
        )?;
        family(
            encoder,
            "leastconn_client_shadow",
            "Connections that a rule in shadow mode matched, by the decision it would have made",
            MetricType::Counter,
            ended(&self.shadows.list()),
        )
    }
}

/// Exports only reasons that have occurred, because a series for each rule and reason would be too
/// many.
fn ended(
    clients: &[(Arc<str>, Arc<ClientMetrics>)],
) -> impl Iterator<Item = (ClientEnded, ConstCounter<u64>)> {
    clients.iter().flat_map(|(name, metrics)| {
        let occurred = metrics.outcomes().filter(|&(_, count)| count > 0);
        occurred.map(|(reason, count)| {
            let labels = ClientEnded {
                client: name.to_string(),
                outcome: reason.as_str(),
            };
            (labels, ConstCounter::new(count))
        })
    })
}
