//! What tells a file from what it was before, without reading it.

use std::{
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use crate::files;

/// A file, and its state when it was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    path: PathBuf,
    state: Result<State, io::ErrorKind>,
}

/// Where its bytes are, how many, and when they and the file's own data changed:
/// the second cannot be set, so a file copied with its old time is another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct State {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    /// Of the file that `path` leads to, through links.
    pub(super) fn of(path: PathBuf) -> Self {
        Self {
            state: state(&path).map_err(|error| error.kind()),
            path,
        }
    }
}

fn state(path: &Path) -> io::Result<State> {
    let meta = files::record(path, || fs::metadata(path))?;
    Ok(State {
        device: meta.dev(),
        inode: meta.ino(),
        size: meta.size(),
        modified: (meta.mtime(), meta.mtime_nsec()),
        changed: (meta.ctime(), meta.ctime_nsec()),
    })
}
