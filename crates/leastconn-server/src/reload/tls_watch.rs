//! Watches the files of `tls` tables (certificates, keys, authorities and CRLs) and loads
//! them when they change. Client rules and the rest of the configuration are loaded by an
//! explicit reload only.
//!
//! *Directories* are watched, because files are replaced by a rename: a new file over the old one
//! or, in Kubernetes, a symbolic link to another directory. All files are also compared every ten
//! seconds, because inotify reports no changes that other machines make on a network file system.
//! The contents of events are ignored: the files are compared with their previous
//! [`Stamp`](stamp::Stamp)s, because many files may change at once.

mod events;
mod scan;
mod stamp;

use std::{collections::BTreeSet, path::PathBuf, sync::Arc, time::Duration};

use leastconn_config::{Config, TlsTable, Watch};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::reloader::Reloader;

pub(crate) use events::Events;
use scan::Scanner;

/// Interval at which all files are compared even without an event.
const SCAN_INTERVAL: Duration = Duration::from_secs(10);

/// Files are loaded once nothing has changed for this long, because several files may be replaced
/// together.
const QUIET_TIME: Duration = Duration::from_millis(200);

/// Files are loaded no later than this after the first change, even if they are still changing.
const MAX_DELAY: Duration = Duration::from_secs(2);

/// Loads files when they change, for as long as the future is polled.
pub(crate) async fn watch(reloader: Arc<Reloader>, mut events: Events) {
    // The files were read before they were watched, so they are loaded once more.
    let mut previous = None;
    let mut are_valid = true;
    let mut scanner = Scanner::default();
    loop {
        let files = files(&reloader.snapshots().load().config);
        // A change after the scan causes an event, and so another scan.
        let stamps = scanner.scan(files, &mut events).await;
        // Loading is retried after an error: the process may have been out of file descriptors, and
        // certificates that a new CRL revokes are accepted until it is loaded.
        if !stamps.is_empty() && (!are_valid || previous.as_ref() != Some(&stamps)) {
            previous = Some(stamps);
            are_valid = reloader.reload_files().await;
        }
        tokio::select! {
            () = events.changed() => settle(&events).await,
            () = reloader.applied() => {}
            () = sleep(SCAN_INTERVAL) => {}
        }
    }
}

/// Waits until nothing has changed for [`QUIET_TIME`], for at most [`MAX_DELAY`].
async fn settle(events: &Events) {
    let end = Instant::now() + MAX_DELAY;
    let quiet = async { while timeout(QUIET_TIME, events.changed()).await.is_ok() {} };
    let _ = timeout_at(end, quiet).await;
}

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
