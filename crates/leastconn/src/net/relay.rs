//! Relays bytes in both directions until both sides have finished.
//!
//! One task per connection polls both directions. Bytes are read into a scratch buffer of the
//! worker thread and written at once. Only bytes that the receiver does not accept are stored
//! with the connection, at most one scratch buffer per direction. An idle connection therefore
//! holds no buffer, and a slow reader applies backpressure to its sender.
//!
//! Half-closes are forwarded: the other direction continues until it ends too, or until no byte
//! has moved for the half-close timeout. When one side fails (reset, truncation, protocol
//! error), the other side is aborted, but only after it has acknowledged everything that was
//! received: a reset discards data in the kernel's send buffer.

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

/// Size of a read, and most bytes that one direction buffers for a slow receiver. Half of it
/// costs a quarter more CPU for uploads over TLS: see docs/performance.md.
const SCRATCH: usize = 128 * 1024;

thread_local! {
    static SCRATCH_SPACE: RefCell<Box<[u8]>> = RefCell::new(vec![0; SCRATCH].into());
}

/// Timeouts of relayed connections, and how truncation is forwarded.
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
    /// Idle timeout of an hour, half-close timeout of a minute, [`OnTruncation::Reset`].
    fn default() -> Self {
        Self {
            idle: Some(Duration::from_secs(3600)),
            half_close: Some(Duration::from_secs(60)),
            on_truncation: OnTruncation::default(),
        }
    }
}

/// How a [truncated](super::Fault::Truncated) stream is forwarded, after all of its data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum OnTruncation {
    /// As a reset, so that the receiver does not mistake a truncated transfer for a complete
    /// one.
    #[default]
    Reset,
    /// As an orderly half-close. The other direction continues.
    Close,
}

/// How relaying ended.
#[derive(Debug)]
#[non_exhaustive]
pub struct RelayOutcome {
    /// The reason code.
    pub reason: Reason,
    /// The first error of the client's stream.
    pub client_error: Option<io::Error>,
    /// The first error of the server's stream.
    pub server_error: Option<io::Error>,
}

/// Upper bound of [`Traffic::buffered`].
pub const MAX_BUFFERED: usize = 2 * SCRATCH;

/// Byte counters of a connection, readable while it is relayed.
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

    /// Approximate number of bytes buffered for slow receivers. Used to choose which connections
    /// to close when memory runs out.
    pub fn buffered(&self) -> u64 {
        let [to_server, to_client] = &self.buffered;
        to_server.load(Ordering::Relaxed) + to_client.load(Ordering::Relaxed)
    }
}

/// Relays between the client (`downstream`) and the server (`upstream`) until both have
/// finished sending, one fails, or a timeout expires.
///
/// The outcome's reason is [`Reason::Ok`], [`Reason::ClientReset`],
/// [`Reason::ServerReset`], [`Reason::ClientTruncated`],
/// [`Reason::ServerTruncated`], [`Reason::TlsError`], [`Reason::IdleTimeout`] or
/// [`Reason::HalfCloseTimeout`]. The side that fails first decides, unless its
/// data could not be delivered within [`RelayPolicy::half_close`].
///
/// Drop the streams afterwards. A side to which the other side's end was forwarded closes in
/// order, so that data in transit arrives. Any other side is [aborted](Stream::abort), so that it
/// does not mistake a failed connection for a complete one, unless both directions were idle.
///
/// # Cancel safety
/// The future may be dropped at any time. `traffic` then has the bytes relayed so far, and the
/// streams are aborted as described above. Bytes that were read but not yet written are lost, so
/// relaying cannot be resumed.
pub async fn relay<D: Stream, U: Stream>(
    downstream: &mut D,
    upstream: &mut U,
    policy: &RelayPolicy,
    traffic: &Traffic,
) -> RelayOutcome {
    let mut pair = Pair::new(downstream, upstream, policy.on_truncation, traffic);
    let mut last_activity = now();
    // Re-arming a timer is expensive: activity only records the time, and the timer compares it
    // when it fires.
    let mut armed = deadline(last_activity, policy.idle);
    let mut timer = pin!(sleep_until(armed.into()));

    let mut budget = PollBudget::default();
    let reason = poll_fn(|cx| {
        loop {
            let before = pair.progress();
            let room = buffered::limit_budget(budget.next());
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
    // Longer than any uptime, and within the range of timers.
    const NEVER: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
    from + limit.map_or(NEVER, |limit| limit.min(NEVER))
}

#[cfg(test)]
mod tests;
