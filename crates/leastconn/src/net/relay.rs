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
//! side that breaks off (reset, truncation, protocol error) breaks the other off
//! as well, but not before the other side has acknowledged everything that was
//! received: a reset discards what the kernel still has to send.

mod buffered;
mod delivery;
mod flow;
mod pair;
mod poll_budget;
mod splice;

use std::{
    cell::RefCell,
    future::poll_fn,
    io,
    pin::pin,
    sync::atomic::{AtomicU64, Ordering},
    task::{Poll, ready},
    time::{Duration, Instant},
};

use tokio::time::sleep_until;

pub use self::buffered::{buffered, set_buffer_allowance};
use self::pair::Pair;
use self::poll_budget::PollBudget;
pub use self::splice::MAX_PIPES;
use super::{Stream, now};
use crate::Reason;

/// Read at once, and at most kept for a direction whose receiver is slow. Half of
/// it takes a quarter more CPU in uploads over TLS: see docs/performance.md.
const SCRATCH: usize = 128 * 1024;

thread_local! {
    static SCRATCH_SPACE: RefCell<Box<[u8]>> = RefCell::new(vec![0; SCRATCH].into());
}

/// Time-outs of relayed connections, and how truncation is forwarded.
///
/// ```
/// use std::time::Duration;
///
/// use leastconn::net::RelayPolicy;
///
/// let mut policy = RelayPolicy::default();
/// policy.idle = Some(Duration::from_secs(600));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RelayPolicy {
    /// Ends a connection on which no byte moved in either direction for this long, while both
    /// sides may still send. `None`: never.
    pub idle: Option<Duration>,
    /// Replaces `idle` once the end of one direction has been forwarded (half-close). Also
    /// limits how long a broken connection waits for the receiver to acknowledge what was
    /// sent. `None`: never.
    pub half_close: Option<Duration>,
    /// How a truncated stream is forwarded.
    pub on_truncation: OnTruncation,
}

impl Default for RelayPolicy {
    /// Idle time-out of an hour, half-close time-out of a minute, [`OnTruncation::Reset`].
    fn default() -> Self {
        Self {
            idle: Some(Duration::from_secs(3600)),
            half_close: Some(Duration::from_secs(60)),
            on_truncation: OnTruncation::default(),
        }
    }
}

/// How the end of a side that [truncated](super::Fault::Truncated) its stream is
/// passed on, after everything that it had sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum OnTruncation {
    /// The connection is broken off, so that nobody takes a truncated transfer for
    /// a complete one.
    #[default]
    Reset,
    /// As an orderly end of sending: the other direction goes on.
    Close,
}

/// How relaying ended.
#[derive(Debug)]
#[non_exhaustive]
pub struct RelayOutcome {
    /// The stable code.
    pub reason: Reason,
    /// The first error of the client's stream.
    pub client_error: Option<io::Error>,
    /// The first error of the server's stream.
    pub server_error: Option<io::Error>,
}

/// What [`Traffic::buffered`] of one connection is at most.
pub const MAX_BUFFERED: usize = 2 * SCRATCH;

/// Bytes that a connection has carried, readable while it lives.
#[derive(Debug, Default)]
pub struct Traffic {
    received: AtomicU64,
    sent: AtomicU64,
    /// To the server, and to the client.
    buffered: [AtomicU64; 2],
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

    /// About how many bytes are held for receivers that are slow: to choose between
    /// connections when memory runs out.
    pub fn buffered(&self) -> u64 {
        let [forth, back] = &self.buffered;
        forth.load(Ordering::Relaxed) + back.load(Ordering::Relaxed)
    }
}

/// Relays between the client (`downstream`) and the server (`upstream`) until
/// both have finished sending, one breaks off, or a time-out passes.
///
/// The outcome's reason is [`Reason::Ok`], [`Reason::ClientReset`],
/// [`Reason::ServerReset`], [`Reason::ClientTruncated`],
/// [`Reason::ServerTruncated`], [`Reason::TlsError`], [`Reason::IdleTimeout`] or
/// [`Reason::HalfCloseTimeout`]. The side that breaks off first decides, unless
/// what it had sent could not be delivered within [`RelayPolicy::half_close`].
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
    policy: &RelayPolicy,
    traffic: &Traffic,
) -> RelayOutcome {
    let mut pair = Pair::new(downstream, upstream, policy.on_truncation, traffic);
    let mut last_activity = now();
    // Timers are moved seldom: an active connection only notes the time, and
    // the timer looks at it when it fires.
    let mut armed = deadline(last_activity, policy.idle);
    let mut timer = pin!(sleep_until(armed.into()));

    let mut budget = PollBudget::default();
    let reason = poll_fn(|cx| {
        loop {
            let before = pair.progress();
            let room = buffered::room(budget.next());
            SCRATCH_SPACE.with_borrow_mut(|scratch| pair.poll(cx, &mut scratch[..room]));
            let after = pair.progress();
            budget.moved([0, 1].map(|way| after[way].carried - before[way].carried));
            if let Some(reason) = pair.ending() {
                return Poll::Ready(reason);
            }
            if before != after {
                last_activity = now();
            }
            let (limit, timed_out) = if pair.is_half_closed() {
                (policy.half_close, Reason::HalfCloseTimeout)
            } else {
                (policy.idle, Reason::IdleTimeout)
            };
            let due = deadline(last_activity, limit);
            let check = pair.next_check();
            let wake = check.map_or(due, |check| check.min(due));
            if wake < armed {
                armed = wake;
                timer.as_mut().reset(armed.into());
            }
            loop {
                ready!(timer.as_mut().poll(cx));
                let now = now();
                if due <= now {
                    return Poll::Ready(pair.timed_out(timed_out));
                }
                armed = wake;
                timer.as_mut().reset(armed.into());
                if check.is_some_and(|check| check <= now) {
                    break;
                }
            }
        }
    })
    .await;
    pair.into_outcome(reason)
}

fn deadline(from: Instant, limit: Option<Duration>) -> Instant {
    // "For ever": past every uptime, and within what timers can hold.
    const FOR_EVER: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
    from + limit.map_or(FOR_EVER, |limit| limit.min(FOR_EVER))
}

#[cfg(test)]
mod tests;
