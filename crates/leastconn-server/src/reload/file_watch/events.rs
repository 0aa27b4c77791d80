//! That something has changed in a directory, by inotify.

use std::{
    collections::BTreeMap,
    future::pending,
    io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use tokio::io::{Interest, unix::AsyncFd};

use crate::files;

/// News of changes in directories, or never any if the system gives none.
#[derive(Debug)]
pub(crate) struct Events {
    queue: Option<Arc<AsyncFd<OwnedFd>>>,
    followed: BTreeMap<PathBuf, i32>,
}

impl Events {
    /// Follows nothing yet.
    ///
    /// # Panics
    /// Outside a Tokio runtime.
    pub(crate) fn new() -> Self {
        #[expect(
            deprecated,
            reason = "what took its place is unsafe, for the sake of types that give their descriptor away; this one is owned"
        )]
        let open = || {
            let queue = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
            AsyncFd::with_interest(queue, Interest::READABLE)
        };
        let queue = open().inspect_err(|error| {
            tracing::warn!(%error, "no inotify: changed files are found within ten seconds, and not at once");
        });
        Self {
            queue: queue.ok().map(Arc::new),
            followed: BTreeMap::new(),
        }
    }

    /// Adds directories, on any thread.
    pub(super) fn adder(&self) -> Adder {
        Adder(self.queue.clone())
    }

    /// Follows these directories, which were added, and no others.
    pub(super) fn keep(&mut self, followed: BTreeMap<PathBuf, i32>) {
        let Some(queue) = &self.queue else {
            return;
        };
        for watch in self.followed.values() {
            if !followed.values().any(|followed| followed == watch) {
                // Fails if the directory is gone, and the watch with it.
                let _ = inotify::remove_watch(queue.get_ref(), *watch);
            }
        }
        self.followed = followed;
    }

    /// Waits until something has changed, and forgets all that has.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub(super) async fn changed(&self) {
        let Some(queue) = &self.queue else {
            return pending().await;
        };
        loop {
            let Ok(mut ready) = queue.readable().await else {
                return pending().await;
            };
            let mut news = false;
            let drained = ready.try_io(|queue| {
                loop {
                    let mut events = [0_u8; 4096];
                    match rustix::io::read(queue.get_ref(), &mut events) {
                        Ok(0) => return Err(io::ErrorKind::WouldBlock.into()),
                        Ok(_) => news = true,
                        Err(error) => return io::Result::<()>::Err(error.into()),
                    }
                }
            });
            if news {
                return;
            }
            if let Ok(Err(error)) = drained {
                tracing::error!(%error, "inotify does not work: changed files are found within ten seconds");
                return pending().await;
            }
        }
    }
}

/// Adds directories to those that are followed.
#[derive(Clone, Debug)]
pub(super) struct Adder(Option<Arc<AsyncFd<OwnedFd>>>);

impl Adder {
    /// Adds a directory, each time anew: it may be another one of the same name. One
    /// that does not exist is added by a later call, once it does. May block.
    pub(super) fn add(&self, directory: &Path) -> Option<i32> {
        // Not `MODIFY`: a file that was written is closed in the end, and a log in the
        // same directory would cause an event for every line.
        let changes = WatchFlags::CREATE
            | WatchFlags::MOVED_TO
            | WatchFlags::MOVED_FROM
            | WatchFlags::DELETE
            | WatchFlags::CLOSE_WRITE
            | WatchFlags::ATTRIB
            | WatchFlags::DELETE_SELF
            | WatchFlags::MOVE_SELF
            | WatchFlags::ONLYDIR;
        let queue = self.0.as_ref()?;
        let add = || inotify::add_watch(queue.get_ref(), directory, changes);
        files::record(directory, add).ok()
    }
}

impl Default for Events {
    fn default() -> Self {
        Self::new()
    }
}
