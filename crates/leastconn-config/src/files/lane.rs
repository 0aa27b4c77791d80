//! Runs blocking file operations on separate threads, with a time limit.

use std::{
    path::PathBuf,
    sync::{Arc, OnceLock, Weak},
    thread::{self, ThreadId},
    time::Duration,
};

use jiff::Timestamp;
use parking_lot::Mutex;
use tokio::{
    sync::Mutex as AsyncMutex,
    task::spawn_blocking,
    time::{interval, timeout},
};

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
    /// Held by the thread that runs a job, until the job ends.
    turn: Arc<AsyncMutex<()>>,
    job: Mutex<Option<Job>>,
}

/// The job that was started last.
#[derive(Debug)]
struct Job {
    /// Has no strong reference after the job has ended.
    running: Weak<()>,
    thread: Arc<OnceLock<ThreadId>>,
    is_reported: bool,
    /// The operation for which the job was abandoned.
    abandoned: Option<Blocked>,
}

/// The reason why a job has no result.
#[derive(Debug, thiserror::Error)]
pub enum NoResult {
    /// A file operation has not returned.
    #[error(transparent)]
    Blocked(#[from] Blocked),
    /// The work panicked. The panic message has been logged.
    #[error("internal error, please report it")]
    Panicked,
}

/// A file operation has not returned.
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
    /// If the future is dropped, work that has started runs to completion, and its result is
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
        // The previous job may still run, because its caller has dropped the future.
        let turn = loop {
            if let Some(blocked) = self.blocked(limit) {
                return Err(blocked.into());
            }
            let turn = Arc::clone(&self.turn).lock_owned();
            if let Ok(turn) = timeout(LOOK.min(limit), turn).await {
                break turn;
            }
        };
        let running = Arc::new(());
        let thread = Arc::new(OnceLock::new());
        *self.job.lock() = Some(Job {
            running: Arc::downgrade(&running),
            thread: Arc::clone(&thread),
            is_reported: false,
            abandoned: None,
        });
        let mut working = spawn_blocking(move || {
            let _turn = turn;
            let _running = running;
            let _ = thread.set(thread::current().id());
            work()
        });
        let mut look = interval(LOOK.min(limit));
        loop {
            tokio::select! {
                biased;
                done = &mut working => return done.map_err(|_| NoResult::Panicked),
                _ = look.tick() => {}
            }
            if let Some(blocked) = self.blocked(limit) {
                return Err(blocked.into());
            }
        }
    }

    /// Returns the operation for which the running job is or was abandoned.
    fn blocked(&self, limit: Duration) -> Option<Blocked> {
        let mut job = self.job.lock();
        let job = job.as_mut().filter(|job| job.running.strong_count() > 0)?;
        if job.abandoned.is_none() {
            let pending = job.thread.get().and_then(|thread| pending_on(*thread))?;
            let elapsed = pending.elapsed();
            if elapsed >= SLOW && !job.is_reported {
                job.is_reported = true;
                tracing::warn!(file = %pending.path.display(), since = %pending.time, "file operation takes long");
            }
            job.abandoned = (elapsed >= limit).then(|| pending.into());
        }
        job.abandoned.clone()
    }
}
