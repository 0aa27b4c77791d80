//! The `tls` tables of the configuration, whose files are loaded separately.

use std::{collections::HashMap, sync::Arc};

use jiff::Timestamp;
use leastconn::UpstreamId;
use leastconn_config::{Config, Problems, Tls, UpstreamTls};

/// The owner of a `tls` table.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum TlsOwner {
    Listener(Arc<str>),
    Upstream(UpstreamId),
}

/// A `tls` table whose files were loaded.
pub(super) enum LoadedTls {
    Listener(Tls),
    Upstream(UpstreamTls),
}

/// Loads the files of one `tls` table. Blocks.
pub(super) type Load = Box<dyn FnOnce() -> LoadResult + Send>;

/// The loaded table and its warnings, or the errors.
pub(super) type LoadResult = Result<(LoadedTls, Problems), Problems>;

/// Returns a function for each `tls` table that loads its files.
pub(super) fn loads(config: &Config) -> HashMap<TlsOwner, Load> {
    let listeners = config.listeners.iter().filter_map(|listener| {
        let tls = listener.tls.clone()?;
        let name = Arc::clone(&listener.name);
        let owner = TlsOwner::Listener(Arc::clone(&name));
        let load: Load = Box::new(move || {
            let loaded = tls.load_again(&name, Timestamp::now());
            loaded.map(|(tls, warnings)| (LoadedTls::Listener(tls), warnings))
        });
        Some((owner, load))
    });
    let upstreams = config.upstreams.iter().filter_map(|upstream| {
        let tls = upstream.tls.clone()?;
        let (id, servers) = (upstream.id.clone(), upstream.servers.clone());
        let owner = TlsOwner::Upstream(id.clone());
        let load: Load = Box::new(move || {
            let loaded = tls.load_again(id.as_str(), &servers, Timestamp::now());
            loaded.map(|(tls, warnings)| (LoadedTls::Upstream(tls), warnings))
        });
        Some((owner, load))
    });
    listeners.chain(upstreams).collect()
}

impl TlsOwner {
    /// Replaces the `tls` table of this owner. Returns whether it has changed.
    pub(super) fn replace(&self, config: &mut Config, table: LoadedTls) -> bool {
        match (self, table) {
            (Self::Listener(name), LoadedTls::Listener(tls)) => {
                let mut listeners = config.listeners.iter_mut();
                let listener = listeners.find(|listener| listener.name == *name);
                listener.is_some_and(|listener| listener.tls.replace(tls) != listener.tls)
            }
            (Self::Upstream(id), LoadedTls::Upstream(tls)) => {
                let mut upstreams = config.upstreams.iter_mut();
                let upstream = upstreams.find(|upstream| upstream.id == *id);
                upstream.is_some_and(|upstream| upstream.tls.replace(tls) != upstream.tls)
            }
            (Self::Listener(_), LoadedTls::Upstream(_))
            | (Self::Upstream(_), LoadedTls::Listener(_)) => false,
        }
    }

    pub(super) fn log_loaded(&self) {
        const LOADED: &str = "changed TLS files loaded";
        match self {
            Self::Listener(listener) => tracing::info!(listener = &**listener, "{LOADED}"),
            Self::Upstream(upstream) => tracing::info!(%upstream, "{LOADED}"),
        }
    }
}
