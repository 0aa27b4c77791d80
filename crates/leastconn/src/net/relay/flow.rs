//! One direction of a relayed connection.

use std::{
    io,
    pin::Pin,
    sync::atomic::{AtomicU64, Ordering},
    task::{Context, Poll, ready},
    time::Instant,
};

use socket2::SockRef;
use tokio::{io::ReadBuf, net::TcpStream};

use super::{
    super::{Fault, Stream},
    OnTruncation,
    buffered::Buffered,
    delivery::Delivery,
    poll_budget::{PollBudget, yield_to_others},
    splice::Splice,
};

/// Reading stops when less than a quarter of the buffer is free: the next TLS record might not fit,
/// and a partial read costs as much as a full one.
const MIN_FREE_DIVISOR: usize = 4;

/// `TCP_NOTSENT_LOWAT` of bulk transfers while other connections exchange short messages. In
/// measurements, a smaller value did not reduce the latency of the short messages further.
const UNSENT: u32 = 256 * 1024;

/// Maximum number of steps in one poll.
const MAX_STEPS: usize = 8;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// The reader is open.
    Reading,
    /// The reader has ended cleanly, and its end is being forwarded.
    Closing,
    /// The end has been forwarded.
    Done,
    /// Like `Done`, but the writer's peer may still send. Closing a socket with unread data sends a
    /// reset, so wait until the peer has acknowledged everything.
    Confirming,
    /// Like `Done`, and the peer has acknowledged everything.
    Confirmed,
    /// Reading has stopped. The data read so far is being delivered and acknowledged.
    Breaking,
    /// Reading has stopped, and delivery has completed or failed.
    Broken,
    /// Writing failed.
    WriterBroke,
}

/// Changes with every event that restarts the idle timeout.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Progress {
    /// Number of bytes that the writer has accepted.
    pub(super) written: u64,
    phase: Phase,
    unacknowledged: u32,
}

/// The state of one direction.
pub(super) struct Flow<'a> {
    pub(super) phase: Phase,
    /// Bytes that were read but not immediately accepted by the writer.
    unsent: Vec<u8>,
    /// Number of bytes at the start of `unsent` that the writer has accepted since then.
    unsent_start: usize,
    /// Bytes in a kernel pipe between the two sockets.
    splice: Splice,
    /// Whether `TCP_NOTSENT_LOWAT` of the writer is set: see [`Flow::limit_unsent`].
    is_unsent_limited: bool,
    /// Whether the writer may hold bytes that need a flush.
    unflushed: bool,
    /// Whether a write failed because the writer's connection was reset.
    pub(super) writer_is_gone: bool,
    /// Whether the reader was reset, as reported by a write of the opposite flow or by the reader's
    /// socket. The kernel reports a reset only once; later reads report an ordinary end. Without
    /// this flag, a download that is cut short during an upload would look complete.
    pub(super) reader_is_gone: bool,
    /// Whether the last poll ended because the writer accepted no more bytes. In this state, the
    /// reader is not polled.
    is_blocked: bool,
    /// Whether [`Flow::socket_failed`] was called.
    is_error_taken: bool,
    /// Whether the flow in the opposite direction is done. Both streams are then dropped as
    /// soon as this flow ends.
    pub(super) is_opposite_done: bool,
    on_truncation: OnTruncation,
    /// The first fault reported by a read. `write_fault` is the first fault reported by a write.
    pub(super) read_fault: Option<Fault>,
    pub(super) write_fault: Option<Fault>,
    pub(super) read_error: Option<io::Error>,
    pub(super) write_error: Option<io::Error>,
    /// Whether pending data was discarded after a protocol error on the writer. Only the alert may
    /// still be sent.
    is_abandoned: bool,
    /// Whether [`Flow::reset_writer`] was called.
    is_reset: bool,
    /// Boxed to keep `Flow` small: only failing connections use it.
    delivery: Option<Box<Delivery>>,
    written: u64,
    meter: &'a AtomicU64,
    /// Number of bytes buffered for the writer.
    buffered: Buffered<'a>,
    /// Size of the scratch buffer in this poll.
    scratch_size: usize,
}

