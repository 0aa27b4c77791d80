//! A listener of the running configuration.

use std::{
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use leastconn::net::{self, OnTruncation, RelayPolicy};

use leastconn_config::{Config, IpNet, OnExpiry, Prefixes, StartTls};
use leastconn_tls::settings::RecordLayer;
use leastconn_tls::{TlsError, Trust};

use crate::{
    limits::{SourceLimit, SourceRateExceeded},
    policy::Routing,
    telemetry::metrics::{ListenerMetrics, Metrics},
};

/// The configuration of one listener, as its connections use it.
#[derive(Clone, Debug)]
pub struct Listener {
    pub name: Arc<str>,
    /// Proxies that send a PROXY header; `None` if the listener expects no header.
    pub trusted_proxies: Option<leastconn_config::TrustedProxies>,
    pub starttls: StartTls,
    /// `None` for a plain TCP listener.
    pub tls: Option<leastconn_tls::Server>,
    /// Verifies client certificates; `None` if clients are identified by address.
    pub trust: Option<Trust>,
    pub max_lifetime: Option<Duration>,
    pub on_expiry: OnExpiry,
    pub on_truncation: OnTruncation,
    pub timeouts: leastconn_config::Timeouts,
    pub routing: Routing,
    pub metrics: Arc<ListenerMetrics>,
    /// Connection rate limit per source network.
    pub source_limit: Option<Arc<SourceLimit>>,
    /// Prefix lengths that turn an address into its source network.
    pub prefixes: Prefixes,
}

/// TLS configuration of a listener that was built but is not in use yet.
#[derive(Debug)]
pub struct ListenerTls {
    server: leastconn_tls::Server,
    trust: Option<Trust>,
}

impl ListenerTls {
    /// Builds the TLS configuration of a new listener.
    ///
    /// # Errors
    /// If rustls rejects it.
    pub fn new(
        config: &leastconn_config::Listener,
        records: RecordLayer,
    ) -> Result<Option<Self>, TlsError> {
        let Some(tls) = &config.tls else {
            return Ok(None);
        };
        let trust = Trust::new(&tls.settings, config.max_intermediates)?;
        Ok(Some(Self {
            server: leastconn_tls::server(&tls.settings, trust.as_ref(), records)?,
            trust,
        }))
    }

    fn into_parts(tls: Option<Self>) -> (Option<leastconn_tls::Server>, Option<Trust>) {
        tls.map_or((None, None), |tls| (Some(tls.server), tls.trust))
    }
}

impl Listener {
    /// A new listener. `tls` was made by [`ListenerTls::new`].
    pub fn new(
        config: &leastconn_config::Listener,
        tls: Option<ListenerTls>,
        metrics: &Metrics,
    ) -> Self {
        let limit = config.source_rate_limit;
        let limit = limit.map(|limit| Arc::new(SourceLimit::new(limit, net::now())));
        Self::build(config, tls, metrics, limit)
    }

    fn build(
        config: &leastconn_config::Listener,
        tls: Option<ListenerTls>,
        metrics: &Metrics,
        source_limit: Option<Arc<SourceLimit>>,
    ) -> Self {
        let (tls, trust) = ListenerTls::into_parts(tls);
        Self {
            name: Arc::clone(&config.name),
            tls,
            trust,
            max_lifetime: config.max_lifetime,
            on_expiry: config.on_expiry,
            on_truncation: config.on_truncation.into(),
            trusted_proxies: config.trusted_proxies.clone(),
            starttls: config.starttls,
            timeouts: config.timeouts,
            routing: Routing::from(config),
            metrics: metrics.listener(&config.name),
            source_limit,
            prefixes: config.prefixes(),
        }
    }

    /// The TLS configuration for the next generation of this listener. Unchanged parts are shared,
    /// including the cache of verified chains. `running` is the configuration from which this
    /// listener was made.
    ///
    /// # Errors
    /// If rustls rejects the new configuration.
    pub fn next_tls(
        &self,
        running: &Config,
        config: &leastconn_config::Listener,
        records: RecordLayer,
    ) -> Result<Option<ListenerTls>, TlsError> {
        let earlier = running.listener(&self.name);
        let before = earlier.and_then(|earlier| earlier.tls.as_ref());
        let (Some(before), Some(tls), Some(server)) = (before, &config.tls, &self.tls) else {
            return ListenerTls::new(config, records);
        };
        let same_limit =
            earlier.is_some_and(|earlier| earlier.max_intermediates == config.max_intermediates);
        if running.process.tls_records == records && before.settings == tls.settings && same_limit {
            return Ok(Some(ListenerTls {
                server: server.clone(),
                trust: self.trust.clone(),
            }));
        }
        let trust = if same_limit && Trust::same(&before.settings, &tls.settings) {
            self.trust.clone()
        } else {
            Trust::new(&tls.settings, config.max_intermediates)?
        };
        Ok(Some(ListenerTls {
            server: leastconn_tls::server(&tls.settings, trust.as_ref(), records)?,
            trust,
        }))
    }

    /// Creates the next generation of this listener from the result of [`Self::next_tls`].
    pub fn succeed(
        &self,
        config: &leastconn_config::Listener,
        tls: Option<ListenerTls>,
        metrics: &Metrics,
    ) -> Self {
        Self::build(config, tls, metrics, self.next_source_limit(config))
    }

    /// Returns the source limit of the next generation. An unchanged limit keeps its token buckets,
    /// because new buckets would allow every source another burst.
    fn next_source_limit(&self, config: &leastconn_config::Listener) -> Option<Arc<SourceLimit>> {
        let limit = config.source_rate_limit?;
        match &self.source_limit {
            Some(running) if *running.config() == limit => Some(Arc::clone(running)),
            _ => Some(Arc::new(SourceLimit::new(limit, net::now()))),
        }
    }

    /// The source network of an address.
    pub fn source_net(&self, address: IpAddr) -> IpNet {
        IpNet::of(address, self.prefixes)
    }

    /// Counts a connection against the rate limit of the client's source network.
    ///
    /// # Errors
    /// If the rate is exceeded.
    pub fn check_source_rate(
        &self,
        address: IpAddr,
        now: Instant,
    ) -> Result<(), SourceRateExceeded> {
        match &self.source_limit {
            Some(limit) => limit.admit(self.source_net(address), now),
            None => Ok(()),
        }
    }

    /// Timeouts and truncation handling for relaying.
    pub fn relay_policy(&self) -> RelayPolicy {
        let mut policy = RelayPolicy::default();
        policy.idle = Some(self.timeouts.idle);
        policy.half_close = Some(self.timeouts.half_close);
        policy.on_truncation = self.on_truncation;
        policy
    }
}
