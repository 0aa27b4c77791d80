//! `[fleet]`

use std::{fmt, num::NonZeroU32, path::PathBuf, sync::Arc, time::Duration};

use leastconn::Address;

use crate::{
    keyword::{SharedCounts, SharedLimits},
    tls::{CertificateFile, UpstreamTls},
};

/// The fleet that the balancer belongs to. A reload can change every field.
#[derive(Clone, Debug, PartialEq)]
pub struct Fleet {
    /// A name as in [`crate::names`], so it contains no braces.
    pub name: Arc<str>,
    pub store: FleetStore,
    /// The user name at the store. `None`: the store's default user. A user always has a password.
    pub user: Option<String>,
    /// `None`: the store needs no password.
    pub password: Option<Secret>,
    /// At least 16 bytes.
    pub secret: Secret,
    /// TLS to the store and to the sentinels. `None`: plain TCP or a UNIX socket.
    pub tls: Option<UpstreamTls>,
    /// The name of this balancer in the fleet.
    pub member: Arc<str>,
    pub limits: SharedLimits,
    pub counts: SharedCounts,
    /// Number of members to assume after the start, until the store has been reached.
    pub size: NonZeroU32,
    /// How long after its last exchange a member is removed. At least one second.
    pub gone_after: Duration,
    /// How long a connection near its client's limit waits for the store. At most 250 ms, the
    /// time after which an exchange fails.
    pub ask_timeout: Duration,
    /// The files of `password`, `secret` and `sentinel_password`.
    pub(crate) secret_files: Vec<PathBuf>,
}

impl Fleet {
    pub(crate) fn certificate_files(&self) -> impl Iterator<Item = &CertificateFile> {
        self.tls.iter().flat_map(|tls| &*tls.files)
    }

    /// All files that `[fleet]` names.
    pub(crate) fn files(&self) -> impl Iterator<Item = PathBuf> + '_ {
        let tls = self.tls.iter().flat_map(|tls| tls.table.files());
        self.secret_files.iter().cloned().chain(tls)
    }
}

/// How to reach the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FleetStore {
    /// One server.
    Server(Address),
    /// The sentinels know the address of the primary.
    Sentinel {
        /// At least one.
        sentinels: Vec<Address>,
        /// The name by which the sentinels know the primary.
        primary: String,
        user: Option<String>,
        password: Option<Secret>,
    },
    /// One or more nodes of a cluster.
    Cluster(Vec<Address>),
}

impl FleetStore {
    pub fn addresses(&self) -> impl Iterator<Item = &Address> {
        let (one, list) = match self {
            Self::Server(address) => (Some(address), &[][..]),
            Self::Sentinel { sentinels, .. } => (None, &sentinels[..]),
            Self::Cluster(nodes) => (None, &nodes[..]),
        };
        one.into_iter().chain(list)
    }
}

impl fmt::Display for FleetStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |addresses: &[Address]| {
            let texts: Vec<_> = addresses.iter().map(Address::to_string).collect();
            texts.join(", ")
        };
        match self {
            Self::Server(address) => address.fmt(f),
            Self::Sentinel {
                sentinels, primary, ..
            } => write!(f, "{primary} of sentinels {}", list(sentinels)),
            Self::Cluster(nodes) => write!(f, "cluster {}", list(nodes)),
        }
    }
}

/// The contents of a secret file. `Debug` does not show it.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Vec<u8>);

impl Secret {
    pub fn new(bytes: impl Into<Vec<u8>>) -> Self {
        Self(bytes.into())
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}
