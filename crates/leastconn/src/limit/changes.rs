//! Tracks the clients whose usage the store does not know yet.

use std::{collections::VecDeque, fmt, time::Duration};

use crate::sync::{Arc, Mutex};

/// Why the store should be contacted before the next scheduled time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Change {
    /// The usage of a client has changed.
    Usage,
    /// A connection is waiting for the store's decision.
    Ask,
}

/// Unchanged usage is reported again after this time, in case the store has lost it.
const REPEAT_AFTER: Duration = Duration::from_secs(20);

/// A queue that reaches this length, or twice the length that the last purge left, is purged of
/// forgotten clients.
const MIN_PURGE: usize = 1024;

type Callback = Box<dyn Fn(Change) + Send + Sync>;

/// Queues of clients to report. Generic, so that this module does not depend on the client, which
/// adds itself to the queues.
pub(super) struct Changes<T> {
    queues: Mutex<Queues<T>>,
    on_change: Option<Callback>,
}

struct Queues<T> {
    /// Clients with waiting connections.
    asks: Queue<T>,
    changed: Queue<T>,
    /// Clients whose open connections the store knows, and the time at which each client was
    /// queued, in nanoseconds since the limiter's epoch. Sorted by time.
    reported: VecDeque<(u64, Arc<T>)>,
    /// Entries of `reported` that were queued before this time are reported again.
    repeat_before: u64,
}

struct Queue<T> {
    clients: VecDeque<Arc<T>>,
    purge_at: usize,
}

impl<T> Default for Changes<T> {
    fn default() -> Self {
        Self {
            queues: Mutex::default(),
            on_change: None,
        }
    }
}

impl<T> Default for Queues<T> {
    fn default() -> Self {
        Self {
            asks: Queue::default(),
            changed: Queue::default(),
            reported: VecDeque::new(),
            repeat_before: 0,
        }
    }
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Self {
            clients: VecDeque::new(),
            purge_at: 0,
        }
    }
}

impl<T> Queue<T> {
    fn push(&mut self, client: Arc<T>, is_forgotten: impl Fn(&T) -> bool) {
        // While the store does not answer, this is the only place where clients are removed.
        if self.clients.len() >= self.purge_at.max(MIN_PURGE) {
            self.clients.retain(|client| !is_forgotten(client));
            self.purge_at = 2 * self.clients.len();
        }
        self.clients.push_back(client);
    }
}

/// The queue that a client was taken from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    Changed(Change),
    Reported,
}

impl<T> Changes<T> {
    pub(super) fn new(on_change: Callback) -> Self {
        Self {
            queues: Mutex::default(),
            on_change: Some(on_change),
        }
    }

    /// Adds a client to the queue for `change`. If that queue is long, clients for which
    /// `is_forgotten` returns true are removed.
    pub(super) fn push(&self, change: Change, client: Arc<T>, is_forgotten: impl Fn(&T) -> bool) {
        let mut queues = self.queues.lock();
        match change {
            Change::Usage => queues.changed.push(client, is_forgotten),
            Change::Ask => queues.asks.push(client, is_forgotten),
        }
        drop(queues);
        self.notify(change);
    }

    /// Adds a client whose open connections the store knows.
    pub(super) fn push_reported(&self, client: Arc<T>, now: u64) {
        self.queues.lock().reported.push_back((now, client));
    }

    /// Takes the next client. Clients with waiting connections come first, unchanged clients last.
    pub(super) fn pop(&self, now: u64) -> Option<(Source, Arc<T>)> {
        let mut queues = self.queues.lock();
        if let Some(client) = queues.asks.clients.pop_front() {
            return Some((Source::Changed(Change::Ask), client));
        }
        if let Some(client) = queues.changed.clients.pop_front() {
            return Some((Source::Changed(Change::Usage), client));
        }
        let &(queued, _) = queues.reported.front()?;
        let age = Duration::from_nanos(now.saturating_sub(queued));
        if queued >= queues.repeat_before && age < REPEAT_AFTER {
            return None;
        }
        let (_, client) = queues.reported.pop_front()?;
        Some((Source::Reported, client))
    }

    /// Reports all open connections again.
    pub(super) fn repeat_all(&self, now: u64) {
        let mut queues = self.queues.lock();
        queues.repeat_before = now;
        let is_empty = queues.reported.is_empty();
        drop(queues);
        if !is_empty {
            self.notify(Change::Usage);
        }
    }

    /// Calls `on_change` again if there are still clients in the queues.
    pub(super) fn notify_if_left(&self) {
        let queues = self.queues.lock();
        let change = if !queues.asks.clients.is_empty() {
            Change::Ask
        } else if !queues.changed.clients.is_empty()
            || (queues.reported.front()).is_some_and(|(at, _)| *at < queues.repeat_before)
        {
            Change::Usage
        } else {
            return;
        };
        drop(queues);
        self.notify(change);
    }

    pub(super) fn clients_that_ask(&self) -> Vec<Arc<T>> {
        self.queues.lock().asks.clients.iter().cloned().collect()
    }

    pub(super) fn clear(&self) {
        // Drop the clients after releasing the lock.
        let queues = std::mem::take(&mut *self.queues.lock());
        drop(queues);
    }

    fn notify(&self, change: Change) {
        if let Some(on_change) = &self.on_change {
            on_change(change);
        }
    }
}

impl<T> fmt::Debug for Changes<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Changes").finish_non_exhaustive()
    }
}
