//! The checked configuration.
//!
//! Only [`load`](super::load) makes these types from a file. Nothing in them needs to be
//! checked again.

mod admin;
mod listener;
mod log;
mod process;
mod upstream;

use std::{path::PathBuf, sync::Arc};

use leastconn::UpstreamId;
use leastconn_tls::crl::CrlStore;

use super::{clients::Clients, tls::CertificateFile};

pub use admin::{Admin, Token};
pub use listener::{Listener, Route, Senders, SourceRateLimit, Timeouts};
pub use log::{Access, Log};
pub use process::{MemoryLimit, Process};
pub use upstream::{HealthCheck, ProbeKind, StatusSet, Upstream};

/// The whole configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The file it was read from.
    pub path: PathBuf,
    /// What concerns the process as a whole.
    pub process: Process,
    /// What is logged, how and where.
    pub log: Log,
    /// The admin side; `None`: there is none.
    pub admin: Option<Admin>,
    /// At least one; names and addresses are distinct.
    pub listeners: Vec<Listener>,
    /// Names are distinct; whatever refers to one exists.
    pub upstreams: Vec<Upstream>,
    /// In the file's order, which is the order they are tried in.
    pub clients: Arc<Clients>,
}

impl Config {
    /// The upstream of this name.
    pub fn upstream(&self, id: &UpstreamId) -> Option<&Upstream> {
        self.upstreams.iter().find(|upstream| upstream.id == *id)
    }

    /// The revocation lists of each `tls` table.
    pub fn revocation_lists(&self) -> Vec<Arc<CrlStore>> {
        let listeners = self.listeners.iter().flat_map(|listener| &listener.tls);
        let upstreams = self.upstreams.iter().flat_map(|upstream| &upstream.tls);
        listeners
            .map(|tls| Arc::clone(&tls.settings.material.crls))
            .chain(upstreams.map(|tls| Arc::clone(&tls.settings.material.crls)))
            .collect()
    }

    /// Every certificate file and revocation list that is named.
    pub fn certificate_files(&self) -> impl Iterator<Item = &CertificateFile> {
        let listeners = self.listeners.iter().flat_map(|listener| &listener.tls);
        let upstreams = self.upstreams.iter().flat_map(|upstream| &upstream.tls);
        listeners
            .flat_map(|tls| &*tls.files)
            .chain(upstreams.flat_map(|tls| &*tls.files))
    }

    /// Every file that the configuration is read from: its own, and those that it names.
    pub fn files(&self) -> impl Iterator<Item = PathBuf> + '_ {
        let listeners = self.listeners.iter().flat_map(|listener| &listener.tls);
        let upstreams = self.upstreams.iter().flat_map(|upstream| &upstream.tls);
        std::iter::once(self.path.clone())
            .chain(listeners.flat_map(|tls| tls.table.files()))
            .chain(upstreams.flat_map(|tls| tls.table.files()))
    }

    /// The listener of this name.
    pub fn listener(&self, name: &str) -> Option<&Listener> {
        self.listeners
            .iter()
            .find(|listener| &*listener.name == name)
    }
}
