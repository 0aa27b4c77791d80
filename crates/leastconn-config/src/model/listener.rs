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

#[derive(Clone, Debug, PartialEq)]
pub struct Listener {
    pub name: Arc<str>,
    /// TCP addresses to listen on. At least one of `binds` and `unix_binds` is not empty.
    pub binds: Vec<SocketAddr>,
    /// Paths of UNIX sockets.
    pub unix_binds: Vec<Arc<Path>>,
    /// File mode of the UNIX sockets.
    pub bind_mode: u32,
    /// Routes by server name. They are tried in order; `upstream` applies if no route
    /// matches.
    pub routes: Vec<Route>,
    /// Target of connections that match no route. Without it, the connection goes to the
    /// upstream in the client's `allow`, if that names exactly one upstream.
    pub upstream: Option<Target>,
    pub timeouts: Timeouts,
    /// Idle time before the first TCP keepalive probe. `None`: no probes.
    pub keepalive: Option<Duration>,
    /// Maximum age of a connection. `None`: no limit.
    pub max_lifetime: Option<Duration>,
    pub on_expiry: OnExpiry,
    pub on_truncation: OnTruncation,
    /// Rate limit for the connections of each source. `None`: no limit.
    pub source_rate_limit: Option<SourceRateLimit>,
    pub starttls: StartTls,
    /// Maximum number of certificates that a client may send in addition to its own.
    pub max_intermediates: usize,
    /// Peers whose connections start with a PROXY header. `None`: no connection starts with
    /// a PROXY header.
    pub trusted_proxies: Option<TrustedProxies>,
    /// TLS settings of the listener. `None`: the listener accepts plain TCP.
    pub tls: Option<Tls>,
}

impl Listener {
    /// Prefix lengths that determine which client addresses count as one source.
    pub fn prefixes(&self) -> Prefixes {
        let limit = self.source_rate_limit;
        limit.map_or_else(Prefixes::default, |limit| limit.prefixes)
    }
}

/// `source_rate_limit` of a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SourceRateLimit {
    /// Rate limit that applies to each source.
    pub rate: RateLimit,
    pub prefixes: Prefixes,
}

/// Proxies that may send PROXY headers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TrustedProxies {
    /// Every peer is trusted.
    Anyone,
    /// Peers in one of these networks are trusted. The list is not empty.
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
    pub upstream: Target,
}

/// Where a listener or one of its routes leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    Upstream(UpstreamId),
    /// `upstream = false`: connections are refused as `not_allowed`.
    Refuse,
}

impl Target {
    pub const fn upstream(&self) -> Option<&UpstreamId> {
        match self {
            Self::Upstream(id) => Some(id),
            Self::Refuse => None,
        }
    }
}

/// Timeouts of client connections. All of them are greater than zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// Maximum time from accepting a connection to authorizing its client.
    pub handshake: Duration,
    /// Maximum time without a byte transferred in either direction.
    pub idle: Duration,
    /// Replaces `idle` after one side has finished sending.
    pub half_close: Duration,
}
