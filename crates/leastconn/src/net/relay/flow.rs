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

/// The part of the room for which it is not worth asking once more: a TLS record may
/// not fit, and what comes is a small piece at the price of a whole one.
const LITTLE: usize = 4;

/// Bytes that the system keeps for a stream's writer, beyond what is on its way,
/// while there are others: `TCP_NOTSENT_LOWAT`. Half of it helps no more.
const UNSENT: u32 = 256 * 1024;

/// Steps in one poll, most of which move bytes.
const STEPS: usize = 8;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Bytes may come.
    Reading,
    /// The reader has ended in order: pass that on.
    Closing,
    /// Ended, and passed on.
    Done,
    /// As `Done`, but the writer's peer may still send: closing a socket with unread
    /// input resets it, so wait until the peer has acknowledged everything.
    Confirming,
    /// As `Done`, and acknowledged.
    Confirmed,
    /// Nothing more is read. What was read is being delivered, and acknowledged.
    Breaking,
    /// Nothing more is read, and what was read was delivered as far as possible.
    Broken,
    /// The writer takes no more.
    WriterBroke,
}

/// Changes whenever something happened that resets the idle time.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Progress {
    /// Bytes that the writer has taken.
    pub(super) carried: u64,
    phase: Phase,
    unacknowledged: u32,
}

