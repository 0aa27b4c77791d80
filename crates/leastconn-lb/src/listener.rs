//! What the connections of one listener need to know.

use std::sync::Arc;

use leastconn::{Limiter, net::Timeouts};
use tokio::sync::Semaphore;

use crate::{
    config::{self, TlsRecords},
    metrics::{ListenerMetrics, Metrics},
    policy::Routing,
    state::State,
    tls::{self, TlsError},
};

/// What a listener's connections need to know.
#[derive(Clone, Debug)]
pub struct Listener {
    /// Its name.
    pub name: Arc<str>,
    /// TLS towards clients; `None`: plain TCP.
    pub tls: Option<Arc<rustls::ServerConfig>>,
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

/// What all listeners of the process share.
#[derive(Debug)]
pub struct Common {
    /// All counters.
    pub metrics: Arc<Metrics>,
    /// Turns for the costly part of a handshake.
    pub handshakes: Arc<Semaphore>,
    /// All clients' buckets and counts: they outlive every configuration.
    pub limiter: Arc<Limiter>,
}

impl Listener {
    /// What `config` says, over the running `state`.
    ///
    /// With `tls` as [`Self::first_tls`] makes it.
    pub fn new(
        config: &config::Listener,
        state: Arc<State>,
        tls: Option<Arc<rustls::ServerConfig>>,
        common: &Common,
    ) -> Self {
        Self {
            name: Arc::clone(&config.name),
            tls,
            timeouts: config.timeouts,
            routing: Routing::from(config),
            metrics: Arc::new(common.metrics.listener(&config.name)),
            handshakes: Arc::clone(&common.handshakes),
            limiter: Arc::clone(&common.limiter),
            state,
        }
    }

    /// The TLS part of a listener that was not there before.
    ///
    /// # Errors
    /// If rustls refuses it.
    pub fn first_tls(
        config: &config::Listener,
        records: TlsRecords,
    ) -> Result<Option<Arc<rustls::ServerConfig>>, TlsError> {
        let tls = config.tls.as_ref();
        tls.map(|tls| tls::server_config(tls, records)).transpose()
    }

    /// The TLS part of the listener that follows this one: the same if nothing
    /// changed that it rests on, with what its handshakes have learnt (which chains
    /// are good).
    ///
    /// # Errors
    /// If rustls refuses it.
    pub fn next_tls(
        &self,
        config: &config::Listener,
        records: TlsRecords,
    ) -> Result<Option<Arc<rustls::ServerConfig>>, TlsError> {
        let earlier = &self.state.config;
        let same = earlier.process.tls_records == records
            && earlier
                .listener(&self.name)
                .is_some_and(|earlier| earlier.tls == config.tls);
        match &config.tls {
            Some(_) if same => Ok(self.tls.clone()),
            Some(tls) => Ok(Some(tls::server_config(tls, records)?)),
            None => Ok(None),
        }
    }

    /// The listener that follows this one when the configuration changes, with what
    /// [`Self::next_tls`] made.
    pub fn succeed(
        &self,
        config: &config::Listener,
        state: Arc<State>,
        tls: Option<Arc<rustls::ServerConfig>>,
    ) -> Self {
        Self {
            tls,
            timeouts: config.timeouts,
            routing: Routing::from(config),
            state,
            ..self.clone()
        }
    }

    /// This listener, which is gone from the configuration, with the rules that
    /// its open connections are now under.
    pub fn retire(&self, state: Arc<State>) -> Self {
        Self {
            state,
            ..self.clone()
        }
    }

    /// How long a relayed connection may be silent.
    pub const fn relay_timeouts(&self) -> Timeouts {
        Timeouts {
            idle: Some(self.timeouts.idle),
            half_close: Some(self.timeouts.half_close),
        }
    }
}