impl<'a> Flow<'a> {
    pub(super) fn new(
        meter: &'a AtomicU64,
        on_truncation: OnTruncation,
        buffered: &'a AtomicU64,
    ) -> Self {
        Self {
            phase: Phase::Reading,
            unsent: Vec::new(),
            unsent_start: 0,
            splice: Splice::default(),
            is_unsent_limited: false,
            unflushed: false,
            writer_is_gone: false,
            reader_is_gone: false,
            is_blocked: false,
            is_error_taken: false,
            is_opposite_done: false,
            on_truncation,
            read_fault: None,
            write_fault: None,
            read_error: None,
            write_error: None,
            is_abandoned: false,
            is_reset: false,
            delivery: None,
            written: 0,
            meter,
            buffered: Buffered::new(buffered),
            scratch_size: 0,
        }
    }

    pub(super) const fn progress(&self) -> Progress {
        Progress {
            written: self.written,
            phase: self.phase,
            unacknowledged: match &self.delivery {
                Some(delivery) => delivery.unacknowledged,
                None => 0,
            },
        }
    }

    pub(super) const fn is_over(&self) -> bool {
        matches!(
            self.phase,
            Phase::Done | Phase::Confirmed | Phase::Broken | Phase::WriterBroke
        )
    }

    /// Whether the reader has sent any byte.
    pub(super) fn has_moved(&self) -> bool {
        self.written > 0 || !self.unsent.is_empty() || !self.splice.is_empty()
    }

    /// Whether the reader has ended, cleanly or not.
    pub(super) const fn is_reader_ended(&self) -> bool {
        self.is_passed_on() || matches!(self.phase, Phase::Closing) || self.read_fault.is_some()
    }

    /// Whether a write to the writer has failed.
    pub(super) const fn is_writer_ended(&self) -> bool {
        self.write_error.is_some()
    }

    /// Whether the reader has ended cleanly and its end has been forwarded.
    pub(super) const fn is_passed_on(&self) -> bool {
        matches!(
            self.phase,
            Phase::Done | Phase::Confirming | Phase::Confirmed
        )
    }

    /// Whether the flow has ended without a clean end of the reader.
    pub(super) const fn is_cut_short(&self) -> bool {
        matches!(self.phase, Phase::Broken | Phase::WriterBroke)
    }

    /// Whether the half-close timeout applies instead of the idle timeout.
    pub(super) const fn is_half_closed(&self) -> bool {
        self.reader_is_gone || !matches!(self.phase, Phase::Reading | Phase::Closing)
    }

    /// Whether the flow waits for its writer, so that a reset of the reader would go unnoticed
    /// unless its socket is watched.
    pub(super) const fn needs_watch(&self) -> bool {
        self.is_blocked && !self.reader_is_gone && !self.is_error_taken
    }

    /// Takes the pending error of the reader's socket. Bytes that the kernel received before a
    /// reset are still read and delivered.
    pub(super) fn socket_failed(&mut self, reader: &impl Stream) {
        self.is_error_taken = true;
        let error = reader.socket().map(TcpStream::take_error);
        if let Some(Ok(Some(error))) = error
            // EPIPE: the peer had finished sending before it reset the connection.
            && error.kind() != io::ErrorKind::BrokenPipe
        {
            self.reader_is_gone = true;
            self.read_fault.get_or_insert(Fault::Reset);
            self.read_error.get_or_insert(error);
        }
    }

    /// Returns the time at which the flow must be polled even without a wake-up.
    pub(super) fn next_check(&self) -> Option<Instant> {
        let is_waiting = matches!(self.phase, Phase::Breaking | Phase::Confirming);
        let delivery = self.delivery.as_ref().filter(|_| is_waiting)?;
        Some(delivery.next_check)
    }

