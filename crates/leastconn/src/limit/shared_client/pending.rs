//! A future for a connection that waits for the store's decision.

use std::{
    mem,
    num::NonZeroU32,
    pin::Pin,
    task::{Context, Poll, Waker},
    time::Instant,
};

use super::SharedClient;
use crate::{
    limit::{Permit, Refusal},
    sync::{Arc, Mutex},
};

/// A connection that waits for the store's decision; see
/// [`Limiter::admit_shared`](crate::Limiter::admit_shared).
///
/// # Cancel safety
/// Dropping the future withdraws the question. If the store has already admitted the connection, it
/// no longer counts as open, but its token stays used.
#[derive(Debug)]
#[must_use = "the connection waits only while the future is held"]
pub struct Pending {
    client: Arc<SharedClient>,
    cell: Arc<Cell>,
}

impl Pending {
    pub(super) const fn new(client: Arc<SharedClient>, cell: Arc<Cell>) -> Self {
        Self { client, cell }
    }

    /// Stops waiting. Unless the store has already decided, decides under the share of one of
    /// `members` balancers.
    ///
    /// # Errors
    /// If the client is over a limit.
    pub fn decide_alone(self, members: NonZeroU32, now: Instant) -> Result<Permit, Refusal> {
        self.client.decide_alone(&self.cell, members, now)
    }
}

impl Future for Pending {
    type Output = Result<Permit, Refusal>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        self.cell.poll(context)
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        // A permit that was not taken is dropped here, after the cell's lock was released.
        drop(self.cell.take());
    }
}

/// State shared by the client and the waiting task.
#[derive(Debug)]
pub(super) struct Cell(Mutex<CellState>);

#[derive(Debug)]
pub(super) enum CellState {
    Waiting(Option<Waker>),
    Decided(Result<Permit, Refusal>),
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

    /// Sets the decision if the task still waits for it. `decide` is called only in that case.
    /// Returns whether the task was waiting, and its waker.
    pub(super) fn decide(
        &self,
        decide: impl FnOnce() -> Result<Permit, Refusal>,
    ) -> (bool, Option<Waker>) {
        let mut state = self.0.lock();
        let CellState::Waiting(waker) = &mut *state else {
            return (false, None);
        };
        let waker = waker.take();
        *state = CellState::Decided(decide());
        (true, waker)
    }

    pub(super) fn take(&self) -> CellState {
        mem::replace(&mut *self.0.lock(), CellState::Done)
    }

    fn poll(&self, context: &Context<'_>) -> Poll<Result<Permit, Refusal>> {
        let mut state = self.0.lock();
        match mem::replace(&mut *state, CellState::Done) {
            CellState::Decided(decision) => Poll::Ready(decision),
            CellState::Done => Poll::Pending,
            CellState::Waiting(_) => {
                *state = CellState::Waiting(Some(context.waker().clone()));
                Poll::Pending
            }
        }
    }
}
