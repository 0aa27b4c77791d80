//! Metrics of one listener.

use prometheus_client::metrics::{counter::Counter, gauge::Gauge};

use crate::reason_code::ReasonCode;

/// Metrics of one listener. The listener holds a reference, so that connections need no lookup.
#[derive(Debug)]
pub struct ListenerMetrics {
    /// Open connections.
    pub active: Gauge,
    /// TLS handshakes in progress.
    pub handshakes: Gauge,
    /// Handshakes that wait for a permit or a time slice.
    pub waiting: Gauge,
    outcomes: Vec<Counter>,
    /// Bytes received from clients.
    pub received: Counter,
    /// Bytes sent to clients.
    pub sent: Counter,
}

impl Default for ListenerMetrics {
    fn default() -> Self {
        Self {
            active: Gauge::default(),
            handshakes: Gauge::default(),
            waiting: Gauge::default(),
            outcomes: ReasonCode::ALL.iter().map(|_| Counter::default()).collect(),
            received: Counter::default(),
            sent: Counter::default(),
        }
    }
}

impl ListenerMetrics {
    /// Counts a connection that ended with this reason.
    pub fn ended(&self, reason: ReasonCode) {
        self.active.dec();
        self.outcomes[reason.index()].inc();
    }

    /// Ended connections by reason.
    pub fn outcomes(&self) -> impl Iterator<Item = (ReasonCode, u64)> {
        let counted = self.outcomes.iter().map(Counter::get);
        ReasonCode::ALL.iter().copied().zip(counted)
    }
}

/// Increments a gauge, and decrements it when dropped.
#[derive(Debug)]
pub struct GaugeGuard(Gauge);

impl GaugeGuard {
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
