//! The outcome of a reload: what was applied, or why it was rejected.

use std::{path::Path, sync::Arc};

use leastconn_config::Problems;

use crate::{admin, snapshot::Snapshot, sockets};

/// An applied configuration, and the changes to sockets.
#[derive(Debug)]
pub(super) struct Applied {
    pub(super) snapshot: Arc<Snapshot>,
    pub(super) sockets: sockets::Changes,
    pub(super) admin: admin::Changes,
    /// Whether the process accepts connections.
    pub(super) is_serving: bool,
}

/// Why a configuration was not applied.
#[derive(Debug)]
pub(super) enum Rejected {
    Problems(Problems),
    Reasons(Vec<String>),
}

impl Rejected {
    /// The rejection for addresses that cannot be bound.
    pub(super) fn unavailable(errors: Vec<impl ToString>) -> Self {
        Self::Reasons(errors.iter().map(ToString::to_string).collect())
    }

    /// The errors, one per line.
    pub(super) fn lines(&self) -> Vec<String> {
        match self {
            Self::Problems(problems) => problems.error_lines().collect(),
            Self::Reasons(reasons) => reasons.clone(),
        }
    }
}

impl<E: std::error::Error> From<E> for Rejected {
    fn from(error: E) -> Self {
        Self::Reasons(vec![error.to_string()])
    }
}

impl Applied {
    pub(super) fn log(&self) {
        let (sockets, admin) = (&self.sockets, &self.admin);
        if !self.is_serving {
            tracing::info!("reloaded configuration applied to open connections");
            return;
        }
        for (listener, address) in &sockets.closed {
            tracing::info!(listener = &**listener, %address, "no longer listening");
        }
        for address in &admin.closed {
            tracing::info!(listener = admin::NAME, %address, "no longer listening");
        }
        for (listener, path) in &sockets.unix_closed {
            let address = unix_address(path);
            tracing::info!(listener = &**listener, address, "no longer listening");
        }
        for address in &admin.opened {
            tracing::info!(listener = admin::NAME, %address, "listening");
        }
        for (listener, path) in &sockets.unix_opened {
            let address = unix_address(path);
            tracing::info!(listener = &**listener, address, "listening");
        }
        for (listener, address) in &sockets.opened {
            tracing::info!(listener = &**listener, %address, "listening");
        }
        let config = &self.snapshot.config;
        tracing::info!(
            listeners = config.listeners.len(),
            upstreams = config.upstreams.len(),
            clients = config.clients.len(),
            "configuration reloaded"
        );
    }
}

fn unix_address(path: &Path) -> String {
    format!("unix:{}", path.display())
}
