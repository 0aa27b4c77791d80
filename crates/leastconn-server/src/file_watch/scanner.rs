//! Finds changed files. Accessing a file may block.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::Arc,
};

use leastconn_config::files::{self, Lane};
use tokio::task::JoinSet;

use super::{
    events::{Adder, Events, Watches},
    stamp::Stamp,
};

/// Scans files. Each directory has its own [`Lane`], so that a directory that blocks does not delay
/// the scans of other directories.
#[derive(Debug, Default)]
pub(crate) struct Scanner(BTreeMap<PathBuf, Directory>);

#[derive(Debug, Default)]
struct Directory {
    lane: Arc<Lane>,
    last: Scan,
}

/// The result of scanning the files of one directory.
#[derive(Clone, Debug, Default)]
struct Scan {
    stamps: Vec<Stamp>,
    watches: Watches,
}

impl Scanner {
    /// Watches the directories of all files, and returns the files' stamps. If a directory blocks,
    /// its files keep their previous stamps.
    pub(crate) async fn scan(&mut self, files: Vec<PathBuf>, events: &mut Events) -> Vec<Stamp> {
        let mut all: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for file in files {
            all.entry(directory(&file)).or_default().push(file);
        }
        self.0.retain(|directory, _| all.contains_key(directory));
        let mut scanning = JoinSet::new();
        for (directory, files) in all {
            let lane = Arc::clone(&self.0.entry(directory.clone()).or_default().lane);
            let adder = events.adder();
            let scan = move || Scan::new(files, &adder);
            scanning.spawn(async move { (directory, lane.run(scan).await) });
        }
        for (path, scan) in scanning.join_all().await {
            match (scan, self.0.get_mut(&path)) {
                (Ok(scan), Some(directory)) => directory.last = scan,
                (Err(error), _) => {
                    tracing::error!(directory = %path.display(), %error, "cannot watch files");
                }
                (Ok(_), None) => {}
            }
        }
        let scans = self.0.values().map(|directory| &directory.last);
        let watches = scans.clone().flat_map(|scan| scan.watches.clone());
        events.keep(watches.collect());
        scans.flat_map(|scan| scan.stamps.clone()).collect()
    }
}

impl Scan {
    fn new(files: Vec<PathBuf>, adder: &Adder) -> Self {
        let directories = directories(&files).into_iter();
        Self {
            watches: directories
                .filter_map(|directory| Some((directory.clone(), adder.add(&directory)?)))
                .collect(),
            stamps: files.into_iter().map(Stamp::of).collect(),
        }
    }
}

/// The directories of the files, both as configured and after resolving symbolic links.
pub(super) fn directories(files: &[PathBuf]) -> BTreeSet<PathBuf> {
    let resolve = |file: &PathBuf| files::record(file, || file.canonicalize()).ok();
    let resolved = files.iter().filter_map(resolve);
    let all = resolved.chain(files.iter().cloned());
    all.map(|file| directory(&file)).collect()
}

fn directory(file: &Path) -> PathBuf {
    match file.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}
