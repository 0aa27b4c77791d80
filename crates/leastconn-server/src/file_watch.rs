//! Watches files for changes.
//!
//! *Directories* are watched instead of files, because files are replaced by a rename: of a new
//! file over the old one or, in Kubernetes, of a symbolic link to another directory. inotify does
//! not report changes that other machines make on a network file system, so users of this module
//! also check their files every [`SCAN_INTERVAL`].

mod events;
mod scanner;
mod stamp;

use std::time::Duration;

use tokio::time::{Instant, timeout, timeout_at};

pub(crate) use events::Events;
pub(crate) use scanner::Scanner;

/// How often files are checked for changes without an event.
pub(crate) const SCAN_INTERVAL: Duration = Duration::from_secs(10);

/// Files are read once nothing has changed for this long, because several files may be replaced
/// together.
const QUIET_TIME: Duration = Duration::from_millis(200);

/// Maximum delay between the first change and reading the files, even if they are still changing.
const MAX_DELAY: Duration = Duration::from_secs(2);

/// Waits until nothing has changed for [`QUIET_TIME`], for at most [`MAX_DELAY`].
pub(crate) async fn settle(events: &Events) {
    let end = Instant::now() + MAX_DELAY;
    let quiet = async { while timeout(QUIET_TIME, events.changed()).await.is_ok() {} };
    let _ = timeout_at(end, quiet).await;
}

#[cfg(test)]
mod tests;
