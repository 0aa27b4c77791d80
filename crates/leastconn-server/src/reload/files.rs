//! Reloading changed files of `tls` tables, without the rest of the configuration.

use std::{collections::HashMap, mem, sync::Arc};

use jiff::Timestamp;
use leastconn::UpstreamId;
use parking_lot::MutexGuard;
use tokio::task::JoinSet;

use super::{Rejected, Reloader, warn};
use crate::{
    config::{Config, Problems, Tls, UpstreamTls},
    files::{Lane, NoResult},
};

/// The result of loading the files of a `tls` table.
type Loaded = Result<Result<(Table, Problems), Problems>, NoResult>;

/// A loaded `tls` table.
enum Table {
    Listener(Tls),
    Upstream(UpstreamTls),
}

const NOT_LOADED: &str = "changed TLS files were NOT loaded; those from before stay in force";

const LOADED: &str = "TLS files have changed: the new ones are in force";

/// The owner of a `tls` table.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Owner {
    Listener(Arc<str>),
    Upstream(UpstreamId),
}

impl Reloader {
    /// Delays loading files until the guard is dropped.
    pub(crate) async fn hold_files(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.turn.lock().await
    }

    /// Loads the files of all `tls` tables and applies changes; the rest of the configuration
    /// is not read. A listener or upstream whose files have errors keeps its current ones;
    /// others get their new ones. Returns whether all files are valid. An error is logged
    /// once, until it changes.
    ///
    /// # Cancel safety
    /// Started loads are completed.
    pub(crate) async fn reload_files(self: &Arc<Self>) -> bool {
        let _turn = self.turn.lock().await;
        let state = self.context.snapshot();
        let config = &state.config;
        // Each in a lane of its own: a file that blocks delays only its owner.
        let mut loading = JoinSet::new();
        let mut lanes = Lanes::new(self);
        for listener in &config.listeners {
            let Some(tls) = listener.tls.clone() else {
                continue;
            };
            let name = Arc::clone(&listener.name);
            let owner = Owner::Listener(Arc::clone(&name));
            let lane = lanes.of(&owner);
            loading.spawn(async move {
                let load = move || {
                    let loaded = tls.load_again(&name, Timestamp::now());
                    loaded.map(|(tls, warnings)| (Table::Listener(tls), warnings))
                };
                (owner, lane.run(load).await)
            });
        }
        for upstream in &config.upstreams {
            let Some(tls) = upstream.tls.clone() else {
                continue;
            };
            let owner = Owner::Upstream(upstream.id.clone());
            let lane = lanes.of(&owner);
            let (id, servers) = (upstream.id.clone(), upstream.servers.clone());
            loading.spawn(async move {
                let load = move || {
                    let loaded = tls.load_again(id.as_str(), &servers, Timestamp::now());
                    loaded.map(|(tls, warnings)| (Table::Upstream(tls), warnings))
                };
                (owner, lane.run(load).await)
            });
        }
        lanes.keep();
        let loaded = loading.join_all().await.into_iter().collect();
        let this = Arc::clone(self);
        // Fails only by a panic, which has been logged.
        let applying = tokio::task::spawn_blocking(move || this.apply_files(loaded));
        applying.await.unwrap_or_default()
    }

    fn apply_files(self: &Arc<Self>, loaded: HashMap<Owner, Loaded>) -> bool {
        let mut config = self.context.snapshot().config.clone();
        let mut changed = Vec::new();
        let mut bad = Vec::new();
        for (owner, loaded) in loaded {
            match loaded {
                Ok(Ok((table, warnings))) => {
                    if replace(&mut config, &owner, table) {
                        warn(&warnings);
                        changed.push(owner);
                    }
                }
                Ok(Err(problems)) => bad.push(Rejected::Problems(problems)),
                Err(error) => bad.push(Rejected::from(error)),
            }
        }
        // Sorted, to be compared with the errors that were logged last.
        bad.sort_by_key(Rejected::lines);
        let was_bad = !self.bad_files().is_empty();
        let changes = !changed.is_empty();
        match changes.then(|| self.apply(config.into())).transpose() {
            Ok(_) => {
                for owner in changed {
                    match owner {
                        Owner::Listener(listener) => {
                            tracing::info!(listener = &*listener, "{LOADED}");
                        }
                        Owner::Upstream(upstream) => {
                            tracing::info!(%upstream, "{LOADED}");
                        }
                    }
                }
                // Or all are again as those in force.
                if changes || (was_bad && bad.is_empty()) {
                    self.conclude(None, NOT_LOADED);
                }
            }
            Err(rejected) => bad.push(rejected),
        }
        let lines = bad.iter().flat_map(Rejected::lines).collect();
        let said = mem::replace(&mut *self.bad_files(), lines);
        if *self.bad_files() != said {
            for rejected in &bad {
                self.conclude(Some(rejected), NOT_LOADED);
            }
        }
        bad.is_empty()
    }

    fn bad_files(&self) -> MutexGuard<'_, Vec<String>> {
        self.bad_files.lock()
    }
}

/// Replaces a table. Returns whether it has changed.
fn replace(config: &mut Config, owner: &Owner, table: Table) -> bool {
    match (owner, table) {
        (Owner::Listener(name), Table::Listener(tls)) => {
            let mut listeners = config.listeners.iter_mut();
            let place = listeners.find(|listener| listener.name == *name);
            place.is_some_and(|listener| listener.tls.replace(tls) != listener.tls)
        }
        (Owner::Upstream(id), Table::Upstream(tls)) => {
            let mut upstreams = config.upstreams.iter_mut();
            let place = upstreams.find(|upstream| upstream.id == *id);
            place.is_some_and(|upstream| upstream.tls.replace(tls) != upstream.tls)
        }
        _ => false,
    }
}

/// One lane per owner of a `tls` table; lanes of removed owners are dropped.
struct Lanes<'a> {
    reloader: &'a Reloader,
    earlier: HashMap<Owner, Arc<Lane>>,
    now: HashMap<Owner, Arc<Lane>>,
}

impl<'a> Lanes<'a> {
    fn new(reloader: &'a Reloader) -> Self {
        let earlier = mem::take(&mut *reloader.reading_tls.lock());
        Self {
            reloader,
            earlier,
            now: HashMap::new(),
        }
    }

    fn of(&mut self, owner: &Owner) -> Arc<Lane> {
        let lane = self.earlier.remove(owner).unwrap_or_default();
        self.now.insert(owner.clone(), Arc::clone(&lane));
        lane
    }

    fn keep(self) {
        *self.reloader.reading_tls.lock() = self.now;
    }
}
