//! The limit on open connections of the process.

use std::{mem, sync::Arc};

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The limit on open connections (`process.max_connections`).
#[derive(Debug)]
pub struct ConnectionSlots {
    semaphore: Arc<Semaphore>,
    max: Mutex<usize>,
}

/// The slot of one open connection. Dropping it frees the slot.
#[derive(Debug)]
pub struct ConnectionSlot(#[expect(dead_code, reason = "held for its drop")] OwnedSemaphorePermit);

impl ConnectionSlots {
    pub fn new(max: usize) -> Self {
        Self {
            semaphore: Arc::new(Semaphore::new(max)),
            max: Mutex::new(max),
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
