//! The limit on open connections of the process.

use std::{
    mem,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// How long no connection must have been refused before the log says that the limit is no longer
/// reached.
const QUIET: Duration = Duration::from_secs(5);

/// The limit on open connections (`process.max_connections`).
#[derive(Debug)]
pub struct ConnectionSlots {
    semaphore: Arc<Semaphore>,
    max: Mutex<usize>,
    /// While the limit is reached and connections are refused.
    exhausted: Mutex<Option<Exhausted>>,
}

/// A period during which connections are refused.
#[derive(Clone, Copy, Debug)]
struct Exhausted {
    since: Instant,
    last: Instant,
    refused: u64,
}

/// The slot of one open connection. Dropping it frees the slot.
#[derive(Debug)]
pub struct ConnectionSlot(#[expect(dead_code, reason = "held for its drop")] OwnedSemaphorePermit);

impl ConnectionSlots {
    pub fn new(max: usize) -> Self {
        Self {
            semaphore: Arc::new(Semaphore::new(max)),
            max: Mutex::new(max),
            exhausted: Mutex::new(None),
        }
    }

    /// Records a refused connection. Returns whether it is the first one of a period.
    pub fn refused(&self, now: Instant) -> bool {
        let mut exhausted = self.exhausted.lock();
        let is_first = exhausted.is_none();
        let period = exhausted.get_or_insert(Exhausted {
            since: now,
            last: now,
            refused: 0,
        });
        period.last = now;
        period.refused += 1;
        is_first
    }

    /// Logs that connections are accepted again, if slots are free and none was refused for a while.
    /// Call this about once a second.
    pub fn log_recovery(&self, now: Instant) {
        let mut exhausted = self.exhausted.lock();
        let ended = exhausted.take_if(|period| {
            self.semaphore.available_permits() > 0
                && now.saturating_duration_since(period.last) >= QUIET
        });
        drop(exhausted);
        if let Some(Exhausted { since, refused, .. }) = ended {
            let seconds = now.saturating_duration_since(since).as_secs();
            tracing::info!(refused, seconds, "connection limit no longer reached");
        }
    }

    /// Takes a slot. Returns `None` if all slots are taken.
    pub fn try_acquire(&self) -> Option<ConnectionSlot> {
        let permit = Arc::clone(&self.semaphore).try_acquire_owned();
        permit.ok().map(ConnectionSlot)
    }

    pub fn max(&self) -> usize {
        *self.max.lock()
    }

    /// Changes the limit. If it is lowered, slots are removed as they become free, until the new
    /// limit is reached.
    ///
    /// # Panics
    /// If called outside a Tokio runtime.
    pub fn resize(&self, max: usize) {
        let mut current = self.max.lock();
        let before = mem::replace(&mut *current, max);
        if max >= before {
            self.semaphore.add_permits(max - before);
            return;
        }
        let missing = before - max - self.semaphore.forget_permits(before - max);
        let Ok(missing @ 1..) = u32::try_from(missing) else {
            return;
        };
        let semaphore = Arc::clone(&self.semaphore);
        tokio::spawn(async move {
            // The semaphore gives freed permits to waiters first, so new connections cannot
            // take slots that still have to be removed.
            if let Ok(permits) = semaphore.acquire_many_owned(missing).await {
                permits.forget();
            }
        });
    }
}
