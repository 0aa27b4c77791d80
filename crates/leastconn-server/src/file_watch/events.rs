//! Changes in directories, reported by inotify.

use std::{
    collections::BTreeMap,
    future::pending,
    io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::Arc,
};

use leastconn_config::files;
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use tokio::io::{Interest, unix::AsyncFd};

/// Reports changes in watched directories. Reports none if inotify is not available.
#[derive(Debug)]
pub(crate) struct Events {
    inotify: Option<Arc<AsyncFd<OwnedFd>>>,
    watches: Watches,
}

/// Watched directories and their watch descriptors.
pub(crate) type Watches = BTreeMap<PathBuf, i32>;

impl Events {
    /// Opens inotify, without any watches.
    ///
    /// # Panics
    /// If called outside a Tokio runtime.
    pub(crate) fn new() -> Self {
        #[expect(
            deprecated,
            reason = "the replacement is unsafe for types that may close their descriptor; `OwnedFd` keeps it open"
        )]
        let open = || {
            let inotify = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
            AsyncFd::with_interest(inotify, Interest::READABLE)
        };
        let inotify = open().inspect_err(|error| {
            tracing::warn!(
                %error,
                "inotify is not available: changes to files are noticed only every 10 s"
            );
        });
        Self {
            inotify: inotify.ok().map(Arc::new),
            watches: Watches::new(),
        }
    }

    /// Returns a handle that adds watches from any thread.
    pub(crate) fn adder(&self) -> Adder {
        Adder(self.inotify.clone())
    }

    /// Keeps `watches`, which were added by [`Adder::add`], and removes all others.
    pub(crate) fn keep(&mut self, watches: Watches) {
        let Some(inotify) = &self.inotify else {
            return;
        };
        for watch in self.watches.values() {
            if !watches.values().any(|kept| kept == watch) {
                // This fails if the directory was removed, because the kernel has already removed
                // the watch.
                let _ = inotify::remove_watch(inotify.get_ref(), *watch);
            }
        }
        self.watches = watches;
    }

    /// Waits for a change in a watched directory, and discards all pending events.
    ///
    /// # Cancel safety
    /// Cancel safe: no event is lost.
    pub(crate) async fn changed(&self) {
        let Some(inotify) = &self.inotify else {
            return pending().await;
        };
        loop {
            let Ok(mut ready) = inotify.readable().await else {
                return pending().await;
            };
            let mut has_events = false;
            let drained = ready.try_io(|inotify| {
                loop {
                    let mut events = [0_u8; 4096];
                    match rustix::io::read(inotify.get_ref(), &mut events) {
                        Ok(0) => return Err(io::ErrorKind::WouldBlock.into()),
                        Ok(_) => has_events = true,
                        Err(error) => return io::Result::<()>::Err(error.into()),
                    }
                }
            });
            if has_events {
                return;
            }
            if let Ok(Err(error)) = drained {
                tracing::error!(%error, "inotify failed: changes to files are noticed only every 10 s");
                return pending().await;
            }
        }
    }
}

/// Adds watches on directories.
#[derive(Clone, Debug)]
pub(crate) struct Adder(Option<Arc<AsyncFd<OwnedFd>>>);

impl Adder {
    /// Watches a directory. Returns `None` if it does not exist. Call this for each scan, because
    /// the path may lead to another directory by then. May block.
    pub(crate) fn add(&self, directory: &Path) -> Option<i32> {
        // `MODIFY` is not watched: `CLOSE_WRITE` reports a file when its writer is done, and a log
        // file in the same directory would cause a `MODIFY` event for every line.
        let changes = WatchFlags::CREATE
            | WatchFlags::MOVED_TO
            | WatchFlags::MOVED_FROM
            | WatchFlags::DELETE
            | WatchFlags::CLOSE_WRITE
            | WatchFlags::ATTRIB
            | WatchFlags::DELETE_SELF
            | WatchFlags::MOVE_SELF
            | WatchFlags::ONLYDIR;
        let inotify = self.0.as_ref()?;
        let add = || inotify::add_watch(inotify.get_ref(), directory, changes);
        files::record(directory, add).ok()
    }
}

impl Default for Events {
    fn default() -> Self {
        Self::new()
    }
}
