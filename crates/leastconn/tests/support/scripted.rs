//! A scripted stream, and a check of the relay's invariants for any pair of scripts. This file uses
//! only the public API, so that integration tests can include it.

use std::{
    io,
    pin::{Pin, pin},
    task::{Context, Poll, Waker},
    time::Duration,
};

use leastconn::{
    Reason,
    net::{OnTruncation, RelayPolicy, Stream, Traffic, relay},
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The result of one poll.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Step {
    /// Transfers at least one byte, and at most this many bytes.
    Bytes(u16),
    /// Returns `Pending` once. The next poll is then ready.
    Wait,
    /// Returns `Pending` for this long.
    Pause(Duration),
}

/// How reading ends after the steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// Reading ends cleanly.
    Orderly,
    /// Reading fails with a reset.
    Reset,
    /// Reading fails, because the transport has ended without the protocol's end marker.
    Truncated,
    /// Reading fails with a protocol error.
    Broken,
    /// Reading does not end: reads stay pending.
    Silent,
}

/// How writing continues after the steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Take {
    /// Writes accept everything.
    All,
    /// Writes fail with `BrokenPipe`, as after an orderly end followed by a close.
    Closed,
    /// Writes fail with `ConnectionReset`. The next read then reports an ordinary end, as the
    /// kernel does.
    Reset,
    /// Writes fail with a protocol error. Afterwards, only the alert can be flushed.
    Broken,
    /// Writes stay pending.
    Stuck,
}

/// One side of a connection.
#[derive(Clone, Debug)]
pub(crate) struct Script {
    /// The results of reads.
    pub(crate) reads: Vec<Step>,
    /// How reading ends after the results in `reads`.
    pub(crate) end: End,
    /// The results of writes, flushes and shutdowns, in a single sequence.
    pub(crate) writes: Vec<Step>,
    /// How writing continues after the results in `writes`.
    pub(crate) take: Take,
}

/// Returns the byte that a side sends at an offset. The bytes at 251 consecutive offsets are all
/// different. The two sides send different bytes at the same offset.
fn byte(side: u8, offset: usize) -> u8 {
    (offset % 251) as u8 ^ side
}

struct Scripted {
    side: u8,
    reads: std::vec::IntoIter<Step>,
    end: End,
    writes: std::vec::IntoIter<Step>,
    take: Take,
    read_pause: Option<Pin<Box<tokio::time::Sleep>>>,
    write_pause: Option<Pin<Box<tokio::time::Sleep>>>,
    /// Number of bytes that were read from this side.
    given: usize,
    /// Whether a read has reported the end.
    ended: bool,
    /// Whether a read or write has reported a reset.
    reset: bool,
    /// Whether the stream failed before an orderly end.
    broke_off: bool,
    /// Whether a read has reported a truncation or a protocol error.
    read_failed: bool,
    /// Whether a write has reported a protocol error.
    write_protocol_error: bool,
    policy: OnTruncation,
    /// Bytes written to this side.
    taken: Vec<u8>,
    /// Number of flushed bytes.
    flushed: usize,
    writer_broke: bool,
    shut: bool,
    aborted: bool,
}

impl Scripted {
    fn new(side: u8, script: &Script, policy: OnTruncation) -> Self {
        Self {
            side,
            reads: script.reads.clone().into_iter(),
            end: script.end,
            writes: script.writes.clone().into_iter(),
            take: script.take,
            read_pause: None,
            write_pause: None,
            given: 0,
            ended: false,
            reset: false,
            broke_off: false,
            read_failed: false,
            write_protocol_error: false,
            policy,
            taken: Vec::new(),
            flushed: 0,
            writer_broke: false,
            shut: false,
            aborted: false,
        }
    }

    /// Performs the next write step and returns the number of bytes that it accepts.
    fn poll_take(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        assert!(!self.writer_broke, "used after a write error");
        if let Some(pause) = &mut self.write_pause {
            std::task::ready!(pause.as_mut().poll(cx));
            self.write_pause = None;
        }
        match self.writes.next() {
            Some(Step::Bytes(count)) => Poll::Ready(Ok(usize::from(count.max(1)))),
            Some(Step::Wait) => {
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            Some(Step::Pause(time)) => {
                let mut pause = Box::pin(tokio::time::sleep(time));
                let poll = pause.as_mut().poll(cx);
                self.write_pause = poll.is_pending().then_some(pause);
                Poll::Pending
            }
            None => match self.take {
                Take::All => Poll::Ready(Ok(usize::MAX)),
                Take::Stuck => Poll::Pending,
                // Only `poll_write` reports this error.
                Take::Broken => Poll::Ready(Ok(0)),
                Take::Closed => {
                    self.writer_broke = true;
                    Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()))
                }
                Take::Reset => {
                    self.writer_broke = true;
                    self.reset = true;
                    self.broke_off = !self.ended;
                    // A read can still return the bytes in transit. After that, it reports the end.
                    self.end = End::Orderly;
                    self.read_pause = None;
                    Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()))
                }
            },
        }
    }
}

