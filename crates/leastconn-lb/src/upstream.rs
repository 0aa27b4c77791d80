//! A running upstream: its pool, how to connect, and its health checks.

use std::sync::{Mutex, PoisonError};

use leastconn::{
    Pool, PoolError,
    net::{self, Check, Checker, ConnectPolicy, Probe},
};

use crate::config::{self, HealthCheck, ProbeKind, StatusSet};

/// An upstream of the running configuration.
#[derive(Debug)]
pub struct Upstream {
    pool: Pool,
    connect: ConnectPolicy,
    checker: Mutex<Option<Checker>>,
}

impl Upstream {
    /// Makes the pool and starts its health checks.
    ///
    /// # Errors
    /// If the configuration has no servers, or two of the same name.
    ///
    /// # Panics
    /// Outside a Tokio runtime.
    pub fn start(config: &config::Upstream) -> Result<Self, PoolError> {
        Ok(Self::around(new_pool(config)?, config))
    }

    /// Whether [`Self::start`] and [`Self::succeed`] would be possible.
    ///
    /// # Errors
    /// As theirs.
    pub fn check(config: &config::Upstream) -> Result<(), PoolError> {
        new_pool(config).map(drop)
    }

    /// The upstream that follows this one. Servers that are in both go on with
    /// their counts and their health.
    ///
    /// # Errors
    /// As [`Self::start`]; then nothing has changed.
    ///
    /// # Panics
    /// Outside a Tokio runtime.
    pub fn succeed(&self, config: &config::Upstream) -> Result<Self, PoolError> {
        let active = config.health_check.as_ref().map(|check| check.policy);
        let servers = config.servers.iter().cloned();
        let pool = self.pool.succeed(servers, active, config.passive)?;
        Ok(Self::around(pool, config))
    }

    fn around(pool: Pool, config: &config::Upstream) -> Self {
        let check = config.health_check.as_ref();
        let checker = check.map(|check| Checker::start(&pool, probe_of(check)));
        Self {
            pool,
            connect: ConnectPolicy {
                timeout: config.connect_timeout,
                retries: config.retries,
                keepalive: config.keepalive,
            },
            checker: Mutex::new(checker),
        }
    }

    /// Ends its health checks.
    pub fn stop_checks(&self) {
        let mut checker = self.checker.lock().unwrap_or_else(PoisonError::into_inner);
        *checker = None;
    }

    /// The servers.
    pub const fn pool(&self) -> &Pool {
        &self.pool
    }

    /// How connecting is tried.
    pub const fn connect_policy(&self) -> &ConnectPolicy {
        &self.connect
    }
}

fn new_pool(config: &config::Upstream) -> Result<Pool, PoolError> {
    Pool::new(
        config.id.clone(),
        config.servers.iter().cloned(),
        config.health_check.as_ref().map(|check| check.policy),
        config.passive,
        net::random(),
    )
}

fn probe_of(check: &HealthCheck) -> Check {
    let probe = match &check.kind {
        ProbeKind::Tcp { send, expect } => Probe::Tcp {
            send: send.clone(),
            expect: expect.clone(),
        },
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
