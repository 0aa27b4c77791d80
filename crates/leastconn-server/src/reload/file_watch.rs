//! Watching the files of `tls` tables: certificates, keys, authorities and
//! revocation lists are loaded anew when they change. Rules and the rest of the
//! configuration wait to be asked for.
//!
//! The *directories* are watched, because files are replaced by renaming: a new file
//! over the old one, or, as Kubernetes does it, a symbolic link to another directory.
//! A look at all files every ten seconds finds what the kernel does not tell of, on
//! network file systems, say. What an event means is not looked at: whether something
//! changed is seen in the files themselves, of which many may change in one go.

mod events;
mod look;
mod stamp;

use std::{collections::BTreeSet, path::PathBuf, sync::Arc, time::Duration};

use tokio::time::{Instant, sleep, timeout, timeout_at};

use crate::{
    config::{Config, TlsTable, Watch},
    reload::Reloader,
};

pub(crate) use events::Events;
use look::Looks;

/// How often all files are looked at.
const LOOK: Duration = Duration::from_secs(10);

/// Whoever replaces several files is done when nothing has changed for so long,
const QUIET: Duration = Duration::from_millis(200);

/// or, at the latest, after so long.
const PATIENCE: Duration = Duration::from_secs(2);

/// Loads files when they change, for as long as it is polled.
pub(crate) async fn watch(reloader: Arc<Reloader>, mut events: Events) {
    // None: nothing is known of them. They were read before they were watched, so
    // they are read once again, to find that nothing has changed.
    let mut seen = None;
    let mut good = true;
    let mut looks = Looks::default();
    loop {
        let files = files(&reloader.snapshots().load().config);
        // In this order: what changes after the look causes an event.
        let stamps = looks.look(files, &mut events).await;
        // Those that are no good are tried again: perhaps there were no descriptors to
        // read them with, and a list that is not read revokes nobody.
        if !stamps.is_empty() && (!good || seen.as_ref() != Some(&stamps)) {
            seen = Some(stamps);
            good = reloader.reload_files().await;
        }
        tokio::select! {
            () = events.changed() => settle(&events).await,
            () = reloader.applied() => {}
            () = sleep(LOOK) => {}
        }
    }
}

/// Waits until nothing has changed for a moment.
async fn settle(events: &Events) {
    let end = Instant::now() + PATIENCE;
    let quiet = async { while timeout(QUIET, events.changed()).await.is_ok() {} };
    let _ = timeout_at(end, quiet).await;
}

/// All files that are watched.
fn files(config: &Config) -> Vec<PathBuf> {
    if config.process.watch == Watch::Off {
        return Vec::new();
    }
    let listeners = config.listeners.iter().filter_map(|l| l.tls.as_ref());
    let upstreams = config.upstreams.iter().filter_map(|u| u.tls.as_ref());
    let tables = listeners
        .map(|tls| &tls.table)
        .chain(upstreams.map(|tls| &tls.table));
    let files: BTreeSet<_> = tables.flat_map(TlsTable::files).collect();
    files.into_iter().collect()
}

#[cfg(test)]
mod tests;
