//! Detects whether a file has changed, without reading the file.

use std::{
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use leastconn_config::files;

/// A file, and its metadata at the time of the scan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    path: PathBuf,
    metadata: Result<Metadata, io::ErrorKind>,
}

/// The metadata that identifies a version of a file. Programs cannot set `changed` (ctime), so it
/// differs even for a copy that keeps the modification time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Metadata {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    /// The stamp of a file. Follows symbolic links.
    pub(super) fn of(path: PathBuf) -> Self {
        Self {
            metadata: metadata(&path).map_err(|error| error.kind()),
            path,
        }
    }
}

fn metadata(path: &Path) -> io::Result<Metadata> {
    let meta = files::record(path, || fs::metadata(path))?;
    Ok(Metadata {
        device: meta.dev(),
        inode: meta.ino(),
        size: meta.size(),
        modified: (meta.mtime(), meta.mtime_nsec()),
        changed: (meta.ctime(), meta.ctime_nsec()),
    })
}