impl AsyncRead for Scripted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        assert!(
            buffer.remaining() > 0,
            "a read into an empty buffer looks like an end"
        );
        assert!(!self.ended, "read after the end");
        if let Some(pause) = &mut self.read_pause {
            std::task::ready!(pause.as_mut().poll(cx));
            self.read_pause = None;
        }
        match self.reads.next() {
            Some(Step::Bytes(count)) => {
                let count = usize::from(count.max(1)).min(buffer.remaining());
                let bytes: Vec<u8> = (self.given..self.given + count)
                    .map(|offset| byte(self.side, offset))
                    .collect();
                buffer.put_slice(&bytes);
                self.given += count;
                Poll::Ready(Ok(()))
            }
            Some(Step::Wait) => {
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            Some(Step::Pause(time)) => {
                let mut pause = Box::pin(tokio::time::sleep(time));
                if pause.as_mut().poll(cx).is_ready() {
                    cx.waker().wake_by_ref();
                } else {
                    self.read_pause = Some(pause);
                }
                Poll::Pending
            }
            None => match self.end {
                End::Silent => Poll::Pending,
                End::Orderly => {
                    self.ended = true;
                    Poll::Ready(Ok(()))
                }
                End::Reset => {
                    self.ended = true;
                    self.reset = true;
                    Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()))
                }
                End::Truncated => {
                    self.ended = true;
                    self.broke_off = self.policy == OnTruncation::Reset;
                    self.read_failed = true;
                    Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()))
                }
                End::Broken => {
                    self.ended = true;
                    self.broke_off = true;
                    self.read_failed = true;
                    Poll::Ready(Err(io::ErrorKind::InvalidData.into()))
                }
            },
        }
    }
}

impl AsyncWrite for Scripted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        assert!(!self.shut, "written after the end of sending");
        assert!(!bytes.is_empty(), "nothing to write");
        assert!(!self.write_protocol_error, "written after a protocol error");
        let count = std::task::ready!(self.poll_take(cx))?.min(bytes.len());
        if count == 0 {
            self.write_protocol_error = true;
            return Poll::Ready(Err(io::ErrorKind::InvalidData.into()));
        }
        self.taken.extend_from_slice(&bytes[..count]);
        Poll::Ready(Ok(count))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        assert!(!self.shut, "flushed after the end of sending");
        std::task::ready!(self.poll_take(cx))?;
        self.flushed = self.taken.len();
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        assert!(!self.shut, "shut down twice");
        std::task::ready!(self.poll_take(cx))?;
        self.shut = true;
        self.flushed = self.taken.len();
        Poll::Ready(Ok(()))
    }
}

impl Stream for Scripted {
    fn abort(&mut self) {
        self.aborted = true;
    }
}

/// The idle timeout that [`check`] uses.
const IDLE: Duration = Duration::from_secs(100);
/// The half-close timeout that [`check`] uses.
const HALF_CLOSE: Duration = Duration::from_secs(10);

