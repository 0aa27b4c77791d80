//! Relays bytes in both directions until both sides have finished.
//!
//! One task per connection polls both directions. Bytes are read into a scratch buffer that belongs
//! to the worker thread, and written immediately. Only bytes that the receiver does not accept are
//! stored with the connection, at most one scratch buffer per direction. An idle connection
//! therefore holds no buffer, and a slow receiver applies backpressure to the sender.
//!
//! Half-closes are forwarded: the other direction continues until it also ends, or until no byte
//! has moved for the half-close timeout. When one side fails (reset, truncation, protocol error),
//! the other side is aborted. A reset would discard the data in the kernel's send buffer. The abort
//! is therefore delayed until the other side has acknowledged everything that the failed side had
//! sent.

mod buffered;
mod delivery;
mod early;
mod flow;
mod pair;
mod poll_budget;
mod splice;
mod watch;

use std::{
    cell::RefCell,
    future::poll_fn,
    io,
    pin::pin,
    sync::atomic::{AtomicU64, Ordering},
    task::Poll,
    time::{Duration, Instant},
};

use tokio::time::sleep_until;

pub use self::buffered::{buffered, set_buffer_allowance};
use self::early::EarlyWatch;
use self::pair::Pair;
use self::poll_budget::PollBudget;
pub use self::splice::MAX_PIPES;
use self::watch::error_or_wakeup;
use super::{Stream, now};
use crate::{
    Lease, Reason, Server,
    deadline::{FAR_FUTURE, after},
};

/// Size of a read, and the maximum number of bytes that one direction buffers for a slow receiver.
/// At half this size, uploads over TLS need a quarter more CPU time: see docs/performance.md.
const SCRATCH: usize = 128 * 1024;

/// How long a connection lasts before [`RelayPolicy::server_keepalive`] is enabled. Much shorter than
/// usual keepalive times.
const KEEPALIVE_DELAY: Duration = Duration::from_secs(1);

thread_local! {
    static SCRATCH_SPACE: RefCell<Box<[u8]>> = RefCell::new(vec![0; SCRATCH].into());
}

/// Timeouts and keepalive of relayed connections, and how truncation is forwarded.
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
    /// Closes a connection if no byte has moved in either direction for this long while both sides
    /// may still send. `None`: no timeout.
    pub idle: Option<Duration>,
    /// Replaces `idle` once the end of one direction has been forwarded (half-close). Also limits
    /// how long the relay of a broken connection waits for the receiver to acknowledge the data
    /// that was sent. `None`: no timeout.
    pub half_close: Option<Duration>,
    /// How a truncated stream is forwarded.
    pub on_truncation: OnTruncation,
    /// Enables [TCP keepalive](super::set_keepalive) on the server's connection once it has lasted
    /// for a second. Short connections save four system calls, in contrast to
    /// [`ConnectPolicy::keepalive`](super::ConnectPolicy::keepalive), which enables keepalive
    /// immediately. `None`: the socket is not changed.
    pub server_keepalive: Option<Duration>,
}

impl Default for RelayPolicy {
    /// An idle timeout of one hour, a half-close timeout of one minute, [`OnTruncation::Reset`], and
    /// unchanged keepalive.
    fn default() -> Self {
        Self {
            idle: Some(Duration::from_secs(3600)),
            half_close: Some(Duration::from_secs(60)),
            on_truncation: OnTruncation::default(),
            server_keepalive: None,
        }
    }
}

/// How the relay forwards the end of a [truncated](super::Fault::Truncated) stream, after
/// forwarding all of its data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum OnTruncation {
    /// Reset the receiver's connection, so that the receiver does not mistake a truncated
    /// transfer for a complete one.
    #[default]
    Reset,
    /// Close the sending direction cleanly. The other direction continues.
    Close,
}

/// The result of [`relay()`]: how the connection ended.
#[derive(Debug)]
#[non_exhaustive]
pub struct RelayOutcome {
    /// The reason code of the connection.
    pub reason: Reason,
    /// The first error of the client's stream, exactly as the stream returned it. If the stream
    /// implements a protocol such as TLS, [`io::Error::get_ref`] returns the protocol's error.
    pub client_error: Option<io::Error>,
    /// The first error of the server's stream. See `client_error`.
    pub server_error: Option<io::Error>,
}

/// Upper bound of [`Traffic::buffered`], in bytes.
pub const MAX_BUFFERED: usize = 2 * SCRATCH;

/// Byte counters of a connection. They can be read while the connection is relayed.
#[derive(Debug, Default)]
pub struct Traffic {
    received: AtomicU64,
    sent: AtomicU64,
    /// Bytes buffered for the server, and for the client.
    buffered: [AtomicU64; 2],
}

impl Traffic {
    /// Returns the number of bytes relayed from the client to the server.
    pub fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// Returns the number of bytes relayed from the server to the client.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Returns the approximate number of bytes buffered for slow receivers. When memory runs out,
    /// this number helps to choose which connections to close.
    pub fn buffered(&self) -> u64 {
        let [to_server, to_client] = &self.buffered;
        to_server.load(Ordering::Relaxed) + to_client.load(Ordering::Relaxed)
    }
}

