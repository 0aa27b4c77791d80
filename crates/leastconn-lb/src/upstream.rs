//! A running upstream: its pool, how to connect, and its health checks.

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
    _checker: Option<Checker>,
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
        let active = config.health_check.as_ref().map(|check| check.policy);
        let pool = Pool::new(
            config.id.clone(),
            config.servers.iter().cloned(),
            active,
            config.passive,
            net::random(),
        )?;
        let checker = config
            .health_check
            .as_ref()
            .map(|check| Checker::start(&pool, probe_of(check)));
        Ok(Self {
            pool,
            connect: ConnectPolicy {
                timeout: config.connect_timeout,
                retries: config.retries,
                keepalive: config.keepalive,
            },
            _checker: checker,
        })
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
