//! Waits until the peer has acknowledged everything that was written to a socket.

use std::{
    task::Poll,
    time::{Duration, Instant},
};

use super::super::{
    Stream, now,
    outstanding::{Outstanding, outstanding},
};

/// Interval after the first check. It doubles up to `SLOWEST`. The socket must be checked
/// repeatedly, because the kernel does not signal acknowledgements.
const FIRST: Duration = Duration::from_millis(1);
const SLOWEST: Duration = Duration::from_millis(50);

/// State of a wait for acknowledgements.
pub(super) struct Delivery {
    pub(super) next_check: Instant,
    interval: Duration,
    /// Number of bytes that the peer had not acknowledged at the last check.
    pub(super) unacknowledged: u32,
}

impl Delivery {
    /// Completes when the peer has acknowledged everything that was written to `writer`, or when
    /// the connection no longer exists. Does not register a waker: poll again at `next_check`.
    pub(super) fn poll(state: &mut Option<Box<Self>>, writer: &impl Stream) -> Poll<()> {
        let Some(socket) = writer.socket() else {
            return Poll::Ready(());
        };
        let now = now();
        if state.as_ref().is_some_and(|state| now < state.next_check) {
            return Poll::Pending;
        }
        let unacknowledged = match outstanding(socket) {
            Outstanding::Nothing => return Poll::Ready(()),
            Outstanding::Bytes(count) => count,
        };
        let interval = state
            .as_ref()
            .map_or(FIRST, |state| (2 * state.interval).min(SLOWEST));
        *state = Some(Box::new(Self {
            next_check: now + interval,
            interval,
            unacknowledged,
        }));
        Poll::Pending
    }
}
