//! That something has changed in a directory, by inotify.

use std::{
    collections::{BTreeMap, BTreeSet},
    future::pending,
    io,
    os::fd::OwnedFd,
    path::PathBuf,
};

use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use tokio::io::{Interest, unix::AsyncFd};

/// News of changes in directories, or never any if the system gives none.
#[derive(Debug)]
pub struct Events {
    queue: Option<AsyncFd<OwnedFd>>,
    followed: BTreeMap<PathBuf, i32>,
}

impl Events {
    /// Follows nothing yet.
    ///
    /// # Panics
    /// Outside a Tokio runtime.
    pub fn new() -> Self {
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
            queue: queue.ok(),
            followed: BTreeMap::new(),
        }
    }

    /// Follows these directories, and no others. May block.
    pub(super) fn follow(&mut self, directories: &BTreeSet<PathBuf>) {
        // Not `MODIFY`: whoever writes a file closes it in the end, and a log in the
        // same directory would wake us with every line.
        let changes = WatchFlags::CREATE
            | WatchFlags::MOVED_TO
            | WatchFlags::MOVED_FROM
            | WatchFlags::DELETE
            | WatchFlags::CLOSE_WRITE
            | WatchFlags::ATTRIB
            | WatchFlags::DELETE_SELF
            | WatchFlags::MOVE_SELF
            | WatchFlags::ONLYDIR;
        let Some(queue) = &self.queue else {
            return;
        };
        let mut followed = BTreeMap::new();
        for directory in directories {
            // Each time anew: it may be another one of the same name. One that is
            // not there is found by looking, as soon as it is.
            if let Ok(watch) = inotify::add_watch(queue.get_ref(), directory, changes) {
                followed.insert(directory.clone(), watch);
            }
        }
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

impl Default for Events {
    fn default() -> Self {
        Self::new()
    }
}