/// Relays between the client (`downstream`) and the server (`upstream`) until both have finished
/// sending, one of them fails, or a timeout expires.
///
/// The outcome's reason is [`Reason::Ok`], [`Reason::ClientReset`], [`Reason::ServerReset`],
/// [`Reason::ClientTruncated`], [`Reason::ServerTruncated`], [`Reason::ProtocolError`],
/// [`Reason::IdleTimeout`] or [`Reason::HalfCloseTimeout`]. The side that fails first
/// determines the reason, unless its data could not be delivered within
/// [`RelayPolicy::half_close`].
///
/// The caller must drop the streams after the relay has ended. A connection is closed cleanly if
/// the end of the opposite side was forwarded to it, so that data in transit arrives. Otherwise it
/// is [aborted](Stream::abort), so that the peer does not mistake a failed connection for a
/// complete one. The exception is a timeout that expires after all received data has been
/// delivered: both connections are then closed cleanly.
///
/// # Cancel safety
/// The future may be dropped at any time. `traffic` then contains the number of bytes relayed so
/// far, and the streams are aborted as described above. Bytes that were read but not yet written
/// are lost, so relaying cannot be resumed.
pub fn relay<D: Stream, U: Stream>(
    downstream: &mut D,
    upstream: &mut U,
    policy: &RelayPolicy,
    traffic: &Traffic,
) -> impl Future<Output = RelayOutcome> {
    relay_watched(downstream, upstream, policy, traffic, None)
}

/// Like [`relay`], but also records in the server's health whether the connection fails early. This
/// is the case if the server ends the connection within [`EARLY`](crate::health::EARLY) without
/// having sent a byte, and before the client ends it. Call this function as soon as the connection
/// to the server is established.
///
/// # Cancel safety
/// The same as for [`relay`].
pub fn relay_leased<D: Stream, U: Stream>(
    downstream: &mut D,
    upstream: &mut U,
    lease: &Lease,
    policy: &RelayPolicy,
    traffic: &Traffic,
) -> impl Future<Output = RelayOutcome> {
    relay_watched(downstream, upstream, policy, traffic, Some(lease.server()))
}

async fn relay_watched<D: Stream, U: Stream>(
    downstream: &mut D,
    upstream: &mut U,
    policy: &RelayPolicy,
    traffic: &Traffic,
    server: Option<&Server>,
) -> RelayOutcome {
    let mut pair = Pair::new(downstream, upstream, policy.on_truncation, traffic);
    let mut last_activity = now();
    let mut early = server.map(|server| EarlyWatch::new(server, last_activity));
    // Re-arming a timer is expensive, so activity only updates `last_activity`. When the timer
    // fires, the timeout is compared with `last_activity`.
    let mut first = deadline(last_activity, policy.idle);
    let mut keepalive = policy.server_keepalive;
    if let Some(idle) = keepalive {
        // The keepalive time counts from the last packet, so the delay does not postpone the probes.
        first = first.min(after(last_activity, KEEPALIVE_DELAY.min(idle / 2)));
    }
    let mut timer = pin!(sleep_until(first.into()));

    let mut budget = PollBudget::default();
    let reason = loop {
        // `None`: a flow waits for its writer. Its reader is not being polled, so its socket must
        // be watched for errors.
        let ended = poll_fn(|cx| {
            loop {
                let before = pair.progress();
                let room = buffered::limit_budget(budget.next());
                SCRATCH_SPACE.with_borrow_mut(|scratch| pair.poll(cx, &mut scratch[..room]));
                if let Some(early) = &mut early {
                    early.observe(&pair);
                }
                let after = pair.progress();
                budget.moved([0, 1].map(|way| after[way].written - before[way].written));
                if let Some(reason) = pair.ending() {
                    return Poll::Ready(Some(reason));
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
                let early = early.as_ref().and_then(EarlyWatch::next_check);
                let checks = [pair.next_check(), early];
                let check = checks.into_iter().flatten().min();
                let wake = check.map_or(due, |check| check.min(due));
                if wake < timer.deadline().into_std() {
                    timer.as_mut().reset(wake.into());
                }
                loop {
                    if timer.as_mut().poll(cx).is_pending() {
                        return match pair.watched_sockets() {
                            [None, None] => Poll::Pending,
                            _ => Poll::Ready(None),
                        };
                    }
                    let now = now();
                    if due <= now {
                        return Poll::Ready(Some(pair.timed_out(timed_out)));
                    }
                    if let Some(idle) = keepalive.take() {
                        pair.enable_server_keepalive(idle);
                    }
                    timer.as_mut().reset(wake.into());
                    if check.is_some_and(|check| check <= now) {
                        break;
                    }
                }
            }
        });
        if let Some(reason) = ended.await {
            break reason;
        }
        // Boxed to keep the relay of an idle connection small.
        let failed = Box::pin(error_or_wakeup(pair.watched_sockets())).await;
        if failed.contains(&true) {
            pair.sockets_failed(failed);
            last_activity = now();
        }
    };
    if let Some(early) = &mut early {
        early.end();
    }
    pair.into_outcome(reason)
}

fn deadline(start: Instant, limit: Option<Duration>) -> Instant {
    after(start, limit.unwrap_or(FAR_FUTURE))
}

#[cfg(test)]
mod tests;
