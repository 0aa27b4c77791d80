//! A running upstream: its pool, the source of its members, its health checks, and the connector
//! to its servers.

mod connector;
mod discovery;
mod stream;
mod tls_failures;
mod with_proxy_header;

use std::{
    pin::pin,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::{Duration, SystemTime},
};

use leastconn::{
    Discover, Pool, PoolBuilder, PoolError, ServerId, ServerSpec, follow,
    net::{self, AgentCheck, AgentChecker, Check, Checker, ConnectPolicy, Probe},
};
use leastconn_proxy_protocol::Version;
use parking_lot::Mutex;
use tokio::task::JoinSet;

pub use connector::UpstreamConnector;
pub use discovery::{ApplyMembers, DiscoveryHandover, LookupCounts, SourceStatus, look_up_sources};
use leastconn_config::{HealthCheck, ProbeKind, StatusSet};
use leastconn_tls::TlsError;
pub use stream::{ServerStream, TlsStream};
pub use with_proxy_header::WithProxyHeader;

use connector::{ProbeConnector, TlsConnector};
use discovery::Discovery;

/// Why an upstream cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum UpstreamError {
    /// The upstream has no servers, or two servers of the same name.
    #[error(transparent)]
    Pool(#[from] PoolError),
    /// TLS rejects the configured certificates.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// An upstream of the running configuration.
#[derive(Debug)]
pub struct Upstream {
    pool: Arc<Pool>,
    connect: ConnectPolicy,
    keepalive: Option<Duration>,
    proxy_protocol: Option<Version>,
    has_health_checks: bool,
    has_agents: bool,
    /// The connector, with the certificates that were loaded at the start.
    connector: UpstreamConnector,
    discovery: Arc<Discovery>,
    tasks: Mutex<Tasks>,
}

/// Background tasks, which end when dropped.
#[derive(Debug, Default)]
struct Tasks {
    checker: Option<Checker>,
    agents: Option<AgentChecker>,
    discovery: JoinSet<()>,
}

impl Upstream {
    /// Builds the pool from the servers with an `address`, and starts its health checks.
    /// [`Self::start_discovery`] adds discovered servers.
    ///
    /// # Errors
    /// If the configuration has no servers or two servers with the same name, or if TLS rejects its
    /// certificates.
    ///
    /// # Panics
    /// If health checks are configured and this is called outside a Tokio runtime.
    pub fn start(config: &leastconn_config::Upstream) -> Result<Self, UpstreamError> {
        Self::start_after(config, &DiscoveryHandover::default())
    }

    /// Like [`Self::start`], with the servers that a predecessor process has discovered.
    ///
    /// # Errors
    /// The errors of [`Self::start`].
    ///
    /// # Panics
    /// If health checks are configured and this is called outside a Tokio runtime.
    pub fn start_after(
        config: &leastconn_config::Upstream,
        handover: &DiscoveryHandover,
    ) -> Result<Self, UpstreamError> {
        let connector = new_connector(config)?;
        let discovery = Discovery::new(config, None, handover);
        let pool = new_pool(config).servers(discovery.servers());
        Ok(Self::build(pool.build()?, config, connector, discovery))
    }

    /// Like [`Self::start`], but takes the members from `discover` while the upstream lives. It
    /// may start without members.
    ///
    /// # Errors
    /// If the first member list has two servers with the same name, or if TLS rejects the
    /// configured certificates.
    ///
    /// # Panics
    /// If called outside a Tokio runtime.
    pub fn start_with(
        config: &leastconn_config::Upstream,
        mut discover: impl Discover + 'static,
    ) -> Result<Self, UpstreamError> {
        let connector = new_connector(config)?;
        let pool = new_pool(config).may_be_empty(true);
        let pool = match ready_members(&mut discover) {
            Poll::Ready(Some(servers)) => pool.servers(servers),
            Poll::Ready(None) | Poll::Pending => pool,
        };
        let discovery = Discovery::new(config, None, &DiscoveryHandover::default());
        let upstream = Self::build(pool.build()?, config, connector, discovery);
        follow_changes(
            &mut upstream.tasks.lock().discovery,
            &upstream.pool,
            discover,
        );
        Ok(upstream)
    }

    /// Checks whether [`Self::start`] and [`Self::succeed`] would succeed.
    ///
    /// # Errors
    /// The errors of these two functions.
    pub fn check(config: &leastconn_config::Upstream) -> Result<(), UpstreamError> {
        check_servers(config)?;
        new_connector(config)?;
        Ok(())
    }

    /// Creates the next generation of this upstream. Servers that are in both generations keep
    /// their connections and their health.
    ///
    /// # Errors
    /// The errors of [`Self::start`]. After an error, this upstream is unchanged.
    ///
    /// # Panics
    /// If health checks are configured and this is called outside a Tokio runtime.
    pub fn succeed(&self, config: &leastconn_config::Upstream) -> Result<Self, UpstreamError> {
        check_servers(config)?;
        let connector = new_connector(config)?;
        let none = DiscoveryHandover::default();
        let discovery = Discovery::new(config, Some(&self.discovery), &none);
        // The members of a pool must not change once it has a successor.
        self.discovery.stop();
        let pool = configured(self.pool.successor(), config).servers(discovery.servers());
        Ok(Self::build(pool.build()?, config, connector, discovery))
    }

    fn build(
        pool: Pool,
        config: &leastconn_config::Upstream,
        connector: UpstreamConnector,
        discovery: Arc<Discovery>,
    ) -> Self {
        let pool = Arc::new(pool);
        let checker = config
            .health_check
            .as_ref()
            .map(|check| start_checks(&pool, check, connector.clone(), config.proxy_protocol));
        let agents = config.agent_check.as_ref();
        let agents = agents.map(|check| AgentChecker::start(&pool, agent_check_of(check)));
        let tasks = Tasks {
            checker,
            agents,
            discovery: JoinSet::new(),
        };
        let mut connect = ConnectPolicy::default();
        connect.timeout = config.connect_timeout;
        connect.retries = config.retries;
        connect.retry_for = config.retry_for;
        // The relay enables keepalive.
        connect.keepalive = None;
        Self {
            pool,
            connect,
            keepalive: config.keepalive,
            proxy_protocol: config.proxy_protocol,
            has_health_checks: config.health_check.is_some(),
            has_agents: config.agent_check.is_some(),
            connector,
            discovery,
            tasks: Mutex::new(tasks),
        }
    }

    /// Starts to discover servers. `apply` changes the members. Later calls have no effect.
    ///
    /// # Panics
    /// If the upstream discovers servers and this is called outside a Tokio runtime.
    pub fn start_discovery(&self, apply: &Arc<dyn ApplyMembers>) {
        let mut tasks = self.tasks.lock();
        if tasks.discovery.is_empty() {
            self.discovery
                .start(&mut tasks.discovery, &self.pool, apply);
        }
    }

    /// Whether health checks or agent checks examine the servers.
    pub const fn is_checked(&self) -> bool {
        self.has_health_checks || self.has_agents
    }

    /// Whether servers are discovered.
    pub fn has_sources(&self) -> bool {
        self.discovery.has_sources()
    }

    /// The sources of discovered servers.
    pub fn sources(&self) -> Vec<SourceStatus> {
        self.discovery.status()
    }

    /// Adds the discovered servers to the data for a successor process.
    pub(crate) fn hand_over_to(&self, handover: &mut DiscoveryHandover) {
        handover.add(self.pool.id(), &self.discovery, net::now());
    }

    /// Waits until each source has had an answer with servers. With `start = "empty"`, completes
    /// immediately.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub fn first_answers(&self) -> impl Future<Output = ()> + Send + use<> {
        self.discovery.first_answers()
    }

    /// Whether [`Self::first_answers`] has to wait.
    pub fn is_waiting_for_servers(&self) -> bool {
        self.discovery.is_waiting()
    }

    /// Looks up each source of servers once, within `limit`, and applies the answers. For commands
    /// that do not run the balancer.
    pub async fn discover_once(&self, limit: Duration) {
        self.discovery.look_up_once(limit).await;
        let servers = self.discovery.servers();
        if !servers.is_empty() {
            // An error means that there are neither listed servers nor answers, because the names
            // are distinct. The pool then stays empty.
            let _ = self.pool.update(servers);
        }
    }

    /// Ends health checks and discovery, before the next generation of the upstream replaces this
    /// one.
    pub fn stop_tasks(&self) {
        *self.tasks.lock() = Tasks::default();
    }

    /// Resets the reports of agents if agent checks are no longer configured. Must be called
    /// after the tasks of the previous generation of the upstream were
    /// [stopped](Self::stop_tasks).
    pub fn forget_removed_agents(&self) {
        if !self.has_agents {
            self.pool.forget_agents(SystemTime::now());
        }
    }

    /// Completes once every server that was a member at the start has been probed, successfully or
    /// not. Completes immediately if there are no health checks.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub fn first_round(&self) -> impl Future<Output = ()> + Send + use<> {
        let round = self.tasks.lock().checker.as_ref().map(Checker::first_round);
        async move {
            if let Some(round) = round {
                round.await;
            }
        }
    }

    /// For each server whose agent is queried, the time since the agent's last report.
    pub fn agent_report_ages(&self) -> Vec<(ServerId, Duration)> {
        let tasks = self.tasks.lock();
        let Some(agents) = &tasks.agents else {
            return Vec::new();
        };
        let (members, now) = (self.pool.members(), net::now());
        let ages = members.iter().filter_map(|member| {
            let server = member.server.id();
            Some((server.clone(), agents.report_age(server, now)?))
        });
        ages.collect()
    }

    pub fn pool(&self) -> &Pool {
        &self.pool
    }

    pub const fn connect_policy(&self) -> &ConnectPolicy {
        &self.connect
    }

    /// TCP keepalive of connections to servers: the idle time before the first probe.
    pub const fn keepalive(&self) -> Option<Duration> {
        self.keepalive
    }

    /// The version of the PROXY header that is sent to servers.
    pub const fn proxy_protocol(&self) -> Option<Version> {
        self.proxy_protocol
    }

    /// Prepares new connections to servers.
    pub const fn connector(&self) -> &UpstreamConnector {
        &self.connector
    }
}