/// One direction.
pub(super) struct Flow<'a> {
    pub(super) phase: Phase,
    /// Read, and not yet taken by the writer.
    unsent: Vec<u8>,
    /// How much of `unsent` was taken since.
    taken: usize,
    /// Bytes on their way from socket to socket without coming to us.
    splice: Splice,
    /// The system is told to keep little for the writer: see [`Flow::bound`].
    is_bounded: bool,
    /// The writer holds bytes that it may not have passed on.
    unflushed: bool,
    /// Writing found the writer's connection reset.
    pub(super) writer_is_gone: bool,
    /// The other flow, which writes where this one reads, found it reset. The
    /// system tells of a reset once, and then reports an end like any other:
    /// without this, a download cut short during an upload would look complete.
    pub(super) reader_is_gone: bool,
    /// The other flow is done: after this one, both streams are dropped.
    pub(super) is_last: bool,
    on_truncation: OnTruncation,
    /// What broke reading, or writing, first.
    pub(super) read_fault: Option<Fault>,
    pub(super) write_fault: Option<Fault>,
    pub(super) read_error: Option<io::Error>,
    pub(super) write_error: Option<io::Error>,
    /// Bytes were discarded because only an alert may follow.
    is_abandoned: bool,
    /// The writer's connection was reset by us.
    is_reset: bool,
    /// Boxed: only connections that break need it.
    delivery: Option<Box<Delivery>>,
    carried: u64,
    meter: &'a AtomicU64,
    /// How much is held for the writer.
    buffered: Buffered<'a>,
    /// How much is read at once.
    room: usize,
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
            taken: 0,
            splice: Splice::default(),
            is_bounded: false,
            unflushed: false,
            writer_is_gone: false,
            reader_is_gone: false,
            is_last: false,
            on_truncation,
            read_fault: None,
            write_fault: None,
            read_error: None,
            write_error: None,
            is_abandoned: false,
            is_reset: false,
            delivery: None,
            carried: 0,
            meter,
            buffered: Buffered::new(buffered),
            room: 0,
        }
    }

    pub(super) const fn progress(&self) -> Progress {
        Progress {
            carried: self.carried,
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

    /// The reader's orderly end was passed on.
    pub(super) const fn is_passed_on(&self) -> bool {
        matches!(
            self.phase,
            Phase::Done | Phase::Confirming | Phase::Confirmed
        )
    }

    /// Over without an orderly end.
    pub(super) const fn is_cut_short(&self) -> bool {
        matches!(self.phase, Phase::Broken | Phase::WriterBroke)
    }

    /// The half-close time-out holds, not the idle time-out.
    pub(super) const fn is_half_closed(&self) -> bool {
        !matches!(self.phase, Phase::Reading | Phase::Closing)
    }

    /// When to poll without being woken.
    pub(super) fn next_check(&self) -> Option<Instant> {
        let is_waiting = matches!(self.phase, Phase::Breaking | Phase::Confirming);
        let delivery = self.delivery.as_ref().filter(|_| is_waiting)?;
        Some(delivery.next_check)
    }

    /// Reads no more: what was read is still delivered.
    pub(super) fn stop(&mut self) {
        if self.phase == Phase::Reading {
            self.phase = Phase::Breaking;
        }
    }

    /// The writer's stream broke in its protocol: only its alert is still delivered.
    pub(super) fn abandon(&mut self) {
        let is_open = matches!(
            self.phase,
            Phase::Reading | Phase::Closing | Phase::Breaking
        );
        if is_open && !std::mem::replace(&mut self.is_abandoned, true) {
            self.unsent = Vec::new();
            self.taken = 0;
            self.buffered.set(0);
            // The alert, which was not written by this flow.
            self.unflushed = true;
            self.phase = Phase::Breaking;
        }
    }

    /// The writer's connection was reset: nothing can be delivered any more.
    pub(super) fn give_up(&mut self) {
        self.phase = match self.phase {
            Phase::Breaking => Phase::Broken,
            Phase::Confirming => Phase::Confirmed,
            phase => phase,
        };
    }

    /// Resets the writer's connection now, not when its stream is dropped.
    pub(super) fn reset_writer(&mut self, writer: &impl Stream) {
        if !std::mem::replace(&mut self.is_reset, true)
            && let Some(socket) = writer.socket()
        {
            // Fails only for a socket that is already gone.
            let _ = rustix::net::connect_unspec(socket);
        }
    }

    /// Waits, where everything was passed on, until it was acknowledged.
    pub(super) fn confirm(&mut self) {
        if self.phase == Phase::Done {
            self.phase = Phase::Confirming;
        }
    }

    /// Waiting for the reader, with everything passed on.
    pub(super) fn is_idle(&self) -> bool {
        self.phase == Phase::Reading
            && self.unsent.is_empty()
            && self.splice.is_empty()
            && !self.unflushed
    }

    /// Moves bytes, up to about the size of `scratch`, then yields to other tasks. Does not
    /// touch the streams once the flow is over.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        reader: &mut impl Stream,
        writer: &mut impl Stream,
        scratch: &mut [u8],
    ) {
        self.room = scratch.len();
        let enough = self.carried.saturating_add(scratch.len() as u64);
        for _ in 0..STEPS {
            match self.step(cx, reader, writer, scratch) {
                Poll::Pending => return,
                Poll::Ready(()) if self.is_over() => return,
                Poll::Ready(()) if self.carried >= enough => break,
                Poll::Ready(()) => {}
            }
        }
        yield_to_others(cx);
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
            if self.taken < unsent.len() && !self.is_abandoned {
                self.unsent = unsent;
                return Poll::Pending;
            }
            self.taken = 0;
            self.buffered.set(0);
        }
        if !self.splice.is_empty()
            && let Some(writer) = writer.as_tcp()
        {
            return self.push(cx, writer);
        }
        match self.phase {
            Phase::Reading => {
                // Nothing is read while the writer holds something: one of them
                // at most keeps bytes.
                ready!(self.flush(cx, writer));
                if self.is_over() {
                    return Poll::Ready(());
                }
                if let (Some(from), Some(to)) = (reader.as_tcp(), writer.as_tcp())
                    && self.splice.is_worth_while()
                {
                    self.bound(writer, PollBudget::is_short(scratch.len()));
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
                let much = filled + scratch.len() / LITTLE > scratch.len();
                if much {
                    self.bound(writer, PollBudget::is_short(scratch.len()));
                }
                self.splice.copied(much);
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

    /// Reads until the scratch space is about full or nothing more is there:
    /// several TLS records then go on in one write.
    fn read(
        &mut self,
        cx: &mut Context<'_>,
        reader: &mut impl Stream,
        scratch: &mut [u8],
    ) -> usize {
        let little = scratch.len() / LITTLE;
        let mut buffer = ReadBuf::new(scratch);
        while buffer.remaining() >= little {
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

    /// Writes what the writer takes now.
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
            self.carry(taken);
        }
        taken
    }

    /// Moves bytes from the reader into a pipe.
    fn pull(&mut self, cx: &mut Context<'_>, from: &TcpStream, most: usize) -> Poll<()> {
        match ready!(self.splice.poll_pull(cx, from, most)) {
            Some(Ok(0)) => self.reader_ended(),
            Some(Err(error)) => self.reader_broke(error),
            // Without a pipe it goes on by copying.
            Some(Ok(_)) | None => {}
        }
        Poll::Ready(())
    }

    /// Moves bytes from the pipe to the writer, as many as it takes now.
    fn push(&mut self, cx: &mut Context<'_>, to: &TcpStream) -> Poll<()> {
        match ready!(self.splice.poll_push(cx, to)) {
            Ok(count) => self.carry(count),
            Err(error) => self.writer_broke(error),
        }
        Poll::Ready(())
    }

    /// Has the system keep little, or as much as it will, of what the writer cannot
    /// send yet.
    fn bound(&mut self, writer: &impl Stream, bounded: bool) {
        if self.is_bounded != bounded {
            self.is_bounded = bounded;
            if let Some(socket) = writer.socket() {
                // Without, others wait a little longer.
                // 0 is the system's own.
                let most = if bounded { UNSENT } else { 0 };
                let _ = SockRef::from(socket).set_tcp_notsent_lowat(most);
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

    fn carry(&mut self, count: usize) {
        self.carried += count as u64;
        // Only this task writes it: no need for a locked addition.
        self.meter.store(self.carried, Ordering::Relaxed);
    }

    fn reader_broke(&mut self, error: io::Error) {
        let fault = match Fault::of(&error) {
            // The end that is found after a reset.
            Fault::Truncated if self.reader_is_gone => Fault::Reset,
            fault => fault,
        };
        self.phase = match (fault, self.on_truncation) {
            (Fault::Truncated, OnTruncation::Close) => Phase::Closing,
            _ => Phase::Breaking,
        };
        self.read_fault = Some(fault);
        self.read_error = Some(error);
    }

    fn writer_broke(&mut self, error: io::Error) {
        // A broken pipe is what writing finds after the other side finished
        // sending in order and closed: what it sent before is whole. And where
        // shutting down finds no connection, reading will still find out why.
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
            // It need not be delivered any more; who broke off first is known.
            Phase::Breaking => Phase::Broken,
            _ => Phase::WriterBroke,
        };
        self.writer_is_gone |= fault.is_some();
    }

    /// Passes on what the writer holds.
    fn flush(&mut self, cx: &mut Context<'_>, writer: &mut impl Stream) -> Poll<()> {
        if self.unflushed {
            match Pin::new(writer).poll_flush(cx) {
                Poll::Ready(Ok(())) => {
                    self.unflushed = false;
                    self.buffered.set(0);
                }
                Poll::Ready(Err(error)) => self.writer_broke(error),
                Poll::Pending => {
                    // How much the writer holds it does not tell: this is the most.
                    self.buffered.set(self.room);
                    return Poll::Pending;
                }
            }
        }
        Poll::Ready(())
    }
}