    /// Stops reading. Data that was already read is still delivered.
    pub(super) fn stop(&mut self) {
        if self.phase == Phase::Reading {
            self.phase = Phase::Breaking;
        }
    }

    /// Discards pending data after a protocol error on the writer. Only the writer's alert is still
    /// sent.
    pub(super) fn abandon(&mut self) {
        let is_open = matches!(
            self.phase,
            Phase::Reading | Phase::Closing | Phase::Breaking
        );
        if is_open && !std::mem::replace(&mut self.is_abandoned, true) {
            self.unsent = Vec::new();
            self.unsent_start = 0;
            self.buffered.set(0);
            // The stream has already queued the alert, so flush it.
            self.unflushed = true;
            self.phase = Phase::Breaking;
        }
    }

    /// Ends delivery because the writer's connection was reset.
    pub(super) fn give_up(&mut self) {
        self.phase = match self.phase {
            Phase::Breaking => Phase::Broken,
            Phase::Confirming => Phase::Confirmed,
            phase => phase,
        };
    }

    /// Resets the writer's connection immediately, before the writer's stream is dropped.
    pub(super) fn reset_writer(&mut self, writer: &impl Stream) {
        if !std::mem::replace(&mut self.is_reset, true)
            && let Some(socket) = writer.socket()
        {
            // This fails only if the socket is already closed.
            let _ = rustix::net::connect_unspec(socket);
        }
    }

    /// If the end was forwarded, waits until the peer has acknowledged everything.
    pub(super) fn confirm(&mut self) {
        if self.phase == Phase::Done {
            self.phase = Phase::Confirming;
        }
    }

    /// Whether everything that was read has been forwarded, so that the flow only waits for more
    /// input.
    pub(super) fn is_idle(&self) -> bool {
        self.phase == Phase::Reading
            && self.unsent.is_empty()
            && self.splice.is_empty()
            && !self.unflushed
    }

