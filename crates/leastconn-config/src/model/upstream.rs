//! `[[upstream]]`

use std::{num::NonZeroU32, path::PathBuf, time::Duration};

use leastconn::{
    Balance, PanicPolicy, QueuePolicy, ServerSpec, UpstreamId, ZoneId,
    health::{ActivePolicy, PassivePolicy, Ratio},
};
use leastconn_proxy_protocol::Version;

use super::{Discovery, ServerSource, SourceKind};
use crate::tls::UpstreamTls;

#[derive(Clone, Debug, PartialEq)]
pub struct Upstream {
    pub id: UpstreamId,
    /// Servers with an `address`. All names are distinct. There is at least one server if
    /// `sources` is empty.
    pub servers: Vec<ServerSpec>,
    /// Sources of further servers. All are distinct.
    pub sources: Vec<ServerSource>,
    /// Settings of `sources`.
    pub discovery: Discovery,
    /// The balancer's own zone. Servers in this zone are preferred.
    pub own_zone: Option<ZoneId>,
    pub balance: Balance,
    /// Duration of the slow-start ramp of recovered and new servers. Zero: no ramp.
    pub slow_start: Duration,
    /// Timeout of one attempt to connect.
    pub connect_timeout: Duration,
    /// A server with this number of connection attempts in progress is passed over while another
    /// server is available. `None`: no limit.
    pub max_connecting: Option<NonZeroU32>,
    /// Number of further servers that are tried when connecting fails.
    pub retries: u32,
    /// How long a connection keeps trying to connect after all servers have failed. Zero:
    /// the connection fails as soon as all servers have failed.
    pub retry_for: Duration,
    pub panic: PanicPolicy,
    /// How many connections may wait for a server that is at `max_conns`, and for how long.
    pub queue: QueuePolicy,
    /// Idle time before the first TCP keepalive probe. `None`: no probes.
    pub keepalive: Option<Duration>,
    /// Version of the PROXY header sent to servers. `None`: no header.
    pub proxy_protocol: Option<Version>,
    /// Active health check. `None`: servers are not probed.
    pub health_check: Option<HealthCheck>,
    /// Agent check. `None`: no agents are queried.
    pub agent_check: Option<AgentCheck>,
    pub passive: PassivePolicy,
    /// `None`: connections are not closed to rebalance the servers.
    pub rebalance: Option<Rebalance>,
    /// TLS settings for connections to servers. `None`: plain TCP.
    pub tls: Option<UpstreamTls>,
}

impl Upstream {
    /// The files that list servers.
    pub fn server_files(&self) -> impl Iterator<Item = PathBuf> {
        self.sources.iter().filter_map(|source| match &source.kind {
            SourceKind::File(path) => Some(path.to_path_buf()),
            SourceKind::Dns { .. } | SourceKind::Srv(_) => None,
        })
    }
}

/// `health_check` of an upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthCheck {
    pub kind: ProbeKind,
    /// The port to probe. `None`: the port of the server's address.
    pub port: Option<u16>,
    pub interval: Duration,
    pub timeout: Duration,
    /// How many probes must fail or succeed in a row to change a server's state.
    pub policy: ActivePolicy,
}

/// `rebalance` of an upstream.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rebalance {
    /// Connections are closed on servers that have more than this multiple of their weighted share
    /// of the connections.
    pub above: f64,
    /// Maximum fraction of the upstream's connections that are closed in one round.
    pub most: Ratio,
    /// Only connections that have transferred no byte for this time are closed.
    pub quiet: Duration,
}

/// `agent_check` of an upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentCheck {
    pub port: u16,
    /// Bytes that are sent after connecting.
    pub send: Option<Vec<u8>>,
    pub interval: Duration,
    pub timeout: Duration,
}

/// The protocol of a probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProbeKind {
    /// Connects, and optionally sends and expects data.
    Tcp {
        /// Bytes that the probe sends after connecting.
        send: Option<Vec<u8>>,
        /// Bytes that the server's answer must contain.
        expect: Option<Vec<u8>>,
    },
    /// Sends an HTTP GET request.
    Http {
        /// The request target, starting with `/`.
        path: String,
        /// Status codes with which a probe succeeds.
        status: StatusSet,
    },
    /// Logs in to MySQL or MariaDB.
    Mysql { user: String },
    /// Starts a PostgreSQL session.
    Postgres { user: String },
    /// Sends `PING` to Redis.
    Redis,
}

/// A set of HTTP status codes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StatusSet {
    /// Every status from 200 to 399.
    Success,
    OneOf(Vec<u16>),
}

impl StatusSet {
    pub fn contains(&self, status: u16) -> bool {
        match self {
            Self::Success => (200..400).contains(&status),
            Self::OneOf(codes) => codes.contains(&status),
        }
    }
}
