//! What the connections of one listener need to know.

use std::sync::Arc;

use leastconn::{Limiter, net::Timeouts};
use tokio::sync::Semaphore;

use crate::{
    config,
    metrics::{ListenerMetrics, Metrics},
    policy::Routing,
    state::State,
    tls::{self, TlsError},
};

/// What a listener's connections need to know.
#[derive(Debug)]
pub struct Listener {
    /// Its name.
    pub name: Arc<str>,
    /// Who sends PROXY headers, which come before anything else; `None`: nobody.
    pub senders: Option<config::Senders>,
    /// TLS towards clients; `None`: plain TCP.
    pub tls: Option<tls::Server>,
    /// How long what may take.
    pub timeouts: config::Timeouts,
    /// Where connections go.
    pub routing: Routing,
    /// Its counters.
    pub metrics: Arc<ListenerMetrics>,
    /// Turns for the costly part of a handshake.
    pub handshakes: Arc<Semaphore>,
    /// All clients' buckets and counts.
    pub limiter: Arc<Limiter>,
    /// Rules and upstreams.
    pub state: Arc<State>,
}

impl Listener {
    /// What `config` says, over the running `state`.
    ///
    /// # Errors
    /// If rustls refuses the TLS part.
    pub fn new(
        config: &config::Listener,
        state: Arc<State>,
        metrics: &Metrics,
        handshakes: Arc<Semaphore>,
        limiter: Arc<Limiter>,
    ) -> Result<Self, TlsError> {
        let records = state.config.process.tls_records;
        let tls = config.tls.as_ref();
        Ok(Self {
            name: Arc::clone(&config.name),
            tls: tls.map(|tls| tls::server(tls, records)).transpose()?,
            senders: config.senders.clone(),
            timeouts: config.timeouts,
            routing: Routing::from(config),
            metrics: Arc::new(metrics.listener(&config.name)),
            handshakes,
            limiter,
            state,
        })
    }

    /// How long a relayed connection may be silent.
    pub const fn relay_timeouts(&self) -> Timeouts {
        Timeouts {
            idle: Some(self.timeouts.idle),
            half_close: Some(self.timeouts.half_close),
        }
    }
}
