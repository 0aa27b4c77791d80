//! Watches the files of `tls` tables (certificates, keys, authorities and CRLs) and loads them when
//! they change. Client rules and the rest of the configuration are loaded only by an explicit
//! reload.
//!
//! The contents of events are ignored. Instead, the files are compared with their previous stamps,
//! because many files may change at the same time.

use std::{collections::BTreeSet, path::PathBuf, sync::Arc};

use leastconn_config::{Config, TlsTable, Watch};
use tokio::time::sleep;

use super::reloader::Reloader;
use crate::file_watch::{Events, SCAN_INTERVAL, Scanner, settle};

/// Loads files when they change, for as long as the future is polled.
pub(crate) async fn watch(reloader: Arc<Reloader>, mut events: Events) {
    // The files were read before they were watched, so load them once more.
    let mut previous = None;
    let mut are_valid = true;
    let mut scanner = Scanner::default();
    loop {
        let files = files(&reloader.snapshots().load().config);
        // A change after the scan causes an event, and therefore another scan.
        let stamps = scanner.scan(files, &mut events).await;
        // Retry loading after an error: the process may have been out of file descriptors, and
        // until a new CRL is loaded, certificates that it revokes are accepted.
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