    /// Moves bytes, up to about the size of `scratch`, then yields to other tasks. Once the flow
    /// has ended, this method does not use the streams.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        reader: &mut impl Stream,
        writer: &mut impl Stream,
        scratch: &mut [u8],
    ) {
        self.scratch_size = scratch.len();
        self.is_blocked = false;
        let enough = self.written.saturating_add(scratch.len() as u64);
        for _ in 0..MAX_STEPS {
            match self.step(cx, reader, writer, scratch) {
                Poll::Pending => {
                    self.is_blocked = self.phase == Phase::Reading && !self.is_idle();
                    return;
                }
                Poll::Ready(()) if self.is_over() => return,
                Poll::Ready(()) if self.written >= enough => break,
                Poll::Ready(()) => {}
            }
        }
        yield_to_others(cx);
    }

    /// Performs one step of the current phase. Returns `Pending` if no progress is possible until
    /// the next wake-up.
    fn step(
        &mut self,
        cx: &mut Context<'_>,
        reader: &mut impl Stream,
        writer: &mut impl Stream,
        scratch: &mut [u8],
    ) -> Poll<()> {
        if !self.unsent.is_empty() {
            let unsent = std::mem::take(&mut self.unsent);
            let taken = self.write(cx, writer, &unsent[self.unsent_start..]);
            self.unsent_start += taken;
            if self.is_over() {
                return Poll::Ready(());
            }
            if self.unsent_start < unsent.len() && !self.is_abandoned {
                self.unsent = unsent;
                return Poll::Pending;
            }
            self.unsent_start = 0;
            self.buffered.set(0);
        }
        if !self.splice.is_empty()
            && let Some(writer) = writer.as_tcp()
        {
            return self.push(cx, writer);
        }
        match self.phase {
            Phase::Reading => {
                // Do not read while the writer holds unflushed data. Otherwise both the flow and
                // the writer might buffer data.
                ready!(self.flush(cx, writer));
                if self.is_over() {
                    return Poll::Ready(());
                }
                if let (Some(from), Some(to)) = (reader.as_tcp(), writer.as_tcp())
                    && self.splice.is_worthwhile()
                {
                    self.limit_unsent(writer, PollBudget::is_short(scratch.len()));
                    ready!(self.pull(cx, from, 2 * scratch.len()));
                    if !self.splice.is_empty() {
                        let _ = self.push(cx, to);
                    }
                    return Poll::Ready(());
                }
                let filled = self.read(cx, reader, scratch);
                if filled == 0 && self.phase == Phase::Reading {
                    return Poll::Pending;
                }
                let taken = self.write(cx, writer, &scratch[..filled]);
                if taken < filled && !self.is_over() && !self.is_abandoned {
                    self.unsent = scratch[taken..filled].to_vec();
                    self.buffered.set(filled - taken);
                }
                let is_bulk = filled + scratch.len() / MIN_FREE_DIVISOR > scratch.len();
                if is_bulk {
                    self.limit_unsent(writer, PollBudget::is_short(scratch.len()));
                }
                self.splice.copied(is_bulk);
            }
            Phase::Closing => {
                let writer = Pin::new(writer);
                let ended = if self.is_opposite_done {
                    writer.poll_finish(cx)
                } else {
                    writer.poll_shutdown(cx)
                };
                match ready!(ended) {
                    Ok(()) => self.phase = Phase::Done,
                    Err(error) => self.writer_broke(error),
                }
            }
            Phase::Breaking => {
                ready!(self.flush(cx, writer));
                if self.phase == Phase::Breaking {
                    ready!(Delivery::poll(&mut self.delivery, writer));
                    self.phase = Phase::Broken;
                }
            }
            Phase::Confirming => {
                ready!(Delivery::poll(&mut self.delivery, writer));
                self.phase = Phase::Confirmed;
            }
            Phase::Done | Phase::Confirmed | Phase::Broken | Phase::WriterBroke => {}
        }
        Poll::Ready(())
    }

    /// Reads until the scratch buffer is nearly full or no more data is available, so that several
    /// TLS records are forwarded in one write.
    fn read(
        &mut self,
        cx: &mut Context<'_>,
        reader: &mut impl Stream,
        scratch: &mut [u8],
    ) -> usize {
        let min_free = scratch.len() / MIN_FREE_DIVISOR;
        let mut buffer = ReadBuf::new(scratch);
        while buffer.remaining() >= min_free {
            let before = buffer.filled().len();
            match Pin::new(&mut *reader).poll_read(cx, &mut buffer) {
                Poll::Pending => break,
                Poll::Ready(Ok(())) if buffer.filled().len() > before => {}
                Poll::Ready(Ok(())) => {
                    self.reader_ended();
                    break;
                }
                Poll::Ready(Err(error)) => {
                    self.reader_broke(error);
                    break;
                }
            }
        }
        buffer.filled().len()
    }

    /// Writes until the writer accepts no more. Returns the number of bytes written.
    fn write(&mut self, cx: &mut Context<'_>, writer: &mut impl Stream, bytes: &[u8]) -> usize {
        let mut taken = 0;
        while taken < bytes.len() {
            match Pin::new(&mut *writer).poll_write(cx, &bytes[taken..]) {
                Poll::Pending => break,
                Poll::Ready(Ok(0)) => {
                    self.writer_broke(io::ErrorKind::WriteZero.into());
                    break;
                }
                Poll::Ready(Err(error)) => {
                    self.writer_broke(error);
                    break;
                }
                Poll::Ready(Ok(count)) => taken += count,
            }
        }
        if taken > 0 {
            self.unflushed = true;
            self.add_written(taken);
        }
        taken
    }

    /// Moves bytes from the reader into a pipe.
    fn pull(&mut self, cx: &mut Context<'_>, from: &TcpStream, limit: usize) -> Poll<()> {
        match ready!(self.splice.poll_pull(cx, from, limit)) {
            Some(Ok(0)) => self.reader_ended(),
            Some(Err(error)) => self.reader_broke(error),
            // `None`: no pipe is available, so the flow copies the bytes.
            Some(Ok(_)) | None => {}
        }
        Poll::Ready(())
    }

    /// Moves as many bytes from the pipe to the writer as it accepts.
    fn push(&mut self, cx: &mut Context<'_>, to: &TcpStream) -> Poll<()> {
        match ready!(self.splice.poll_push(cx, to)) {
            Ok(count) => self.add_written(count),
            Err(error) => self.writer_broke(error),
        }
        Poll::Ready(())
    }

    /// Sets or removes the limit on unsent bytes in the kernel (`TCP_NOTSENT_LOWAT`).
    fn limit_unsent(&mut self, writer: &impl Stream, limited: bool) {
        if self.is_unsent_limited != limited {
            self.is_unsent_limited = limited;
            if let Some(socket) = writer.socket() {
                // 0 restores the system default. Errors are ignored, because the only effect is a
                // higher latency of other connections.
                let limit = if limited { UNSENT } else { 0 };
                let _ = SockRef::from(socket).set_tcp_notsent_lowat(limit);
            }
        }
    }

    const fn reader_ended(&mut self) {
        self.phase = if self.reader_is_gone {
            Phase::Breaking
        } else {
            Phase::Closing
        };
    }

    fn add_written(&mut self, count: usize) {
        self.written += count as u64;
        // Only this task writes the counter, so it needs no atomic addition.
        self.meter.store(self.written, Ordering::Relaxed);
    }

    fn reader_broke(&mut self, error: io::Error) {
        let fault = match Fault::of(&error) {
            // Once a reset has been reported, the kernel reports an ordinary end.
            Fault::Truncated if self.reader_is_gone => Fault::Reset,
            fault => fault,
        };
        self.phase = match (fault, self.on_truncation) {
            (Fault::Truncated, OnTruncation::Close) => Phase::Closing,
            _ => Phase::Breaking,
        };
        self.read_fault.get_or_insert(fault);
        self.read_error.get_or_insert(error);
    }

    fn writer_broke(&mut self, error: io::Error) {
        // EPIPE means that the peer has finished sending cleanly and closed, so its data is
        // complete. `shutdown` can return ENOTCONN, whose cause the next read reports.
        let is_orderly = matches!(
            error.kind(),
            io::ErrorKind::BrokenPipe | io::ErrorKind::NotConnected
        );
        let fault = Some(Fault::of(&error)).filter(|_| !is_orderly);
        self.write_fault = self.write_fault.or(fault);
        self.write_error.get_or_insert(error);
        if fault == Some(Fault::Protocol) && !self.is_abandoned {
            return self.abandon();
        }
        self.phase = match self.phase {
            // Reading has already stopped because of an earlier failure, so the failed write only
            // ends the delivery.
            Phase::Breaking => Phase::Broken,
            _ => Phase::WriterBroke,
        };
        self.writer_is_gone |= fault.is_some();
    }

    /// Flushes the writer if it may hold bytes that need a flush.
    fn flush(&mut self, cx: &mut Context<'_>, writer: &mut impl Stream) -> Poll<()> {
        if self.unflushed {
            match Pin::new(writer).poll_flush(cx) {
                Poll::Ready(Ok(())) => {
                    self.unflushed = false;
                    self.buffered.set(0);
                }
                Poll::Ready(Err(error)) => self.writer_broke(error),
                Poll::Pending => {
                    // The writer does not report how many bytes it holds, so assume the maximum.
                    self.buffered.set(self.scratch_size);
                    return Poll::Pending;
                }
            }
        }
        Poll::Ready(())
    }
}
