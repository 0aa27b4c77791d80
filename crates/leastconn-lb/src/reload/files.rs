//! Loading the files of `tls` tables anew, when they change, without the rest of the
//! configuration.

use std::{
    collections::HashMap,
    mem,
    sync::{Arc, MutexGuard, PoisonError},
};

use jiff::Timestamp;
use tokio::task::JoinSet;

use super::{Rejected, Reloader, warn};
use crate::{
    config::{Problems, Tls},
    files::{Lane, NoResult},
};

/// What came of loading the files of a `tls` table.
type Loaded = Result<Result<(Tls, Problems), Problems>, NoResult>;

const NOT_LOADED: &str = "changed TLS files were NOT loaded; those from before stay in force";

impl Reloader {
    /// Keeps files from being loaded, until what this returns is dropped.
    pub(crate) async fn hold_files(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.turn.lock().await
    }

    /// Loads the files of all `tls` tables anew, and applies what changed in them.
    /// The rest of the configuration stays as it runs. A listener whose files are no
    /// good keeps those that it has, and keeps no other from getting new ones. Returns
    /// whether all are good; what is wrong is said once, until something else is.
    ///
    /// # Cancel safety
    /// What has begun is finished.
    pub(crate) async fn reload_files(self: &Arc<Self>) -> bool {
        let _turn = self.turn.lock().await;
        let state = self.shared.state();
        let names = state.config.listeners.iter().map(|listener| &listener.name);
        let lanes = self.lanes(names);
        // Each in a lane of its own: a file that blocks holds up its listener only.
        let mut loading = JoinSet::new();
        for (listener, lane) in state.config.listeners.iter().zip(lanes) {
            if let Some(tls) = listener.tls.clone() {
                let name = Arc::clone(&listener.name);
                loading.spawn(async move {
                    let of = Arc::clone(&name);
                    let load = move || tls.load_again(&of, Timestamp::now());
                    (name, lane.run(load).await)
                });
            }
        }
        let loaded = loading.join_all().await.into_iter().collect();
        let this = Arc::clone(self);
        // It fails only by a panic, whose message has been logged.
        let applying = tokio::task::spawn_blocking(move || this.apply_files(loaded));
        applying.await.unwrap_or_default()
    }

    /// One for each of `listeners`; those of others are forgotten.
    fn lanes<'a>(&self, listeners: impl Iterator<Item = &'a Arc<str>>) -> Vec<Arc<Lane>> {
        let lanes = &mut *self
            .reading_tls
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let mut earlier = mem::take(lanes);
        listeners
            .map(|name| {
                let lane = earlier.remove(name).unwrap_or_default();
                lanes.insert(Arc::clone(name), Arc::clone(&lane));
                lane
            })
            .collect()
    }

    fn apply_files(self: &Arc<Self>, mut loaded: HashMap<Arc<str>, Loaded>) -> bool {
        let mut config = self.shared.state().config.clone();
        let mut changed = Vec::new();
        let mut bad = Vec::new();
        for listener in &mut config.listeners {
            let Some(loaded) = loaded.remove(&listener.name) else {
                continue;
            };
            match loaded {
                Ok(Ok((next, _))) if listener.tls.as_ref() == Some(&next) => {}
                Ok(Ok((next, warnings))) => {
                    warn(&warnings);
                    listener.tls = Some(next);
                    changed.push(Arc::clone(&listener.name));
                }
                Ok(Err(problems)) => bad.push(Rejected::Problems(problems)),
                Err(error) => bad.push(Rejected::from(error)),
            }
        }
        let was_bad = !self.bad_files().is_empty();
        let changes = !changed.is_empty();
        match changes.then(|| self.apply(config.into())).transpose() {
            Ok(_) => {
                for listener in changed {
                    tracing::info!(
                        listener = &*listener,
                        "TLS files have changed: the new ones are in force"
                    );
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
        self.bad_files
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}
