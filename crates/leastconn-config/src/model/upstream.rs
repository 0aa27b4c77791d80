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
    /// Its name.
    pub id: UpstreamId,
    /// At least one; names are distinct.
    pub servers: Vec<ServerSpec>,
    /// How one of them is chosen.
    pub balance: Balance,
    /// How long a server that came back, or is new, takes to get its whole share.
    pub slow_start: Duration,
    /// How long one attempt to connect may take.
    pub connect_timeout: Duration,
    /// How many further servers are tried when connecting fails.
    pub retries: u32,
    /// How long a connection tries again once all have failed; zero: not at all.
    pub retry_for: Duration,
    /// What happens while no server is available.
    pub panic: PanicPolicy,
    /// Silence before TCP keepalive probes; `None`: none.
    pub keepalive: Option<Duration>,
    /// The PROXY header that servers get; `None`: none.
    pub proxy_protocol: Option<Version>,
    /// Probes; `None`: none.
    pub health_check: Option<HealthCheck>,
    /// What failing connects do to a server.
    pub passive: PassivePolicy,
    /// TLS towards the servers; `None`: plain TCP.
    pub tls: Option<UpstreamTls>,
}

/// `health_check` of an upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthCheck {
    /// What a probe does.
    pub kind: ProbeKind,
    /// The port that is probed; `None`: the server's own.
    pub port: Option<u16>,
    /// Time between two probes of one server.
    pub interval: Duration,
    /// How long a probe may take.
    pub timeout: Duration,
    /// How many probes change a server's state.
    pub policy: ActivePolicy,
}

/// What a probe does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProbeKind {
    /// It connects, and exchanges what is given.
    Tcp {
        /// Sent first.
        send: Option<Vec<u8>>,
        /// Must then occur in what the server sends.
        expect: Option<Vec<u8>>,
    },
    /// It makes a GET request.
    Http {
        /// The request's target, beginning with `/`.
        path: String,
        /// Which answers are good ones.
        status: StatusSet,
    },
    /// It logs in to MySQL or MariaDB.
    Mysql {
        /// As this user.
        user: String,
    },
    /// It begins a PostgreSQL session.
    Postgres {
        /// As this user.
        user: String,
    },
    /// It sends `PING` to Redis.
    Redis,
}

/// HTTP status codes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StatusSet {
    /// 200 to 399.
    Success,
    /// These.
    OneOf(Vec<u16>),
}

impl StatusSet {
    /// Whether an answer with this status is a good one.
    pub fn contains(&self, status: u16) -> bool {
        match self {
            Self::Success => (200..400).contains(&status),
            Self::OneOf(codes) => codes.contains(&status),
        }
    }
}
