//! Runs blocking file operations on separate threads, with a time limit.

use std::{
    path::PathBuf,
    sync::{Arc, OnceLock, Weak},
    thread,
    time::Duration,
};

use jiff::Timestamp;
use parking_lot::{Mutex, MutexGuard};
use tokio::{task::spawn_blocking, time::interval};

use super::{Pending, SLOW, pending_on};

/// An operation that makes no progress for this long is abandoned.
const LIMIT: Duration = Duration::from_secs(10);

/// Interval of the checks for progress.
const LOOK: Duration = Duration::from_millis(500);

/// Runs work that reads files, one job at a time.
///
/// A blocked operation cannot be cancelled, and its thread keeps waiting. The lane starts
/// no further work until the operation returns, so each lane has at most one blocked
/// thread.
#[derive(Debug, Default)]
pub struct Lane {
    given_up: Mutex<Option<GivenUp>>,
}

#[derive(Debug)]
struct GivenUp {
    blocked: Blocked,
    /// Has no strong reference after the abandoned work has ended.
    running: Weak<()>,
}

/// Reason why work has no result.
#[derive(Debug, thiserror::Error)]
pub enum NoResult {
    /// A file operation does not return.
    #[error(transparent)]
    Blocked(#[from] Blocked),
    /// The work panicked. The panic message has been logged.
    #[error("internal error, please report it")]
    Panicked,
}

/// A file operation does not return.
#[derive(Clone, Debug, thiserror::Error)]
#[error(
    "{}: reading it has not returned since {time:.0}; is it on a network mount that does not answer?",
    path.display()
)]
pub struct Blocked {
    path: PathBuf,
    time: Timestamp,
}

impl From<Pending> for Blocked {
    fn from(pending: Pending) -> Self {
        let Pending { path, time, .. } = pending;
        Self { path, time }
    }
}

impl Lane {
    /// Runs `work`, which must read files with the functions of [`super`].
    ///
    /// # Errors
    /// If a file operation makes no progress for ten seconds. From then on, calls fail
    /// immediately until the operation returns.
    ///
    /// # Cancel safety
    /// If the future is dropped, work that was started runs to its end, and its result is
    /// discarded.
    pub async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, NoResult> {
        self.run_within(LIMIT, work).await
    }

    pub(super) async fn run_within<T: Send + 'static>(
        &self,
        limit: Duration,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, NoResult> {
        if let Some(blocked) = self.still_blocked() {
            return Err(blocked.into());
        }
        let running = Arc::new(());
        let still_running = Arc::downgrade(&running);
        let thread = Arc::new(OnceLock::new());
        let worker = Arc::clone(&thread);
        let mut working = spawn_blocking(move || {
            let _running = running;
            let _ = worker.set(thread::current().id());
            work()
        });
        let mut look = interval(LOOK.min(limit));
        let mut is_reported = false;
        loop {
            tokio::select! {
                biased;
                done = &mut working => return done.map_err(|_| NoResult::Panicked),
                _ = look.tick() => {}
            }
            let Some(pending) = thread.get().and_then(|thread| pending_on(*thread)) else {
                continue;
            };
            let elapsed = pending.elapsed();
            if elapsed >= SLOW && !is_reported {
                is_reported = true;
                tracing::warn!(file = %pending.path.display(), since = %pending.time, "file operation blocked");
            }
            if elapsed >= limit {
                let blocked = Blocked::from(pending);
                *self.given_up() = Some(GivenUp {
                    blocked: blocked.clone(),
                    running: still_running,
                });
                return Err(blocked.into());
            }
        }
    }

    fn still_blocked(&self) -> Option<Blocked> {
        let mut given_up = self.given_up();
        let blocked = given_up.as_ref()?;
        if blocked.running.strong_count() == 0 {
            *given_up = None;
            return None;
        }
        Some(blocked.blocked.clone())
    }

    fn given_up(&self) -> MutexGuard<'_, Option<GivenUp>> {
        self.given_up.lock()
    }
}
