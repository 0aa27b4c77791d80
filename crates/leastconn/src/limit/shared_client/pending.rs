//! A connection that waits for the decision of the store, as a future.

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

/// A connection that waits for the decision of the store; see
/// [`Limiter::admit_shared`](crate::Limiter::admit_shared).
///
/// # Cancel safety
/// Dropping the future withdraws the question. If the store has admitted the connection already,
/// it no longer counts as open, but its token stays used.
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

    /// Stops waiting and decides by the share of one of `members` balancers, unless the store has
    /// decided.
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
        // A permit that was not taken is dropped here, without the lock of the cell.
        drop(self.cell.take());
    }
}

/// What the client's state and the waiting task share.
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

    /// Sets the decision if the task still waits for it. `decide` is called only in this case.
    /// Returns whether it was, and the waker of the task.
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