/// Polls the source once. Returns the member list if the source is ready.
fn ready_members(discover: &mut impl Discover) -> Poll<Option<Vec<ServerSpec>>> {
    let mut context = Context::from_waker(Waker::noop());
    pin!(discover.next()).poll(&mut context)
}

/// Applies further member lists of the source. If there are none, no task is started, so no
/// runtime is needed.
fn follow_changes(
    tasks: &mut JoinSet<()>,
    pool: &Arc<Pool>,
    mut discover: impl Discover + 'static,
) {
    match ready_members(&mut discover) {
        Poll::Ready(None) => return,
        Poll::Ready(Some(servers)) => {
            let _ = pool.update(servers);
        }
        Poll::Pending => {}
    }
    let pool = Arc::clone(pool);
    tasks.spawn(async move { follow(&pool, discover).await });
}

fn start_checks(
    pool: &Pool,
    check: &HealthCheck,
    connector: UpstreamConnector,
    proxy_protocol: Option<Version>,
) -> Checker {
    // A separate health check port usually does not expect the PROXY header.
    let header = proxy_protocol.filter(|_| check.port.is_none());
    let header = header.map(Version::encode_local);
    let check = probe_of(check);
    let step = ProbeConnector::new(connector, &check);
    Checker::start_with(pool, check, WithProxyHeader::new(header, step))
}

