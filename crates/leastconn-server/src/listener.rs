//! What the connections of one listener need to know.

use std::{
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use leastconn::net::{self, OnTruncation, RelayPolicy};

use crate::{
    client_chain::Chains,
    config::{self, IpNet, OnExpiry, Prefixes, StartTls, TlsRecords},
    handshake_scheduler::Turns,
    limits::clients::Limiters,
    limits::sources::{SourceLimit, TooFast},
    policy::Routing,
    state::State,
    telemetry::metrics::{ListenerMetrics, Metrics},
    tls::{self, TlsError, Trust},
};

/// What a listener's connections need to know.
#[derive(Clone, Debug)]
pub struct Listener {
    /// Its name.
    pub name: Arc<str>,
    /// Who sends PROXY headers, which come before anything else; `None`: nobody.
    pub senders: Option<config::Senders>,
    /// What comes before the TLS handshake.
    pub starttls: StartTls,
    /// TLS towards clients; `None`: plain TCP.
    pub tls: Option<tls::Server>,
    /// Whose clients those are; `None`: they need not show a certificate.
    pub trust: Option<Trust>,
    /// The age that a connection reaches at most.
    pub max_lifetime: Option<Duration>,
    /// What becomes of connections whose certificate runs out.
    pub on_expiry: OnExpiry,
    /// How a TLS end without `close_notify` is passed on.
    pub on_truncation: OnTruncation,
    /// How long what may take.
    pub timeouts: config::Timeouts,
    /// Where connections go.
    pub routing: Routing,
    /// Its counters.
    pub metrics: Arc<ListenerMetrics>,
    /// Turns for the costly part of a handshake.
    pub turns: Arc<Turns>,
    /// How fast each source may connect.
    pub sources: Option<Arc<SourceLimit>>,
    /// How sources are told apart.
    pub prefixes: Prefixes,
    /// All clients' buckets and counts.
    pub limiter: Arc<Limiters>,
    /// What clients have shown.
    pub chains: Arc<Chains>,
    /// Rules and upstreams.
    pub state: Arc<State>,
}

/// What all listeners of the process share.
#[derive(Debug)]
pub struct Common {
    /// All counters.
    pub metrics: Arc<Metrics>,
    /// Turns for the costly part of a handshake.
    pub turns: Arc<Turns>,
    /// All clients' buckets and counts: they outlive every configuration.
    pub limiter: Arc<Limiters>,
    /// What clients have shown.
    pub chains: Arc<Chains>,
}

/// TLS towards clients, made but not in use yet.
#[derive(Debug)]
pub struct Tls {
    server: tls::Server,
    trust: Option<Trust>,
}

impl Tls {
    fn parts(tls: Option<Self>) -> (Option<tls::Server>, Option<Trust>) {
        tls.map_or((None, None), |tls| (Some(tls.server), tls.trust))
    }
}

impl Listener {
    /// What `config` says, over the running `state`.
    ///
    /// With `tls` as [`Self::first_tls`] makes it.
    pub fn new(
        config: &config::Listener,
        state: Arc<State>,
        tls: Option<Tls>,
        common: &Common,
    ) -> Self {
        let (tls, trust) = Tls::parts(tls);
        let limit = config.source_rate_limit;
        Self {
            name: Arc::clone(&config.name),
            tls,
            trust,
            max_lifetime: config.max_lifetime,
            on_expiry: config.on_expiry,
            on_truncation: config.on_truncation.into(),
            senders: config.senders.clone(),
            starttls: config.starttls,
            timeouts: config.timeouts,
            routing: Routing::from(config),
            metrics: common.metrics.listener(&config.name),
            turns: Arc::clone(&common.turns),
            sources: limit.map(|limit| Arc::new(SourceLimit::new(limit, net::now()))),
            prefixes: config.prefixes(),
            limiter: Arc::clone(&common.limiter),
            chains: Arc::clone(&common.chains),
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
    ) -> Result<Option<Tls>, TlsError> {
        let Some(tls) = &config.tls else {
            return Ok(None);
        };
        let trust = Trust::new(tls, config.max_intermediates)?;
        Ok(Some(Tls {
            server: tls::server(tls, trust.as_ref(), records)?,
            trust,
        }))
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
    ) -> Result<Option<Tls>, TlsError> {
        let running = &self.state.config;
        let earlier = running.listener(&self.name);
        let before = earlier.and_then(|earlier| earlier.tls.as_ref());
        let (Some(before), Some(tls), Some(made)) = (before, &config.tls, &self.tls) else {
            return Self::first_tls(config, records);
        };
        let same_limit =
            earlier.is_some_and(|earlier| earlier.max_intermediates == config.max_intermediates);
        if running.process.tls_records == records && before == tls && same_limit {
            return Ok(Some(Tls {
                server: made.clone(),
                trust: self.trust.clone(),
            }));
        }
        let trust = if same_limit && Trust::same(before, tls) {
            self.trust.clone()
        } else {
            Trust::new(tls, config.max_intermediates)?
        };
        Ok(Some(Tls {
            server: tls::server(tls, trust.as_ref(), records)?,
            trust,
        }))
    }

    /// The listener that follows this one when the configuration changes, with what
    /// [`Self::next_tls`] made. Its metrics are new if those of this one were removed
    /// while it was gone from the configuration.
    pub fn succeed(
        &self,
        config: &config::Listener,
        state: Arc<State>,
        tls: Option<Tls>,
        metrics: &Metrics,
    ) -> Self {
        let (tls, trust) = Tls::parts(tls);
        Self {
            tls,
            trust,
            max_lifetime: config.max_lifetime,
            on_expiry: config.on_expiry,
            on_truncation: config.on_truncation.into(),
            timeouts: config.timeouts,
            routing: Routing::from(config),
            senders: config.senders.clone(),
            starttls: config.starttls,
            sources: self.next_sources(config),
            prefixes: config.prefixes(),
            metrics: metrics.listener(&config.name),
            state,
            ..self.clone()
        }
    }

    /// The same buckets, if their limit is the same: a new one would give everybody
    /// another burst.
    fn next_sources(&self, config: &config::Listener) -> Option<Arc<SourceLimit>> {
        let limit = config.source_rate_limit?;
        match &self.sources {
            Some(running) if *running.config() == limit => Some(Arc::clone(running)),
            _ => Some(Arc::new(SourceLimit::new(limit, net::now()))),
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

    /// How its connections are relayed.
    pub const fn relay_policy(&self) -> RelayPolicy {
        RelayPolicy {
            idle: Some(self.timeouts.idle),
            half_close: Some(self.timeouts.half_close),
            on_truncation: self.on_truncation,
        }
    }
}
