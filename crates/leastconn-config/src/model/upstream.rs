//! `[[upstream]]`

use std::time::Duration;

use leastconn::{
    Balance, PanicPolicy, ServerSpec, UpstreamId,
    health::{ActivePolicy, PassivePolicy},
};
use leastconn_proxy_protocol::Version;

use crate::tls::UpstreamTls;

/// `[[upstream]]`
#[derive(Clone, Debug, PartialEq)]
pub struct Upstream {
    pub id: UpstreamId,
    /// Not empty. Names are distinct.
    pub servers: Vec<ServerSpec>,
    pub balance: Balance,
    /// Ramp time of recovered and new servers. Zero: no ramp.
    pub slow_start: Duration,
    /// Timeout of one attempt to connect.
    pub connect_timeout: Duration,
    /// Number of further servers that are tried when connecting fails.
    pub retries: u32,
    /// How long a connection keeps trying after all servers have failed. Zero: it fails at
    /// once.
    pub retry_for: Duration,
    pub panic: PanicPolicy,
    /// Idle time before TCP keepalive probes. `None`: no probes.
    pub keepalive: Option<Duration>,
    /// Version of the PROXY header sent to servers. `None`: no header.
    pub proxy_protocol: Option<Version>,
    /// `None`: no probes.
    pub health_check: Option<HealthCheck>,
    pub passive: PassivePolicy,
    /// `None`: plain TCP.
    pub tls: Option<UpstreamTls>,
}

/// `health_check` of an upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthCheck {
    pub kind: ProbeKind,
    /// The port to probe. `None`: the port of the server's address.
    pub port: Option<u16>,
    pub interval: Duration,
    pub timeout: Duration,
    /// Number of probes that change a server's state.
    pub policy: ActivePolicy,
}

/// The protocol of a probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProbeKind {
    /// Connects, and optionally exchanges data.
    Tcp {
        /// Sent after connecting.
        send: Option<Vec<u8>>,
        /// Must then be contained in the server's answer.
        expect: Option<Vec<u8>>,
    },
    /// A GET request.
    Http {
        /// The request target, starting with `/`.
        path: String,
        /// Statuses of successful probes.
        status: StatusSet,
    },
    /// A login to MySQL or MariaDB.
    Mysql { user: String },
    /// The start of a PostgreSQL session.
    Postgres { user: String },
    /// A `PING` to Redis.
    Redis,
}

/// A set of HTTP status codes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StatusSet {
    /// 200 to 399.
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
