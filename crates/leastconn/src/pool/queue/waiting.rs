//! A future for a connection that waits in the queue.

use std::{
    pin::Pin,
    task::{Context, Poll, Waker},
};

use super::Queue;
use crate::{
    Lease,
    spec::ClientId,
    sync::{Arc, Mutex},
};

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

/// State shared by the queue and the waiting task.
#[derive(Debug)]
pub(super) struct Cell(Mutex<CellState>);

#[derive(Debug)]
enum CellState {
    Waiting(Option<Waker>),
    Granted(Lease),
    Displaced,
    Done,
}

impl Default for Cell {
    fn default() -> Self {
        Self(Mutex::new(CellState::Waiting(None)))
    }
}

impl Cell {
    pub(super) fn is_waiting(&self) -> bool {
        matches!(*self.0.lock(), CellState::Waiting(_))
    }

    /// Hands over `lease`. Returns the waker of the waiting task.
    pub(super) fn grant(&self, lease: Lease) -> Option<Waker> {
        self.set(CellState::Granted(lease))
    }

    /// Tells the waiting task that it has lost its place. Returns its waker.
    pub(super) fn displace(&self) -> Option<Waker> {
        self.set(CellState::Displaced)
    }

    fn set(&self, next: CellState) -> Option<Waker> {
        match std::mem::replace(&mut *self.0.lock(), next) {
            CellState::Waiting(waker) => waker,
            _ => None,
        }
    }

    fn take(&self) -> CellState {
        std::mem::replace(&mut *self.0.lock(), CellState::Done)
    }

    fn poll(&self, context: &Context<'_>) -> Poll<Result<Lease, Displaced>> {
        let mut state = self.0.lock();
        match std::mem::replace(&mut *state, CellState::Done) {
            CellState::Granted(lease) => Poll::Ready(Ok(lease)),
            CellState::Displaced => Poll::Ready(Err(Displaced)),
            CellState::Done => Poll::Pending,
            CellState::Waiting(_) => {
                *state = CellState::Waiting(Some(context.waker().clone()));
                Poll::Pending
            }
        }
    }
}
