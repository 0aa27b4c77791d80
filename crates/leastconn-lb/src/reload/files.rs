//! Loading the files of `tls` tables anew, when they change, without the rest of the
//! configuration.

use std::{
    mem,
    sync::{Arc, MutexGuard, PoisonError},
};

use jiff::Timestamp;

use super::{Rejected, Reloader, warn};

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
        let this = Arc::clone(self);
        // It fails only by a panic, whose message has been logged.
        let loading = tokio::task::spawn_blocking(move || this.load_files());
        loading.await.unwrap_or_default()
    }

    fn load_files(self: &Arc<Self>) -> bool {
        let mut config = self.shared.state().config.clone();
        let mut changed = Vec::new();
        let mut bad = Vec::new();
        for listener in &mut config.listeners {
            let Some(tls) = &listener.tls else {
                continue;
            };
            match tls.load_again(&listener.name, Timestamp::now()) {
                Ok((next, _)) if next == *tls => {}
                Ok((next, warnings)) => {
                    warn(&warnings);
                    listener.tls = Some(next);
                    changed.push(Arc::clone(&listener.name));
                }
                Err(problems) => bad.push(Rejected::Problems(problems)),
            }
        }
        let was_bad = !self.bad_files().is_empty();
        let changes = !changed.is_empty();
        match changes.then(|| self.apply(config)).transpose() {
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
