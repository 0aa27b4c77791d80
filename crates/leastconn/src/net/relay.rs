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

use std::{
    cell::RefCell,
    future::poll_fn,
    io,
    pin::{Pin, pin},
    sync::atomic::{AtomicU64, Ordering},
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use tokio::{io::ReadBuf, time::sleep_until};

use super::{Stream, now};
use crate::Reason;

/// Read at once, and at most kept for a direction whose receiver is slow.
const SCRATCH: usize = 64 * 1024;

/// Scratch spaces that one direction moves before others get their turn. With more,
/// a stream keeps short exchanges waiting for longer, and is no cheaper itself; with
/// one, it is slower, and each exchange wakes the task once for nothing.
const BUDGET: usize = 2;

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

    poll_fn(|cx| {
        let before = pair.progress();
        SCRATCH_SPACE.with_borrow_mut(|scratch| pair.poll(cx, scratch));
        if let Some(reason) = ending(&pair.forth, &pair.back) {
            return Poll::Ready(reason);
        }
        if before != pair.progress() {
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

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Bytes may come.
    Reading,
    /// The reader has ended in order: pass that on.
    Closing,
    /// Ended, and passed on.
    Done,
    /// The reader broke off; what it had sent before is being delivered.
    Breaking,
    /// The reader broke off.
    ReaderBroke,
    /// The writer takes no more.
    WriterBroke,
}

/// One direction.
struct Flow<'a> {
    phase: Phase,
    /// Read, and not yet taken by the writer.
    unsent: Vec<u8>,
    /// How much of `unsent` was taken since.
    taken: usize,
    /// The writer holds bytes that it may not have passed on.
    unflushed: bool,
    /// Writing found the writer's connection reset.
    writer_is_gone: bool,
    /// The other flow, which writes where this one reads, found it reset. The
    /// system tells of a reset once, and then reports an end like any other:
    /// without this, a download cut short during an upload would look complete.
    reader_is_gone: bool,
    /// The other flow is done: after this one, both streams are dropped.
    is_last: bool,
    carried: u64,
    meter: &'a AtomicU64,
}

impl<'a> Flow<'a> {
    const fn new(meter: &'a AtomicU64) -> Self {
        Self {
            phase: Phase::Reading,
            unsent: Vec::new(),
            taken: 0,
            unflushed: false,
            writer_is_gone: false,
            reader_is_gone: false,
            is_last: false,
            carried: 0,
            meter,
        }
    }

    /// Changes whenever something happened that resets the idle time.
    const fn progress(&self) -> (u64, Phase) {
        (self.carried, self.phase)
    }

    const fn is_over(&self) -> bool {
        matches!(
            self.phase,
            Phase::Done | Phase::ReaderBroke | Phase::WriterBroke
        )
    }

    /// Waiting for the reader, with everything passed on.
    fn is_idle(&self) -> bool {
        self.phase == Phase::Reading && self.unsent.is_empty() && !self.unflushed
    }

    /// Moves what can be moved now. Once over, this touches the streams no more.
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        reader: &mut impl Stream,
        writer: &mut impl Stream,
        scratch: &mut [u8],
    ) {
        for _ in 0..BUDGET {
            match self.step(cx, reader, writer, scratch) {
                Poll::Pending => return,
                Poll::Ready(()) if self.is_over() => return,
                Poll::Ready(()) => {}
            }
        }
        cx.waker().wake_by_ref();
    }

    /// One read and write, or what else is next. `Pending` when there is
    /// nothing to do until woken.
    fn step(
        &mut self,
        cx: &mut Context<'_>,
        reader: &mut impl Stream,
        writer: &mut impl Stream,
        scratch: &mut [u8],
    ) -> Poll<()> {
        if !self.unsent.is_empty() {
            let unsent = std::mem::take(&mut self.unsent);
            let taken = self.write(cx, writer, &unsent[self.taken..]);
            self.taken += taken;
            if self.is_over() {
                return Poll::Ready(());
            }
            if self.taken < unsent.len() {
                self.unsent = unsent;
                return Poll::Pending;
            }
            self.taken = 0;
        }
        match self.phase {
            Phase::Reading => {
                let filled = self.read(cx, reader, scratch);
                if filled == 0 && self.phase == Phase::Reading {
                    return self.flush(cx, writer);
                }
                let taken = self.write(cx, writer, &scratch[..filled]);
                if taken < filled && !self.is_over() {
                    self.unsent = scratch[taken..filled].to_vec();
                }
            }
            Phase::Closing => {
                let writer = Pin::new(writer);
                let ended = if self.is_last {
                    writer.poll_finish(cx)
                } else {
                    writer.poll_shutdown(cx)
                };
                match ready!(ended) {
                    Ok(()) => self.phase = Phase::Done,
                    Err(error) => self.writer_broke(error.kind()),
                }
            }
            Phase::Breaking => {
                ready!(self.flush(cx, writer));
                self.phase = Phase::ReaderBroke;
            }
            Phase::Done | Phase::ReaderBroke | Phase::WriterBroke => {}
        }
        Poll::Ready(())
    }

    /// Reads until the scratch space is full or nothing more is there: several
    /// TLS records then go on in one write.
    fn read(
        &mut self,
        cx: &mut Context<'_>,
        reader: &mut impl Stream,
        scratch: &mut [u8],
    ) -> usize {
        let mut buffer = ReadBuf::new(scratch);
        while buffer.remaining() > 0 {
            let before = buffer.filled().len();
            match Pin::new(&mut *reader).poll_read(cx, &mut buffer) {
                Poll::Pending => break,
                Poll::Ready(Ok(())) if buffer.filled().len() > before => {}
                Poll::Ready(Ok(())) => {
                    self.phase = if self.reader_is_gone {
                        Phase::Breaking
                    } else {
                        Phase::Closing
                    };
                    break;
                }
                Poll::Ready(Err(_)) => {
                    self.phase = Phase::Breaking;
                    break;
                }
            }
        }
        buffer.filled().len()
    }

    /// Writes what the writer takes now.
    fn write(&mut self, cx: &mut Context<'_>, writer: &mut impl Stream, bytes: &[u8]) -> usize {
        let mut taken = 0;
        while taken < bytes.len() {
            match Pin::new(&mut *writer).poll_write(cx, &bytes[taken..]) {
                Poll::Pending => break,
                Poll::Ready(Ok(0)) => {
                    self.writer_broke(io::ErrorKind::WriteZero);
                    break;
                }
                Poll::Ready(Err(error)) => {
                    self.writer_broke(error.kind());
                    break;
                }
                Poll::Ready(Ok(count)) => taken += count,
            }
        }
        if taken > 0 {
            self.unflushed = true;
            self.carried += taken as u64;
            // Only this task writes it: no need for a locked addition.
            self.meter.store(self.carried, Ordering::Relaxed);
        }
        taken
    }

    fn writer_broke(&mut self, how: io::ErrorKind) {
        self.phase = match self.phase {
            // It need not be delivered any more; who broke off first is known.
            Phase::Breaking => Phase::ReaderBroke,
            _ => Phase::WriterBroke,
        };
        // A broken pipe is what writing finds after the other side finished
        // sending in order and closed: what it sent before is whole. And where
        // shutting down finds no connection, reading will still find out why.
        self.writer_is_gone |=
            !matches!(how, io::ErrorKind::BrokenPipe | io::ErrorKind::NotConnected);
    }

    /// Passes on what the writer holds; always `Pending` while reading, for
    /// then there is nothing else to do.
    fn flush(&mut self, cx: &mut Context<'_>, writer: &mut impl Stream) -> Poll<()> {
        if self.unflushed {
            match ready!(Pin::new(writer).poll_flush(cx)) {
                Ok(()) => self.unflushed = false,
                Err(error) => {
                    self.writer_broke(error.kind());
                    return Poll::Ready(());
                }
            }
        }
        if self.phase == Phase::Reading {
            Poll::Pending
        } else {
            Poll::Ready(())
        }
    }
}

#[cfg(test)]
mod tests;
