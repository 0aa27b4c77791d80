//! A TLS stream that uses this crate's record layer. Received records are opened from the worker's
//! buffer into the reader's buffer. Sent records are sealed from the writer's buffer into the
//! worker's buffer. As a result, only the ciphers and the kernel copy data.
//!
//! An idle connection keeps only its keys. Buffers are allocated only while they are needed:
//!
//! - for the beginning of an incomplete record;
//! - for the rest of a record that did not fit into the reader's buffer;
//! - for sealed records that the socket did not accept (at most [`SEND`] bytes of
//!   plaintext).

mod kernel;

use std::{
    cell::RefCell,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use rustix::net::SendFlags;
use tokio::{
    io::{AsyncRead, AsyncWrite, Interest, ReadBuf},
    net::TcpStream,
    time::{Sleep, sleep},
};

use super::record::{
    Content, HEADER, MAX_CIPHERTEXT, MAX_OVERHEAD, MAX_PLAINTEXT, Records, Rekey, SMALL, TAG,
    Violation,
};
use kernel::KernelKeys;
pub(crate) use kernel::KernelSecrets;

/// Maximum bytes of plaintext that are sealed for one write to the socket.
const SEND: usize = 128 * 1024;

/// Bytes of plaintext in a full record.
const FRAGMENT: usize = MAX_PLAINTEXT;

/// Size of the largest record in bytes.
const MAX_RECORD: usize = HEADER + MAX_CIPHERTEXT;

/// Size of the receive buffer in bytes: an incomplete record and one read.
const RECEIVE: usize = 128 * 1024 + MAX_RECORD;

/// Minimum size of a read in bytes.
const SMALLEST_READ: usize = 4 * 1024;

const SEALED: usize = SEND + SEND.div_ceil(FRAGMENT) * (MAX_OVERHEAD + SMALL);

/// Buffers of a worker thread. They are empty between polls.
struct Scratch {
    received: Box<[u8]>,
    /// Plaintext of a record for which the reader's buffer is too small.
    opened: Box<[u8]>,
    sealed: Box<[u8]>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::new(Scratch {
        received: vec![0; RECEIVE].into(),
        opened: vec![0; MAX_RECORD].into(),
        sealed: vec![0; SEALED].into(),
    });
}

/// A buffer that is consumed from the front.
#[derive(Default)]
struct PartialBuffer {
    bytes: Box<[u8]>,
    consumed: usize,
}

impl PartialBuffer {
    fn set(&mut self, bytes: &[u8]) {
        self.bytes = bytes.into();
        self.consumed = 0;
    }

    /// Appends to the remaining bytes. This is needed only for an alert that follows records which
    /// the socket has not accepted.
    fn append(&mut self, bytes: &[u8]) {
        let mut all = self.remaining().to_vec();
        all.extend_from_slice(bytes);
        self.set(&all);
    }

    fn remaining(&self) -> &[u8] {
        self.bytes.get(self.consumed..).unwrap_or_default()
    }

    fn is_empty(&self) -> bool {
        self.consumed >= self.bytes.len()
    }

    /// Consumes `count` bytes. Frees the consumed part when it exceeds half of the buffer,
    /// because the remaining bytes may stay in memory for a long time.
    fn advance(&mut self, count: usize) {
        self.consumed += count;
        if self.is_empty() {
            *self = Self::default();
        } else if self.consumed > self.bytes.len() / 2 {
            let left: Box<[u8]> = self.remaining().into();
            self.bytes = left;
            self.consumed = 0;
        }
    }
}

/// Continues a connection, after its handshake, with this crate's record layer. `unopened` holds
/// the bytes that were received after the client's last flight.
///
/// # Errors
/// If the secrets are not usable. The socket is returned with the error.
pub(crate) fn into_direct<S: AsyncRead + AsyncWrite + Unpin>(
    socket: S,
    kernel: KernelSecrets,
    unopened: &[u8],
) -> Result<DirectStream<S>, (Violation, S)> {
    let KernelSecrets {
        secrets,
        connection,
    } = kernel;
    let suite = connection.negotiated_cipher_suite();
    let records = Records::new(
        suite,
        KernelKeys(Box::new(connection)),
        (secrets.rx.0, &secrets.rx.1),
        (secrets.tx.0, &secrets.tx.1),
        leastconn::net::now,
    );
    match records {
        Ok(records) => Ok(DirectStream::new(socket, records, unopened)),
        Err(violation) => Err((violation, socket)),
    }
}

/// A TLS stream over `S` without rustls: see [`into_direct`].
pub(crate) struct DirectStream<S, K = KernelKeys> {
    socket: S,
    state: Box<State<K>>,
}

struct State<K> {
    records: Records<K>,
    /// Bytes that were received but not opened: usually the beginning of a record.
    unopened: PartialBuffer,
    /// Plaintext that was opened but not read.
    unread: PartialBuffer,
    /// Sealed records that the socket has not accepted yet.
    unsent: PartialBuffer,
    /// Whether `unsent` ends with an answer to the client. An answer is sent even if the
    /// caller does not write.
    is_answering: bool,
    /// While this timer runs, nothing is read, because the client sent too many records
    /// without data.
    pause: Option<Pin<Box<Sleep>>>,
    /// Whether `close_notify` was received.
    ended: bool,
    /// Whether the client violated the protocol or truncated the stream. If so, nothing
    /// more is read.
    broken: bool,
    /// An error that occurred in a read that had already opened plaintext. That read returned the
    /// plaintext, and the next read returns this error.
    failed: Option<io::Error>,
    /// Whether `close_notify` or a fatal alert was sealed. If so, nothing may follow.
    closed: bool,
}

impl<S: AsyncRead + AsyncWrite + Unpin, K: Rekey> DirectStream<S, K> {
    fn new(socket: S, records: Records<K>, unopened: &[u8]) -> Self {
        let mut state = State {
            records,
            unopened: PartialBuffer::default(),
            unread: PartialBuffer::default(),
            unsent: PartialBuffer::default(),
            is_answering: false,
            pause: None,
            ended: false,
            broken: false,
            failed: None,
            closed: false,
        };
        state.unopened.set(unopened);
        Self {
            socket,
            state: Box::new(state),
        }
    }

    pub(super) fn into_socket(self) -> S {
        self.socket
    }

    /// Sends `unsent`, then pending answers to control records.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self { socket, state } = self;
        loop {
            while !state.unsent.is_empty() {
                let left = state.unsent.remaining();
                match ready!(Pin::new(&mut *socket).poll_write(cx, left))? {
                    0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                    count => state.unsent.advance(count),
                }
            }
            state.is_answering = false;
            if state.closed || !state.records.has_pending_control() {
                return Poll::Ready(Ok(()));
            }
            let mut small = [0; SMALL];
            let length = state.records.seal_control(&mut small)?;
            state.unsent.set(&small[..length]);
            state.is_answering = true;
        }
    }

    /// Ends the connection because of a violation. Sends an alert if the socket accepts it
    /// now.
    fn refuse(&mut self, cx: &mut Context<'_>, why: Violation) -> io::Error {
        self.state.broken = true;
        self.state.unopened = PartialBuffer::default();
        if !self.state.closed {
            self.state.closed = true;
            let mut small = [0; SMALL];
            if let Ok(length) = self.state.records.refuse(why, &mut small) {
                self.state.unsent.append(&small[..length]);
            }
        }
        let _ = self.poll_send(cx);
        io::Error::from(why)
    }

    /// Reads from the socket, and opens the records that are complete.
    fn poll_receive(
        &mut self,
        cx: &mut Context<'_>,
        scratch: &mut Scratch,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Self { socket, state } = self;
        let kept = state.unopened.remaining();
        match state.records.length(kept) {
            Ok(Some(length)) if length <= kept.len() => return self.open_kept(cx, scratch, buffer),
            Ok(_) => {}
            Err(why) => return Poll::Ready(Err(self.refuse(cx, why))),
        }
        // `kept` is less than one record, so the receive buffer has room for more.
        let mut filled = kept.len();
        scratch.received[..filled].copy_from_slice(kept);
        // Read the ciphertext of as many full records as fit into the reader's buffer.
        let room = buffer.remaining();
        let wanted = room + room / MAX_PLAINTEXT * (HEADER + 1 + TAG);
        let size = wanted.saturating_sub(filled).max(SMALLEST_READ);
        let end = (filled + size).min(RECEIVE);
        let mut ciphertext = ReadBuf::new(&mut scratch.received[filled..end]);
        ready!(Pin::new(socket).poll_read(cx, &mut ciphertext))?;
        let count = ciphertext.filled().len();
        if count == 0 {
            state.broken = true;
            state.unopened = PartialBuffer::default();
            return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
        }
        filled += count;
        let received = &scratch.received[..filled];
        match state.open(received, &mut scratch.opened, buffer) {
            Ok(used) => {
                state.unopened.set(&received[used..]);
                Poll::Ready(Ok(()))
            }
            Err(why) => Poll::Ready(Err(self.refuse(cx, why))),
        }
    }

    /// Opens `unopened`, which begins with a complete record.
    fn open_kept(
        &mut self,
        cx: &mut Context<'_>,
        scratch: &mut Scratch,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut kept = std::mem::take(&mut self.state.unopened);
        match self
            .state
            .open(kept.remaining(), &mut scratch.opened, buffer)
        {
            Ok(used) => {
                kept.advance(used);
                self.state.unopened = kept;
                Poll::Ready(Ok(()))
            }
            Err(why) => Poll::Ready(Err(self.refuse(cx, why))),
        }
    }
}

