//! Waits in a pool's queue until a server has a free slot.

use std::time::{Duration, Instant};

use tokio::time::sleep_until;

use super::{Attempts, ConnectError, full};
use crate::{
    ClientId, EnqueueError, Lease, Pool, Selector, Source, Waiting, deadline::after, net::now,
    pool::full::FullEffect,
};

/// A connection's place in the pool's queue, kept across rounds of attempts.
pub(super) struct Queue<'a> {
    pub(super) pool: &'a Pool,
    pub(super) selector: &'a Selector,
    pub(super) client: Option<&'a ClientId>,
    pub(super) source: Option<Source>,
    pub(super) attempts: &'a Attempts,
}

impl Queue<'_> {
    /// Waits until a server is picked for the connection. Returns `None` if no server can become
    /// available by waiting. If the pool has no queue, the method waits only for
    /// [slots](crate::Pool::set_slot_source).
    ///
    /// # Errors
    /// If the queue is full, or if the connection has waited for the [queue
    /// timeout](crate::QueuePolicy::timeout), counting all of its rounds.
    pub(super) async fn wait(&self) -> Result<Option<Lease>, ConnectError> {
        let start = now();
        let waiting = self
            .pool
            .enqueue(self.selector, self.client, self.source, start);
        let waiting = match waiting {
            Ok(waiting) => waiting,
            Err(EnqueueError::NoServerAvailable) => return Ok(None),
            Err(EnqueueError::Full) => return Err(self.full()),
        };
        let waited = self.attempts.queued().unwrap_or_default();
        let timeout = self.pool.longest_wait();
        let deadline = after(start, timeout.saturating_sub(waited));
        let _time = WaitTime::begin(self.attempts, start);
        if waiting.is_waiting() && self.pool.queue_policy().size > 0 {
            full::report(self.pool, self.selector, FullEffect::Queued);
        }
        // Allocate only if the connection really waits. Otherwise the future of every connection
        // would be larger.
        Box::pin(self.until(waiting, deadline)).await
    }

    async fn until(
        &self,
        waiting: Waiting,
        deadline: Instant,
    ) -> Result<Option<Lease>, ConnectError> {
        let mut changes = self.pool.panicking();
        tokio::pin!(waiting);
        loop {
            let trial = self.pool.next_trial(self.selector);
            let wake = trial.map_or(deadline, |trial| trial.min(deadline));
            tokio::select! {
                biased;
                lease = &mut waiting => return lease.map(Some).map_err(|_| self.full()),
                () = sleep_until(wake.into()) => {
                    if wake >= deadline && self.pool.queue_policy().size == 0 {
                        // The connection waited for slots, but did not get one.
                        return Ok(None);
                    }
                    if wake >= deadline {
                        let attempts = self.attempts.get();
                        return Err(ConnectError::QueueTimeout { attempts });
                    }
                    self.pool.serve_queue(now());
                }
                _ = changes.changed() => {}
            }
        }
    }

    fn full(&self) -> ConnectError {
        ConnectError::QueueFull {
            attempts: self.attempts.get(),
        }
    }
}

/// Adds the time since `start` to the connection's waiting time, even if the waiting future is
/// dropped.
struct WaitTime<'a> {
    attempts: &'a Attempts,
    start: Instant,
}

impl<'a> WaitTime<'a> {
    fn begin(attempts: &'a Attempts, start: Instant) -> Self {
        attempts.begin_waiting();
        Self { attempts, start }
    }
}

impl Drop for WaitTime<'_> {
    fn drop(&mut self) {
        let waited = now().saturating_duration_since(self.start);
        self.attempts
            .end_waiting(waited.max(Duration::from_nanos(1)));
    }
}
