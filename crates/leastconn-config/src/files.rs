//! Reads files. File operations may block for an unlimited time.
//!
//! Opening a FIFO without a writer blocks, and so does every operation on a network mount
//! whose server does not answer. Therefore:
//!
//! - [`read`] accepts only regular files;
//! - each operation is recorded until it returns, and [`blocked`] reports a blocked operation;
//! - a running balancer reads files in a [`Lane`], with a separate thread and a time limit.

mod lane;

use std::{
    collections::BTreeMap,
    fs::{File, FileType, Metadata, OpenOptions},
    io::{self, Read},
    os::unix::fs::{FileTypeExt, OpenOptionsExt},
    path::{Path, PathBuf},
    thread::{self, ThreadId},
    time::{Duration, Instant},
};

use jiff::Timestamp;
use parking_lot::{Mutex, MutexGuard};
use rustix::fs::OFlags;

pub use lane::{Lane, NoResult};

/// An operation that takes longer than this is reported as blocked.
const SLOW: Duration = Duration::from_secs(2);

/// Operations that have not returned yet, in the order in which they started.
static PENDING: Mutex<BTreeMap<u64, Pending>> = Mutex::new(BTreeMap::new());

/// A file operation that has not returned yet.
#[derive(Clone, Debug)]
pub struct Pending {
    pub path: PathBuf,
    /// When the operation began or last made progress.
    pub time: Timestamp,
    began: Instant,
    thread: ThreadId,
}

impl Pending {
    /// Time since the operation began or last made progress.
    pub fn elapsed(&self) -> Duration {
        leastconn::net::now().saturating_duration_since(self.began)
    }
}

/// The operation that has been blocked longest. `None` if no operation has been blocked for two
/// seconds.
pub fn blocked() -> Option<Pending> {
    let oldest = pending().values().min_by_key(|one| one.began).cloned();
    oldest.filter(|one| one.elapsed() >= SLOW)
}

/// The operation that `thread` waits for.
fn pending_on(thread: ThreadId) -> Option<Pending> {
    let all = pending();
    all.values().find(|one| one.thread == thread).cloned()
}

fn pending() -> MutexGuard<'static, BTreeMap<u64, Pending>> {
    PENDING.lock()
}

/// Guard for an operation in [`PENDING`]. Dropping the guard removes the operation.
struct Recorded(u64);

impl Recorded {
    fn new(path: &Path) -> Self {
        let one = Pending {
            path: path.to_owned(),
            time: Timestamp::now(),
            began: leastconn::net::now(),
            thread: thread::current().id(),
        };
        let mut all = pending();
        let id = all.last_key_value().map_or(0, |(last, _)| last + 1);
        all.insert(id, one);
        Self(id)
    }

    /// Records progress of the operation.
    fn advance(&self) {
        if let Some(one) = pending().get_mut(&self.0) {
            one.began = leastconn::net::now();
            one.time = Timestamp::now();
        }
    }
}

impl Drop for Recorded {
    fn drop(&mut self) {
        pending().remove(&self.0);
    }
}

/// Performs an operation on the file at `path`, and records it until it returns.
pub fn record<T>(path: &Path, operation: impl FnOnce() -> T) -> T {
    let _recorded = Recorded::new(path);
    operation()
}

pub struct Contents {
    pub bytes: Vec<u8>,
    pub metadata: Metadata,
}

/// Reads a regular file of up to `limit` bytes.
///
/// # Errors
/// If the file cannot be read, is larger than `limit`, or is not a regular file.
pub fn read(path: &Path, limit: u64) -> io::Result<Contents> {
    let recorded = Recorded::new(path);
    let (file, metadata) = open_regular(path)?;
    let bytes = read_to_end(file, metadata.len(), limit, &recorded)?;
    Ok(Contents { bytes, metadata })
}

/// Reads a file of any type, up to `limit` bytes long. Blocks until the end of the file. Use this
/// only for command-line arguments, which may be pipes.
///
/// # Errors
/// If the file cannot be read or is larger than `limit`.
pub fn read_any(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let recorded = Recorded::new(path);
    read_to_end(File::open(path)?, 0, limit, &recorded)
}

/// Opens a regular file for reading.
///
/// # Errors
/// If the file cannot be opened or is not a regular file.
pub fn open_regular(path: &Path) -> io::Result<(File, Metadata)> {
    // Check the type before opening the file: opening a device may have side effects, and
    // opening a FIFO unblocks its writer.
    require_regular(std::fs::metadata(path)?.file_type())?;
    // `NONBLOCK` is needed because a FIFO may have replaced the file since the check.
    let flags = (OFlags::NONBLOCK | OFlags::NOCTTY).bits();
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(i32::try_from(flags).unwrap_or_default())
        .open(path)?;
    let metadata = file.metadata()?;
    require_regular(metadata.file_type())?;
    Ok((file, metadata))
}

fn require_regular(kind: FileType) -> io::Result<()> {
    let other = if kind.is_file() {
        return Ok(());
    } else if kind.is_dir() {
        "a directory"
    } else if kind.is_fifo() {
        "a pipe (FIFO)"
    } else if kind.is_socket() {
        "a socket"
    } else {
        "a device"
    };
    Err(io::Error::new(
        io::ErrorKind::InvalidInput,
        format!("it is {other}, not a regular file"),
    ))
}

/// `expected`: the size for which memory is allocated at first.
fn read_to_end(file: File, expected: u64, limit: u64, recorded: &Recorded) -> io::Result<Vec<u8>> {
    // One byte more: with a full buffer, the buffer would grow before the end is noticed.
    let mut bytes = Vec::with_capacity(expected.min(limit) as usize + 1);
    Advancing { file, recorded }
        .take(limit + 1)
        .read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        return Err(io::Error::other(format!(
            "it is larger than {}",
            size(limit)
        )));
    }
    Ok(bytes)
}

fn size(bytes: u64) -> String {
    match bytes {
        mib if mib >= 1 << 20 => format!("{} MiB", mib >> 20),
        bytes => format!("{bytes} bytes"),
    }
}

/// A reader that records progress after each read, so that reading a large file from a slow disk is
/// not reported as blocked.
struct Advancing<'a> {
    file: File,
    recorded: &'a Recorded,
}

impl Read for Advancing<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read(buffer);
        self.recorded.advance();
        read
    }
}

#[cfg(test)]
mod tests;