impl<K: Rekey> State<K> {
    fn take_unread(&mut self, buffer: &mut ReadBuf<'_>) {
        let left = self.unread.remaining();
        let count = left.len().min(buffer.remaining());
        buffer.put_slice(&left[..count]);
        self.unread.advance(count);
    }

    fn pause(&mut self, delay: Duration) {
        self.pause = Some(Box::pin(sleep(delay)));
    }

    /// Opens complete records while `buffer` has room. Returns how many bytes of `received`
    /// were consumed.
    fn open(
        &mut self,
        received: &[u8],
        spare: &mut [u8],
        buffer: &mut ReadBuf<'_>,
    ) -> Result<usize, Violation> {
        let mut used = 0;
        let before = buffer.filled().len();
        while !self.ended && self.pause.is_none() && buffer.remaining() > 0 {
            let rest = &received[used..];
            let Some(length) = self.records.length(rest)? else {
                break;
            };
            let Some(record) = rest.get(..length) else {
                break;
            };
            let room = self.records.room(length);
            if room <= buffer.remaining() {
                let out = &mut buffer.initialize_unfilled()[..room];
                match self.records.open(record, out)? {
                    Content::Data(count) => buffer.advance(count),
                    Content::Nothing => {}
                    Content::Pause(delay) => self.pause(delay),
                    Content::End => self.ended = true,
                }
            } else if buffer.filled().len() > before {
                break;
            } else {
                match self.records.open(record, &mut spare[..room])? {
                    Content::Data(count) => {
                        let now = count.min(buffer.remaining());
                        buffer.put_slice(&spare[..now]);
                        self.unread.set(&spare[now..count]);
                    }
                    Content::Nothing => {}
                    Content::Pause(delay) => self.pause(delay),
                    Content::End => self.ended = true,
                }
            }
            used += length;
        }
        // Data after `close_notify` is ignored.
        Ok(if self.ended { received.len() } else { used })
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin, K: Rekey> AsyncRead for DirectStream<S, K> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if let Some(error) = this.state.failed.take() {
            return Poll::Ready(Err(error));
        }
        let before = buffer.filled().len();
        match ready!(this.poll_plaintext(cx, buffer)) {
            Err(error) if buffer.filled().len() > before => {
                this.state.failed = Some(error);
                Poll::Ready(Ok(()))
            }
            result => Poll::Ready(result),
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin, K: Rekey> DirectStream<S, K> {
    /// Like [`AsyncRead::poll_read`], but may both add bytes to `buffer` and return an
    /// error.
    fn poll_plaintext(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        loop {
            self.state.take_unread(buffer);
            if self.state.records.has_pending_control() || self.state.is_answering {
                // Send answers even if the caller writes nothing. If the socket is full, it
                // wakes this task later.
                let _ = self.poll_send(cx)?;
            }
            if buffer.remaining() == 0 || buffer.filled().len() > before || self.state.ended {
                return Poll::Ready(Ok(()));
            }
            if self.state.broken {
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
            if let Some(pause) = &mut self.state.pause {
                ready!(pause.as_mut().poll(cx));
                self.state.pause = None;
            }
            ready!(SCRATCH.with_borrow_mut(|scratch| self.poll_receive(cx, scratch, buffer)))?;
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin, K: Rekey> AsyncWrite for DirectStream<S, K> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(this.poll_send(cx))?;
        let Self { socket, state } = this;
        if state.closed {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let bytes = &bytes[..bytes.len().min(SEND)];
        SCRATCH.with_borrow_mut(|scratch| {
            let mut length = 0;
            for fragment in bytes.chunks(FRAGMENT) {
                let room = &mut scratch.sealed[length..];
                length += state.records.seal(fragment, room).map_err(|why| {
                    // The record was not sent. Send nothing more, not even `close_notify`:
                    // it would claim that the data is complete.
                    state.closed = true;
                    io::Error::from(why)
                })?;
            }
            let mut taken = 0;
            while taken < length {
                let left = &scratch.sealed[taken..length];
                match Pin::new(&mut *socket).poll_write(cx, left) {
                    Poll::Ready(Ok(0)) => {
                        return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
                    }
                    Poll::Ready(Ok(count)) => taken += count,
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                    Poll::Pending => break,
                }
            }
            state.unsent.set(&scratch.sealed[taken..length]);
            Poll::Ready(Ok(bytes.len()))
        })
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().poll_send(cx)
    }

    /// Sends `close_notify`, then the FIN. The client may continue to send.
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_close_notify(cx))?;
        Pin::new(&mut this.socket).poll_shutdown(cx)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin, K: Rekey> DirectStream<S, K> {
    /// Seals `close_notify` after everything that was written.
    fn poll_seal_end(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.state.closed {
            ready!(self.poll_send(cx))?;
            let mut small = [0; SMALL];
            let length = self.state.records.end(&mut small)?;
            self.state.unsent.set(&small[..length]);
            self.state.closed = true;
        }
        Poll::Ready(Ok(()))
    }

    fn poll_close_notify(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_seal_end(cx))?;
        self.poll_send(cx)
    }
}

impl<S: leastconn::net::Stream, K: Rekey> leastconn::net::Stream for DirectStream<S, K> {
    fn abort(&mut self) {
        self.socket.abort();
    }

    /// Sends `close_notify` with `MSG_MORE`: the FIN that follows when the socket is closed
    /// is then in the same segment.
    fn poll_finish(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_seal_end(cx))?;
        let Self { socket, state } = &mut *this;
        if let Some(socket) = socket.as_tcp() {
            let flags = SendFlags::MORE | SendFlags::NOSIGNAL;
            let send = || Ok(rustix::net::send(socket, state.unsent.remaining(), flags)?);
            if let Ok(count) = socket.try_io(Interest::WRITABLE, send) {
                state.unsent.advance(count);
            }
        }
        // Send the rest, and report an error that was ignored above.
        this.poll_send(cx)
    }

    fn socket(&self) -> Option<&TcpStream> {
        self.socket.socket()
    }
}

#[cfg(any(test, fuzzing))]
pub(super) mod drive;

#[cfg(any(test, fuzzing))]
pub(super) mod memory;

#[cfg(test)]
mod tests;
