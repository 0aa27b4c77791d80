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
    pub name: Arc<str>,
    /// `binds` or `unix_binds` is not empty.
    pub binds: Vec<SocketAddr>,
    /// Paths of UNIX sockets.
    pub unix_binds: Vec<Arc<Path>>,
    /// File mode of the UNIX sockets.
    pub bind_mode: u32,
    /// Tried in order, before `upstream`.
    pub routes: Vec<Route>,
    /// Upstream of connections that match no route. If there are no routes either, the
    /// client's `allow` decides; it then names servers of one upstream only.
    pub upstream: Option<UpstreamId>,
    pub timeouts: Timeouts,
    /// Idle time before TCP keepalive probes. `None`: no probes.
    pub keepalive: Option<Duration>,
    /// Maximum age of a connection. `None`: no limit.
    pub max_lifetime: Option<Duration>,
    pub on_expiry: OnExpiry,
    pub on_truncation: OnTruncation,
    /// `None`: no limit.
    pub source_rate_limit: Option<SourceRateLimit>,
    pub starttls: StartTls,
    /// Maximum number of certificates that a client may send besides its own.
    pub max_intermediates: usize,
    /// Peers whose connections start with a PROXY header. `None`: no connection does.
    pub trusted_proxies: Option<TrustedProxies>,
    /// `None`: plain TCP.
    pub tls: Option<Tls>,
}

impl Listener {
    /// The prefix lengths by which clients are grouped into sources.
    pub fn prefixes(&self) -> Prefixes {
        let limit = self.source_rate_limit;
        limit.map_or_else(Prefixes::default, |limit| limit.prefixes)
    }
}

/// `source_rate_limit` of a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SourceRateLimit {
    /// Limit per source.
    pub rate: RateLimit,
    pub prefixes: Prefixes,
}

/// Proxies that may send PROXY headers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TrustedProxies {
    /// Every peer.
    Anyone,
    /// Peers in one of these networks. Not empty.
    Only(Vec<IpNet>),
}

impl TrustedProxies {
    /// Whether the proxy at `address` is trusted.
    pub fn contains(&self, address: IpAddr) -> bool {
        match self {
            Self::Anyone => true,
            Self::Only(networks) => networks.iter().any(|network| network.contains(address)),
        }
    }
}

/// One of a listener's `routes`.
#[derive(Clone, Debug, PartialEq)]
pub struct Route {
    /// Pattern for the server name that the client sends.
    pub sni: DnsPattern,
    pub upstream: UpstreamId,
}

/// Timeouts of client connections. None is zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// From accepting a connection to authorizing its client.
    pub handshake: Duration,
    /// Without a byte transferred in either direction.
    pub idle: Duration,
    /// As `idle`, after one side has finished sending.
    pub half_close: Duration,
}
