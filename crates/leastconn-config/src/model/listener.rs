//! `[[listener]]`

use std::{
    net::{IpAddr, SocketAddr},
    path::Path,
    sync::Arc,
    time::Duration,
};

use leastconn::{RateLimit, UpstreamId};
use leastconn_tls::pattern::DnsPattern;

use crate::{
    cidr::{IpNet, Prefixes},
    keyword::{OnExpiry, OnTruncation, StartTls},
    tls::Tls,
};

/// `[[listener]]`
#[derive(Clone, Debug, PartialEq)]
pub struct Listener {
    /// Its name in logs and metrics.
    pub name: Arc<str>,
    /// Addresses that it listens at. At least one, or a path.
    pub binds: Vec<SocketAddr>,
    /// UNIX sockets that it listens at.
    pub unix_binds: Vec<Arc<Path>>,
    /// The mode of their files.
    pub bind_mode: u32,
    /// Tried in order, before `upstream`.
    pub routes: Vec<Route>,
    /// Where connections go that no route takes. Without it and without routes,
    /// the client's own `allow` decides, and was checked to name servers of one
    /// upstream only.
    pub upstream: Option<UpstreamId>,
    /// How long what may take.
    pub timeouts: Timeouts,
    /// Silence before TCP keepalive probes; `None`: none.
    pub keepalive: Option<Duration>,
    /// The age at which a connection is closed, at most; `None`: none.
    pub max_lifetime: Option<Duration>,
    /// What happens when a client certificate runs out while its client is connected.
    pub on_expiry: OnExpiry,
    /// How a TLS end without `close_notify` is passed on.
    pub on_truncation: OnTruncation,
    /// How fast each source may connect; `None`: as fast as it can.
    pub source_rate_limit: Option<SourceRateLimit>,
    /// What comes before the TLS handshake.
    pub starttls: StartTls,
    /// Certificates that a client may send beside its own.
    pub max_intermediates: usize,
    /// Who sends PROXY headers, which must come first; `None`: nobody.
    pub senders: Option<Senders>,
    /// TLS towards clients; `None`: plain TCP.
    pub tls: Option<Tls>,
}

impl Listener {
    /// How sources are told apart.
    pub fn prefixes(&self) -> Prefixes {
        let limit = self.source_rate_limit;
        limit.map_or_else(Prefixes::default, |limit| limit.prefixes)
    }
}

/// `source_rate_limit` of a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SourceRateLimit {
    /// For each source.
    pub rate: RateLimit,
    /// What a source is.
    pub prefixes: Prefixes,
}

/// Who may announce clients by PROXY headers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Senders {
    /// Whoever connects.
    Anyone,
    /// Who connects from one of these; not empty.
    Only(Vec<IpNet>),
}

impl Senders {
    /// Whether `address` is one of theirs.
    pub fn include(&self, address: IpAddr) -> bool {
        match self {
            Self::Anyone => true,
            Self::Only(networks) => networks.iter().any(|network| network.contains(address)),
        }
    }
}

/// One of a listener's `routes`.
#[derive(Clone, Debug, PartialEq)]
pub struct Route {
    /// The server name the client asks for.
    pub sni: DnsPattern,
    /// Where it leads.
    pub upstream: UpstreamId,
}

/// How long the phases of a connection may take. None is zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// From accepting to having authorized.
    pub handshake: Duration,
    /// Without a byte in either direction.
    pub idle: Duration,
    /// The same, once one side has finished sending.
    pub half_close: Duration,
}
