//! Sources of servers, and `[upstream.discovery]`

use std::{fmt, net::SocketAddr, num::NonZeroU32, path::Path, sync::Arc, time::Duration};

use leastconn::{Weight, ZoneId};

use crate::{
    defaults,
    keyword::{AddressFamily, OnRemoval, StartMode},
};

/// An entry of `servers` with `dns`, `srv` or `file`. The defaults apply to servers for which the
/// source does not specify the setting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerSource {
    pub kind: SourceKind,
    /// Default weight of the servers.
    pub weight: Weight,
    /// Default maximum number of concurrent connections to a server. `None`: no limit.
    pub max_conns: Option<NonZeroU32>,
    /// Whether servers are backups by default.
    pub backup: bool,
    /// Default zone of the servers.
    pub zone: Option<ZoneId>,
}

/// The kind and location of a source.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum SourceKind {
    /// Each address of the host is a server.
    Dns { host: Arc<str>, port: u16 },
    /// Each SRV record of this name is a server.
    Srv(Arc<str>),
    /// A JSON file.
    File(Arc<Path>),
}

/// The key and its value, for example `dns web:80`.
impl fmt::Display for SourceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dns { host, port } => write!(f, "dns {host}:{port}"),
            Self::Srv(name) => write!(f, "srv {name}"),
            Self::File(path) => write!(f, "file {}", path.display()),
        }
    }
}

/// `[upstream.discovery]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Discovery {
    /// Maximum time between two DNS look-ups. At least one second.
    pub refresh: Duration,
    /// How long a server must be missing from all complete answers before it is removed.
    pub hold: Duration,
    pub removed: OnRemoval,
    /// Maximum number of servers of one source.
    pub max: usize,
    /// DNS servers. Empty: those in `/etc/resolv.conf`.
    pub resolvers: Vec<SocketAddr>,
    pub family: AddressFamily,
    pub start: StartMode,
}

impl Default for Discovery {
    fn default() -> Self {
        Self {
            refresh: defaults::DISCOVERY_REFRESH,
            hold: defaults::DISCOVERY_HOLD,
            removed: OnRemoval::default(),
            max: defaults::DISCOVERY_MAX as usize,
            resolvers: Vec::new(),
            family: AddressFamily::default(),
            start: StartMode::default(),
        }
    }
}
