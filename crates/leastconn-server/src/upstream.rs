//! A running upstream: its pool, how to connect, and its health checks.

mod opening;
mod troubles;
mod with_proxy_header;

use std::sync::Arc;

use leastconn::{
    Pool, PoolError,
    net::{self, Check, Checker, ConnectPolicy, Probe},
};
use leastconn_proxy_protocol::Version;
use parking_lot::Mutex;

pub use opening::{Opening, Secured, ServerStream};
pub use with_proxy_header::WithProxyHeader;

use crate::{
    config::{self, HealthCheck, ProbeKind, StatusSet},
    tls::TlsError,
};
use opening::{Probing, Secure};

/// An upstream cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum UpstreamError {
    /// It has no servers, or two of the same name.
    #[error(transparent)]
    Pool(#[from] PoolError),
    /// TLS refuses what was configured.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// An upstream of the running configuration.
#[derive(Debug)]
pub struct Upstream {
    pool: Pool,
    connect: ConnectPolicy,
    proxy_protocol: Option<Version>,
    /// With the certificates that it was started with.
    opening: Opening,
    checker: Mutex<Option<Checker>>,
}

impl Upstream {
    /// Makes the pool and starts its health checks.
    ///
    /// # Errors
    /// If the configuration has no servers, or two of the same name, or TLS refuses
    /// its certificates.
    ///
    /// # Panics
    /// Outside a Tokio runtime.
    pub fn start(config: &config::Upstream) -> Result<Self, UpstreamError> {
        Ok(Self::around(new_pool(config)?, opening(config)?, config))
    }

    /// Whether [`Self::start`] and [`Self::succeed`] would be possible.
    ///
    /// # Errors
    /// As theirs.
    pub fn check(config: &config::Upstream) -> Result<(), UpstreamError> {
        new_pool(config)?;
        opening(config)?;
        Ok(())
    }

    /// The upstream that follows this one. Servers that are in both go on with
    /// their counts and their health.
    ///
    /// # Errors
    /// As [`Self::start`]; then nothing has changed.
    ///
    /// # Panics
    /// Outside a Tokio runtime.
    pub fn succeed(&self, config: &config::Upstream) -> Result<Self, UpstreamError> {
        let active = config.health_check.as_ref().map(|check| check.policy);
        let servers = config.servers.iter().cloned();
        let opening = opening(config)?;
        let pool = self.pool.succeed(servers, active, config.passive)?;
        Ok(Self::around(choosing(pool, config), opening, config))
    }

    fn around(pool: Pool, opening: Opening, config: &config::Upstream) -> Self {
        let checker = config.health_check.as_ref().map(|check| {
            // A port of its own is as a rule for health checks alone.
            let header = config.proxy_protocol.filter(|_| check.port.is_none());
            let header = header.map(Version::encode_local);
            let check = probe_of(check);
            let step = Probing::new(opening.clone(), &check);
            Checker::start_with(&pool, check, WithProxyHeader::new(header, step))
        });
        let mut connect = ConnectPolicy::default();
        connect.timeout = config.connect_timeout;
        connect.retries = config.retries;
        connect.retry_for = config.retry_for;
        connect.keepalive = config.keepalive;
        Self {
            pool,
            connect,
            proxy_protocol: config.proxy_protocol,
            opening,
            checker: Mutex::new(checker),
        }
    }

    /// Ends its health checks.
    pub fn stop_checks(&self) {
        let mut checker = self.checker.lock();
        *checker = None;
    }

    /// Completes once every server has been probed, whatever came of it; at once
    /// where nothing is.
    ///
    /// # Cancel safety
    /// It may be dropped, and asked for again.
    pub fn first_round(&self) -> impl Future<Output = ()> + Send + use<> {
        let checker = self.checker.lock();
        let round = checker.as_ref().map(Checker::first_round);
        async move {
            if let Some(round) = round {
                round.await;
            }
        }
    }

    /// The servers.
    pub const fn pool(&self) -> &Pool {
        &self.pool
    }

    /// How connecting is tried.
    pub const fn connect_policy(&self) -> &ConnectPolicy {
        &self.connect
    }

    /// The PROXY header that servers get.
    pub const fn proxy_protocol(&self) -> Option<Version> {
        self.proxy_protocol
    }

    /// What is done with a fresh connection.
    pub const fn opening(&self) -> &Opening {
        &self.opening
    }
}

fn new_pool(config: &config::Upstream) -> Result<Pool, PoolError> {
    let pool = Pool::new(
        config.id.clone(),
        config.servers.iter().cloned(),
        config.health_check.as_ref().map(|check| check.policy),
        config.passive,
        net::random(),
    )?;
    Ok(choosing(pool, config))
}

fn choosing(pool: Pool, config: &config::Upstream) -> Pool {
    pool.with_balance(config.balance)
        .with_panic(config.panic)
        .with_slow_start(config.slow_start)
}

fn opening(config: &config::Upstream) -> Result<Opening, TlsError> {
    let secure = config.tls.as_ref();
    let secure = secure.map(|tls| Secure::new(config.id.clone(), tls));
    Ok(Opening::new(secure.transpose()?.map(Arc::new)))
}

fn probe_of(check: &HealthCheck) -> Check {
    let probe = match &check.kind {
        ProbeKind::Tcp { send, expect } => Probe::Tcp {
            send: send.clone(),
            expect: expect.clone(),
        },
        ProbeKind::Mysql { user } => Probe::Mysql { user: user.clone() },
        ProbeKind::Postgres { user } => Probe::Postgres { user: user.clone() },
        ProbeKind::Redis => Probe::Redis,
        ProbeKind::Http { path, status } => Probe::Http {
            path: path.clone(),
            status: match status {
                StatusSet::Success => vec![200..=399],
                StatusSet::OneOf(codes) => codes.iter().map(|&code| code..=code).collect(),
            },
        },
    };
    Check {
        probe,
        port: check.port,
        interval: check.interval,
        timeout: check.timeout,
    }
}
