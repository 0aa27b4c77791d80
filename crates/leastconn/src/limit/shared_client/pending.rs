//! A future for a connection that waits for the store's decision.

use std::{
    num::NonZeroU32,
    pin::Pin,
    task::{Context, Poll},
    time::Instant,
};

use super::SharedClient;
use crate::{
    limit::{Limits, Permit, Refusal},
    one_shot::OneShot,
    sync::Arc,
};

/// State shared by the client and the waiting task.
#[derive(Debug)]
pub(super) struct Cell {
    /// The limits of this connection. Connections of one client can have different limits.
    pub(super) limits: Limits,
    pub(super) decision: OneShot<Result<Permit, Refusal>>,
}

impl Cell {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            limits,
            decision: OneShot::default(),
        }
    }
}

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
        self.cell.decision.poll(context)
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        // A permit that was not taken is dropped here, after the cell's lock was released.
        drop(self.cell.decision.take());
    }
}
