//! A future for a connection that waits in the queue.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use super::Queue;
use crate::{Lease, one_shot::OneShot, spec::ClientId, sync::Arc};

/// State shared by the queue and the waiting task.
pub(super) type Cell = OneShot<Result<Lease, Displaced>>;

/// The connection has lost its place in a full queue to a client with fewer waiting connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the queue is full, and this client has the most waiting connections")]
pub struct Displaced;

/// A connection that waits for a server; see [`Pool::enqueue`](crate::Pool::enqueue).
///
/// # Cancel safety
/// Dropping the future removes the connection from the queue. If a slot has already been handed
/// over, the next waiting connection gets it.
#[derive(Debug)]
#[must_use = "the connection waits only while the future is held"]
pub struct Waiting {
    queue: Arc<Queue>,
    client: Option<ClientId>,
    ticket: u64,
    cell: Arc<Cell>,
}

impl Waiting {
    pub(super) const fn new(
        queue: Arc<Queue>,
        client: Option<ClientId>,
        ticket: u64,
        cell: Arc<Cell>,
    ) -> Self {
        Self {
            queue,
            client,
            ticket,
            cell,
        }
    }
}

impl Waiting {
    /// Whether no server has been picked yet.
    #[cfg(feature = "tokio")]
    pub(crate) fn is_waiting(&self) -> bool {
        self.cell.is_waiting()
    }
}

impl Future for Waiting {
    type Output = Result<Lease, Displaced>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        self.cell.poll(context)
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if self.cell.is_waiting() {
            self.queue.leave(self.client.as_ref(), self.ticket);
        }
        // A lease that was handed over but not taken is dropped here, after the queue's lock was
        // released: the end of a lease takes that lock.
        drop(self.cell.take());
    }
}
