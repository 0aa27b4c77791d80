//! Carrying bytes both ways until both sides are done.
//!
//! One task a connection polls both directions. Bytes are read into scratch
//! space of the worker thread, not of the connection, and written on at once;
//! only what the receiver does not take now is kept with the connection, at
//! most one scratch space each way. So an idle connection holds no buffer, and
//! a slow reader stops its sender, who waits in the kernel.
//!
//! Each end of sending is passed on alone (half-close): the other direction
//! goes on until it ends too, or nothing moves for the half-close time-out. A
//! side that breaks off (reset, or TLS truncation) breaks the other off as
//! well, after what it had sent before was written on. The system may still
//! drop some of that: a reset overtakes what the receiver was slow to take, as
//! it does without a balancer between.

mod flow;
mod splice;
mod turns;

use std::{
    cell::RefCell,
    future::poll_fn,
    pin::pin,
    sync::atomic::{AtomicU64, Ordering},
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use tokio::time::sleep_until;

use self::flow::{Flow, Phase};
pub use self::splice::MAX_PIPES;
use self::turns::Turns;
use super::{Stream, now};
use crate::Reason;

/// Read at once, and at most kept for a direction whose receiver is slow. Half of
/// it takes a quarter more CPU in uploads over TLS: see docs/performance.md.
const SCRATCH: usize = 128 * 1024;

thread_local! {
    static SCRATCH_SPACE: RefCell<Box<[u8]>> = RefCell::new(vec![0; SCRATCH].into());
}

/// How long a connection may be silent. `None`: for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// No byte either way, while both sides may still send.
    pub idle: Option<Duration>,
    /// No byte, once one side has finished sending and the other has been told.
    pub half_close: Option<Duration>,
}

impl Default for Timeouts {
    /// An hour, and a minute.
    fn default() -> Self {
        Self {
            idle: Some(Duration::from_secs(3600)),
            half_close: Some(Duration::from_secs(60)),
        }
    }
}

/// Bytes that a connection has carried, readable while it lives.
#[derive(Debug, Default)]
pub struct Traffic {
    received: AtomicU64,
    sent: AtomicU64,
}

impl Traffic {
    /// Bytes from the client to the server.
    pub fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// Bytes from the server to the client.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }
}

/// Relays between the client (`downstream`) and the server (`upstream`) until
/// both have finished sending, one breaks off, or a time-out passes, and says
/// which: [`Reason::Ok`], [`Reason::ClientReset`], [`Reason::ServerReset`],
/// [`Reason::IdleTimeout`] or [`Reason::HalfCloseTimeout`].
///
/// Whatever the end, dropping the streams afterwards closes them as they should
/// be. A side that was passed the other one's end of sending has all it will
/// get, and is closed in order, so that what is still on its way to it arrives.
/// Any other side is made to [abort](Stream::abort), unless both were idle: it
/// must not take a connection that broke for one that was complete.
///
/// # Cancel safety
/// The future may be dropped at any time. `traffic` then has what was carried,
/// and the streams were made to abort as above: bytes that had been read and
/// not yet written are lost, so relaying cannot be taken up again.
pub async fn relay<D: Stream, U: Stream>(
    downstream: &mut D,
    upstream: &mut U,
    timeouts: &Timeouts,
    traffic: &Traffic,
) -> Reason {
    let mut pair = Pair {
        downstream,
        upstream,
        forth: Flow::new(&traffic.received),
        back: Flow::new(&traffic.sent),
        is_complete: false,
    };
    let mut last_activity = now();
    // Timers are moved seldom: an active connection only notes the time, and
    // the timer looks at it when it fires.
    let mut armed = deadline(last_activity, timeouts.idle);
    let mut timer = pin!(sleep_until(armed.into()));

    let mut turns = Turns::default();
    poll_fn(|cx| {
        let before = pair.progress();
        let room = turns.room();
        SCRATCH_SPACE.with_borrow_mut(|scratch| pair.poll(cx, &mut scratch[..room]));
        let after = pair.progress();
        turns.carried([0, 1].map(|way| after[way].0 - before[way].0));
        if let Some(reason) = ending(&pair.forth, &pair.back) {
            return Poll::Ready(reason);
        }
        if before != after {
            last_activity = now();
        }
        let half_closed = pair.forth.is_over() || pair.back.is_over();
        let (limit, reason) = if half_closed {
            (timeouts.half_close, Reason::HalfCloseTimeout)
        } else {
            (timeouts.idle, Reason::IdleTimeout)
        };
        let due = deadline(last_activity, limit);
        if due < armed {
            armed = due;
            timer.as_mut().reset(armed.into());
        }
        loop {
            ready!(timer.as_mut().poll(cx));
            if due <= now() {
                pair.is_complete = pair.forth.is_idle() && pair.back.is_idle();
                return Poll::Ready(reason);
            }
            armed = due;
            timer.as_mut().reset(armed.into());
        }
    })
    .await
}

/// Both streams and both flows. When it goes, however that comes about, the
/// sides that would take a broken connection for a complete one are aborted.
struct Pair<'a, D: Stream, U: Stream> {
    downstream: &'a mut D,
    upstream: &'a mut U,
    forth: Flow<'a>,
    back: Flow<'a>,
    /// Nobody owes anybody anything.
    is_complete: bool,
}

impl<D: Stream, U: Stream> Pair<'_, D, U> {
    fn poll(&mut self, cx: &mut Context<'_>, scratch: &mut [u8]) {
        let Self {
            downstream,
            upstream,
            forth,
            back,
            ..
        } = self;
        forth.is_last = back.phase == Phase::Done;
        forth.poll(cx, *downstream, *upstream, scratch);
        back.is_last = forth.phase == Phase::Done;
        back.reader_is_gone |= forth.writer_is_gone;
        back.poll(cx, *upstream, *downstream, scratch);
        if back.writer_is_gone && !forth.reader_is_gone {
            forth.reader_is_gone = true;
            // It was polled before this was known.
            cx.waker().wake_by_ref();
        }
    }

    const fn progress(&self) -> [(u64, Phase); 2] {
        [self.forth.progress(), self.back.progress()]
    }
}

impl<D: Stream, U: Stream> Drop for Pair<'_, D, U> {
    fn drop(&mut self) {
        if self.is_complete {
            return;
        }
        if self.back.phase != Phase::Done {
            self.downstream.abort();
        }
        if self.forth.phase != Phase::Done {
            self.upstream.abort();
        }
    }
}

/// How the connection ended, if both flows are over.
fn ending(forth: &Flow<'_>, back: &Flow<'_>) -> Option<Reason> {
    use Phase::{Done, ReaderBroke, WriterBroke};
    match (&forth.phase, &back.phase) {
        (ReaderBroke, _) => Some(Reason::ClientReset),
        (_, ReaderBroke) => Some(Reason::ServerReset),
        // A side that takes no more may have sent something before it went,
        // an error message for instance: that flow is carried to its end.
        (WriterBroke, Done | WriterBroke) => Some(Reason::ServerReset),
        (Done, WriterBroke) => Some(Reason::ClientReset),
        (Done, Done) => Some(Reason::Ok),
        _ => None,
    }
}

fn deadline(from: Instant, limit: Option<Duration>) -> Instant {
    // "For ever": past every uptime, and within what timers can hold.
    const FOR_EVER: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
    from + limit.map_or(FOR_EVER, |limit| limit.min(FOR_EVER))
}

#[cfg(test)]
mod tests;
