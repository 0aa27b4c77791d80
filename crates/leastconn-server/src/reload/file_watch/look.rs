//! Looking at all files that are watched, where one of them may block.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::Arc,
};

use tokio::task::JoinSet;

use super::{
    events::{Adder, Events},
    stamp::Stamp,
};
use crate::files::{self, Lane};

/// Looks at files, those of each directory in a lane of their own: a directory that
/// blocks holds up no other one.
#[derive(Debug, Default)]
pub(super) struct Looks(BTreeMap<PathBuf, OfDirectory>);

#[derive(Debug, Default)]
struct OfDirectory {
    lane: Arc<Lane>,
    last: Look,
}

/// What was seen of the files of one directory.
#[derive(Clone, Debug, Default)]
struct Look {
    stamps: Vec<Stamp>,
    /// Directories that are followed for their sake.
    followed: BTreeMap<PathBuf, i32>,
}

impl Looks {
    /// The stamps of all files, and follows their directories. Files of a directory that
    /// blocks have the stamps that they had before.
    pub(super) async fn look(&mut self, files: Vec<PathBuf>, events: &mut Events) -> Vec<Stamp> {
        let mut all: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for file in files {
            all.entry(directory(&file)).or_default().push(file);
        }
        self.0.retain(|directory, _| all.contains_key(directory));
        let mut looking = JoinSet::new();
        for (directory, files) in all {
            let lane = Arc::clone(&self.0.entry(directory.clone()).or_default().lane);
            let adder = events.adder();
            let look = move || Look::at(files, &adder);
            looking.spawn(async move { (directory, lane.run(look).await) });
        }
        for (directory, look) in looking.join_all().await {
            match (look, self.0.get_mut(&directory)) {
                (Ok(look), Some(of)) => of.last = look,
                (Err(error), _) => {
                    tracing::error!(directory = %directory.display(), %error, "files are not watched");
                }
                (Ok(_), None) => {}
            }
        }
        let followed = self.0.values().flat_map(|of| of.last.followed.clone());
        events.keep(followed.collect());
        let stamps = self.0.values().flat_map(|of| of.last.stamps.clone());
        stamps.collect()
    }
}

impl Look {
    fn at(files: Vec<PathBuf>, adder: &Adder) -> Self {
        let directories = directories(&files).into_iter();
        Self {
            followed: directories
                .filter_map(|directory| Some((directory.clone(), adder.add(&directory)?)))
                .collect(),
            stamps: files.into_iter().map(Stamp::of).collect(),
        }
    }
}

/// Where files are: by the configured name, and where links lead.
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