/// Relays between two scripted sides and checks the invariants. If `polls` is set, the relay is
/// dropped after that many polls. Returns the reason code if the relay has ended before that.
///
/// Must be called in a Tokio runtime with paused time.
///
/// # Panics
/// If an invariant is violated.
pub(crate) async fn check(
    client: &Script,
    server: &Script,
    policy: OnTruncation,
    polls: Option<u32>,
) -> Option<Reason> {
    let mut down = Scripted::new(0, client, policy);
    let mut up = Scripted::new(0xa5, server, policy);
    let traffic = Traffic::default();
    let mut timeouts = RelayPolicy::default();
    timeouts.idle = Some(IDLE);
    timeouts.half_close = Some(HALF_CLOSE);
    timeouts.on_truncation = policy;
    let reason = {
        let mut relaying = pin!(relay(&mut down, &mut up, &timeouts, &traffic));
        match polls {
            // Every script either ends or becomes silent. In the latter case, a timeout ends the
            // relay.
            None => Some(relaying.await.reason),
            Some(polls) => {
                let mut cx = Context::from_waker(Waker::noop());
                (0..polls).find_map(|_| match relaying.as_mut().poll(&mut cx) {
                    Poll::Ready(outcome) => Some(outcome.reason),
                    Poll::Pending => None,
                })
            }
        }
    };
    if polls == Some(0) {
        // A future that is dropped before its first poll has no effect.
        return None;
    }

    assert_eq!(traffic.received(), up.taken.len() as u64);
    assert_eq!(traffic.sent(), down.taken.len() as u64);
    for (from, to) in [(&down, &up), (&up, &down)] {
        // The bytes received by one side are a prefix of the bytes sent by the other.
        assert!(to.taken.len() <= from.given);
        assert!(
            to.taken
                .iter()
                .enumerate()
                .all(|(offset, &b)| b == byte(from.side, offset)),
            "received bytes differ from sent bytes"
        );
        assert!(
            from.given - to.taken.len() <= 128 * 1024,
            "more than one buffer of bytes is undelivered"
        );
        if to.shut {
            // An end is forwarded only if the sender has ended, and only after all of the sender's
            // data.
            assert!(from.ended, "forwarded an end that was not sent");
            assert_eq!(
                to.taken.len(),
                from.given,
                "forwarded an end before all data was delivered"
            );
        }
        match reason {
            // A connection appears to close cleanly only if the sender has ended cleanly.
            Some(Reason::Ok) => assert!(to.shut && !to.aborted && !from.read_failed),
            Some(Reason::IdleTimeout) if !to.aborted => {
                assert_eq!(to.taken.len(), from.given, "idle with undelivered bytes");
            }
            _ => assert!(
                to.shut != to.aborted,
                "{reason:?}: {} {}",
                to.shut,
                to.aborted
            ),
        }
        assert!(
            !(from.broke_off && to.shut),
            "a reset was forwarded as an orderly end"
        );
        // When the relay waits, it has flushed everything, except to a side with a protocol error,
        // whose pending data was discarded, and to a side that was reset.
        let timed_out = matches!(reason, Some(Reason::IdleTimeout | Reason::HalfCloseTimeout));
        let has_protocol_error = to.read_failed && to.end == End::Broken;
        if timed_out && to.take == Take::All && !has_protocol_error && !to.reset {
            assert_eq!(
                to.flushed, from.given,
                "the relay waited without flushing all bytes"
            );
        }
    }
    // Whether nothing more can be delivered to this side.
    let lost =
        |to: &Scripted| to.writer_broke || to.reset || to.read_failed || to.write_protocol_error;
    match reason {
        Some(Reason::ClientReset) => {
            assert!(down.reset || down.writer_broke);
            // The client's data was delivered, unless the server failed as well.
            assert!(lost(&up) || up.flushed == down.given);
        }
        Some(Reason::ServerReset) => assert!(up.reset || up.writer_broke),
        Some(Reason::ClientTruncated) => {
            assert!(down.read_failed && client.end == End::Truncated);
            assert!(lost(&up) || up.flushed == down.given);
        }
        Some(Reason::ServerTruncated) => {
            assert!(up.read_failed && server.end == End::Truncated);
            assert!(lost(&down) || down.flushed == up.given);
        }
        Some(Reason::ProtocolError) => {
            let broke = |side: &Scripted, script: &Script| {
                side.write_protocol_error || side.read_failed && script.end == End::Broken
            };
            assert!(broke(&down, client) || broke(&up, server));
        }
        Some(Reason::IdleTimeout) => assert!(!up.shut && !down.shut),
        Some(Reason::HalfCloseTimeout) => {
            let shut = up.shut || down.shut;
            let broke = |side: &Scripted| {
                side.writer_broke || side.reset || side.read_failed || side.write_protocol_error
            };
            assert!(shut || broke(&up) || broke(&down));
        }
        _ => {}
    }
    // A timeout can occur only if one of the sides stops sending or accepting data.
    let is_active = |script: &Script| script.end != End::Silent && script.take != Take::Stuck;
    if polls.is_none() && is_active(client) && is_active(server) {
        let timed_out = matches!(reason, Some(Reason::IdleTimeout | Reason::HalfCloseTimeout));
        assert!(!timed_out, "timed out without silence: {reason:?}");
    }
    reason
}