fn new_pool(config: &leastconn_config::Upstream) -> PoolBuilder<'static> {
    configured(Pool::builder(config.id.clone()), config).seed(net::random())
}

fn configured<'a>(pool: PoolBuilder<'a>, config: &leastconn_config::Upstream) -> PoolBuilder<'a> {
    pool.active(config.health_check.as_ref().map(|check| check.policy))
        .passive(config.passive)
        .max_connecting(config.max_connecting)
        .balance(config.balance)
        .panic(config.panic)
        .queue(config.queue)
        .clock(net::now)
        .slow_start(config.slow_start)
        .zone(config.own_zone.clone())
        .may_be_empty(!config.sources.is_empty())
}

/// Checks whether a pool can be built from the servers with an `address`.
fn check_servers(config: &leastconn_config::Upstream) -> Result<(), PoolError> {
    let servers = config.servers.iter().cloned();
    new_pool(config).servers(servers).build().map(drop)
}

fn new_connector(config: &leastconn_config::Upstream) -> Result<UpstreamConnector, TlsError> {
    let tls = config.tls.as_ref();
    let tls = tls.map(|tls| TlsConnector::new(config.id.clone(), tls));
    Ok(UpstreamConnector::new(tls.transpose()?.map(Arc::new)))
}

fn agent_check_of(check: &leastconn_config::AgentCheck) -> AgentCheck {
    let mut agent_check = AgentCheck::new(check.port);
    agent_check.send.clone_from(&check.send);
    agent_check.interval = check.interval;
    agent_check.timeout = check.timeout;
    agent_check
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
    let mut probe_check = Check::new(probe);
    probe_check.port = check.port;
    probe_check.interval = check.interval;
    probe_check.timeout = check.timeout;
    probe_check
}

#[cfg(test)]
mod tests;
