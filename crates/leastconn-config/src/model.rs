//! The checked configuration.
//!
//! Only [`load`](super::load) creates these types from a file. Their values are valid and
//! need no further checks.

mod admin;
mod discovery;
mod fleet;
mod listener;
mod log;
mod process;
mod upstream;

use std::{path::PathBuf, sync::Arc};

use leastconn::UpstreamId;
use leastconn_tls::crl::CrlStore;

use super::{clients::Clients, tls::CertificateFile};

pub use admin::{Admin, Token};
pub use discovery::{Discovery, ServerSource, SourceKind};
pub use fleet::{Fleet, FleetStore, Secret};
pub use listener::{Listener, Route, SourceRateLimit, Target, Timeouts, TrustedProxies};
pub use log::{Access, Log};
pub use process::{MemoryLimit, Process};
pub use upstream::{AgentCheck, HealthCheck, ProbeKind, Rebalance, StatusSet, Upstream};

#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The configuration file.
    pub path: PathBuf,
    /// The first 16 hexadecimal digits of the SHA-256 of the file, before environment variables are
    /// replaced. The members of a fleet compare this digest.
    pub digest: String,
    pub process: Process,
    pub log: Log,
    /// Settings of the admin interface. `None`: there is no admin interface.
    pub admin: Option<Admin>,
    /// `None`: this balancer acts alone.
    pub fleet: Option<Fleet>,
    /// Listeners. There is at least one, and all names and addresses are distinct.
    pub listeners: Vec<Listener>,
    /// Upstreams. All names are distinct. Every upstream that a listener or client refers
    /// to is in this list.
    pub upstreams: Vec<Upstream>,
    /// Client rules, in the order of the file. For each client, they are tried in this order.
    pub clients: Arc<Clients>,
}

impl Config {
    pub fn upstream(&self, id: &UpstreamId) -> Option<&Upstream> {
        self.upstreams.iter().find(|upstream| upstream.id == *id)
    }

    /// The CRLs of each `tls` table.
    pub fn revocation_lists(&self) -> Vec<Arc<CrlStore>> {
        let listeners = self.listeners.iter().flat_map(|listener| &listener.tls);
        let upstreams = self.upstreams.iter().flat_map(|upstream| &upstream.tls);
        listeners
            .map(|tls| Arc::clone(&tls.settings.material.crls))
            .chain(upstreams.map(|tls| Arc::clone(&tls.settings.material.crls)))
            .collect()
    }

    /// The certificate and CRL files of all `tls` tables and of `[fleet]`.
    pub fn certificate_files(&self) -> impl Iterator<Item = &CertificateFile> {
        let listeners = self.listeners.iter().flat_map(|listener| &listener.tls);
        let upstreams = self.upstreams.iter().flat_map(|upstream| &upstream.tls);
        listeners
            .flat_map(|tls| &*tls.files)
            .chain(upstreams.flat_map(|tls| &*tls.files))
            .chain(self.fleet.iter().flat_map(Fleet::certificate_files))
    }

    /// The configuration file, the files of all `tls` tables and of `[fleet]`, and files that
    /// list servers.
    pub fn files(&self) -> impl Iterator<Item = PathBuf> + '_ {
        let listeners = self.listeners.iter().flat_map(|listener| &listener.tls);
        let upstreams = self.upstreams.iter().flat_map(|upstream| &upstream.tls);
        std::iter::once(self.path.clone())
            .chain(listeners.flat_map(|tls| tls.table.files()))
            .chain(upstreams.flat_map(|tls| tls.table.files()))
            .chain(self.fleet.iter().flat_map(Fleet::files))
            .chain(self.upstreams.iter().flat_map(Upstream::server_files))
    }

    pub fn listener(&self, name: &str) -> Option<&Listener> {
        self.listeners
            .iter()
            .find(|listener| &*listener.name == name)
    }
}
