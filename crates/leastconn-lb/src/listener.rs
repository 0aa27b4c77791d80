//! What the connections of one listener need to know.

use std::{net::IpAddr, sync::Arc, time::Instant};

use leastconn::{
    Limiter,
    net::{self, Timeouts},
};

use crate::{
    config::{self, IpNet, Prefixes},
    metrics::{ListenerMetrics, Metrics},
    policy::Routing,
    source::{SourceLimit, TooFast},
    state::State,
    tls::{self, TlsError},
    turns::Turns,
};

/// What a listener's connections need to know.
#[derive(Debug)]
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
    pub turns: Arc<Turns>,
    /// How fast each source may connect.
    pub sources: Option<SourceLimit>,
    /// How sources are told apart.
    pub prefixes: Prefixes,
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
        turns: Arc<Turns>,
        limiter: Arc<Limiter>,
    ) -> Result<Self, TlsError> {
        let records = state.config.process.tls_records;
        let tls = config.tls.as_ref();
        let limit = config.source_rate_limit;
        Ok(Self {
            name: Arc::clone(&config.name),
            tls: tls
                .map(|tls| tls::server_config(tls, records))
                .transpose()?,
            timeouts: config.timeouts,
            routing: Routing::from(config),
            metrics: Arc::new(metrics.listener(&config.name)),
            turns,
            sources: limit.map(|limit| SourceLimit::new(limit, net::now())),
            prefixes: limit.map_or_else(Prefixes::default, |limit| limit.prefixes),
            limiter,
            state,
        })
    }

    /// The source that an address belongs to.
    pub fn source(&self, address: IpAddr) -> IpNet {
        IpNet::of(address, self.prefixes)
    }

    /// Counts a connection from `address`, the client's own, against its source.
    ///
    /// # Errors
    /// If the source comes faster than it may.
    pub fn admit_source(&self, address: IpAddr, now: Instant) -> Result<(), TooFast> {
        match &self.sources {
            Some(limit) => limit.admit(self.source(address), now),
            None => Ok(()),
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
