//! Serializes the creation of UNIX sockets in one directory.
//!
//! Three steps create a socket: checking that no process listens on an existing socket, removing
//! its file, and listening at the path. If two balancers start at the same time, one could remove
//! the socket that the other has just created. A lock on the directory prevents that. The directory
//! already exists, the lock leaves nothing behind, and the kernel releases it when the process
//! ends.

use std::{os::fd::OwnedFd, path::Path, thread, time::Duration};

use rustix::{
    fs::{FlockOperation, Mode, OFlags, flock, open},
    io::Errno,
};

/// Number of attempts to take the lock. Balancers hold it for less than a millisecond, but other
/// programs may hold it for longer.
const ATTEMPTS: usize = 100;

/// Pause between two attempts.
const PAUSE: Duration = Duration::from_millis(10);

/// Locks the directory of `path` until the result is dropped. Returns `None` if locking fails: a
/// missing lock must not prevent a start.
pub(super) fn lock_directory_of(path: &Path) -> Option<OwnedFd> {
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let opened = match open(directory, flags, Mode::empty()) {
        Ok(opened) => opened,
        Err(error) => {
            // Creating the socket will also fail, and report the reason.
            tracing::debug!(%error, directory = %directory.display(), "cannot lock directory of UNIX socket");
            return None;
        }
    };
    for _ in 0..ATTEMPTS {
        match flock(&opened, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Some(opened),
            Err(Errno::WOULDBLOCK) => pause(),
            Err(error) => {
                tracing::debug!(%error, directory = %directory.display(), "cannot lock directory of UNIX socket");
                return None;
            }
        }
    }
    tracing::warn!(directory = %directory.display(), "directory of UNIX socket is locked by another process: creating the socket without the lock");
    None
}

#[expect(
    clippy::disallowed_methods,
    reason = "flock cannot wait with a timeout, and another program may hold the lock forever"
)]
fn pause() {
    thread::sleep(PAUSE);
}
