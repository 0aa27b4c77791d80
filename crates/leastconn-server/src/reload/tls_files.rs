//! Loads changed files of `tls` tables without reloading the rest of the configuration.

use std::{mem, sync::Arc};

use leastconn_config::files::NoResult;
use parking_lot::MutexGuard;
use tokio::task::JoinSet;

use super::{
    outcome::Rejected,
    read::log_warnings,
    reloader::Reloader,
    tls_table::{LoadResult, TlsOwner, loads},
};

const NOT_LOADED: &str = "changed TLS files rejected, previous files kept";

/// The owner of each `tls` table, and the result of loading its files.
type Loaded = Vec<(TlsOwner, Result<LoadResult, NoResult>)>;

impl Reloader {
    /// Delays loading files until the guard is dropped.
    pub(crate) async fn hold_files(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.reload_lock.lock().await
    }

    /// Loads the files of all `tls` tables and applies changes, without reading the rest of the
    /// configuration. A listener or upstream whose files have errors keeps its current certificates
    /// and CRLs, and all others use their new ones. Returns whether all files are valid. An error
    /// is not logged again until it changes.
    ///
    /// # Cancel safety
    /// If the future is dropped, loads that have started are still completed.
    pub(crate) async fn reload_files(self: &Arc<Self>) -> bool {
        let _lock = self.reload_lock.lock().await;
        let loaded = self.start_loads().join_all().await;
        let this = Arc::clone(self);
        // Fails only if the task panicked; the panic has been logged.
        let applying = tokio::task::spawn_blocking(move || this.apply_files(loaded));
        applying.await.unwrap_or_default()
    }

    /// Starts loading the files of each `tls` table. Each table has its own lane, so a file that
    /// blocks delays no other table.
    fn start_loads(&self) -> JoinSet<(TlsOwner, Result<LoadResult, NoResult>)> {
        let loads = loads(&self.context.snapshot().config);
        let mut lanes = self.tls_lanes.lock();
        lanes.retain(|owner, _| loads.contains_key(owner));
        let mut loading = JoinSet::new();
        for (owner, load) in loads {
            let lane = Arc::clone(lanes.entry(owner.clone()).or_default());
            loading.spawn(async move { (owner, lane.run(load).await) });
        }
        loading
    }

    fn apply_files(self: &Arc<Self>, loaded: Loaded) -> bool {
        let mut config = self.context.snapshot().config.clone();
        let mut changed = Vec::new();
        let mut bad = Vec::new();
        for (owner, loaded) in loaded {
            match loaded {
                Ok(Ok((table, warnings))) => {
                    if owner.replace(&mut config, table) {
                        log_warnings(&warnings);
                        changed.push(owner);
                    }
                }
                Ok(Err(problems)) => bad.push(Rejected::Problems(problems)),
                Err(error) => bad.push(Rejected::from(error)),
            }
        }
        // Sort the errors, to compare them with those that were logged last.
        bad.sort_by_key(Rejected::lines);
        let had_errors = !self.file_errors().is_empty();
        let has_changes = !changed.is_empty();
        match has_changes.then(|| self.apply(config.into())).transpose() {
            Ok(_) => {
                changed.iter().for_each(TlsOwner::log_loaded);
                // If no file was replaced, report a success only if all errors are gone.
                if !has_changes && had_errors && bad.is_empty() {
                    tracing::info!("TLS files valid again, unchanged");
                }
                if has_changes || (had_errors && bad.is_empty()) {
                    self.conclude(None, NOT_LOADED);
                }
            }
            Err(rejected) => bad.push(rejected),
        }
        let errors = bad.iter().flat_map(Rejected::lines).collect();
        let logged = mem::replace(&mut *self.file_errors(), errors);
        if *self.file_errors() != logged {
            for rejected in &bad {
                self.conclude(Some(rejected), NOT_LOADED);
            }
        }
        bad.is_empty()
    }

    fn file_errors(&self) -> MutexGuard<'_, Vec<String>> {
        self.file_errors.lock()
    }
}
