//! A TLS stream with the record layer of rustls: rustls implements the protocol, this
//! module reads and writes the TCP socket.

mod boundary;
pub(super) mod suites;

use std::{
    cell::RefCell,
    future::poll_fn,
    io::{self, Read, Write},
    pin::Pin,
    task::{Context, Poll, ready},
};

use leastconn::net;
use rustls::{Connection, ProtocolVersion, SupportedCipherSuite};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::{Sleep, sleep},
};

use super::{
    handshake_error::HandshakeError,
    last_flight::LastFlight,
    polled_socket::Polled,
    record::{ControlLimit, EMPTY_IN_A_ROW, MAX_PLAINTEXT, Verdict, Violation, payload_length},
};
use crate::{permit::Permit, sessions::ConnectionSessions};
use boundary::{Boundary, Step};
use suites::Request;

/// Plaintext in bytes that rustls may hold for a full socket before writes wait.
const SEND_BUFFER: usize = 64 * 1024;

/// Ciphertext in bytes per read. By itself rustls reads 4 KiB at a time, which takes four
/// system calls for a full record.
const RECEIVE: usize = 64 * 1024;

/// Smallest read in bytes, if there is hardly room for plaintext: the rest of a record and
/// the beginning of the next one.
const SMALLEST_READ: usize = 4 * 1024;

/// Key updates in a row after which the counter of rustls is reset. rustls refuses the
/// 33rd; here [`ControlLimit`] limits their rate.
const RESET_AFTER: u32 = 32;

thread_local! {
    /// The receive buffer of a worker thread: empty between polls.
    static RECEIVED: RefCell<Box<[u8]>> = RefCell::new(vec![0; RECEIVE].into());
}

/// A socket whose bytes are passed to the [`Boundary`].
struct TrackedSocket<'a, 'cx> {
    socket: Polled<'a, 'cx>,
    boundary: &'a mut Boundary,
}

impl Read for TrackedSocket<'_, '_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.socket.read(buffer)?;
        self.boundary.skip(&buffer[..count]);
        Ok(count)
    }
}

/// Either side of a connection: see [`super::TlsStream`] and [`super::client`].
pub(super) struct Buffered {
    socket: TcpStream,
    session: Box<Connection>,
    /// Ciphertext that rustls was not given yet, because the reader had no room for more
    /// plaintext. Almost always empty.
    unprocessed: Vec<u8>,
    /// The record boundaries in what rustls was given.
    boundary: Boundary,
    /// An error found after bytes that are returned first.
    failed: Option<io::Error>,
    control: ControlLimit,
    /// Control records since the last record with data.
    control_in_a_row: u32,
    /// rustls may hold back an answer to a control record.
    is_answering: bool,
    /// rustls is given no record before it elapses: too many come without data.
    pause: Option<Pin<Box<Sleep>>>,
    /// Records with data that were sent.
    sealed: u64,
    close_notify_sent: bool,
}

impl Buffered {
    pub(super) fn new(socket: TcpStream, session: impl Into<Connection>) -> Self {
        let mut session = session.into();
        session.set_buffer_limit(Some(SEND_BUFFER));
        Self {
            socket,
            session: Box::new(session),
            unprocessed: Vec::new(),
            boundary: Boundary::default(),
            failed: None,
            control: ControlLimit::new(),
            control_in_a_row: 0,
            is_answering: false,
            pause: None,
            sealed: 0,
            close_notify_sent: false,
        }
    }

    /// Tells the stream that rustls was given `bytes` before.
    pub(super) fn was_given(&mut self, bytes: &[u8]) {
        self.boundary.skip(bytes);
    }

    /// The negotiated parameters and the peer's certificates.
    pub(super) fn session(&self) -> &Connection {
        &self.session
    }

    pub(super) fn tcp(&self) -> &TcpStream {
        &self.socket
    }

    /// Drops the TLS state, for closing.
    pub(super) fn into_socket(self) -> TcpStream {
        self.socket
    }

    /// Completes the handshake, each flight in a time slice of `permit`. `early` was
    /// received already. `sessions` learns when the handshake is complete. Returns which side
    /// sent the last flight.
    pub(super) async fn handshake(
        &mut self,
        mut early: &[u8],
        permit: &impl Permit,
        sessions: Option<&ConnectionSessions>,
    ) -> Result<LastFlight, HandshakeError> {
        loop {
            if let Some(sessions) = sessions.filter(|_| !self.session.is_handshaking()) {
                // Before the client can know that the handshake is complete.
                sessions.complete(&self.session);
            }
            let last = if self.session.wants_write() {
                LastFlight::Sent
            } else {
                LastFlight::Received
            };
            permit
                .wait_for_client(poll_fn(|cx| self.poll_send(cx)))
                .await??;
            if !self.session.is_handshaking() {
                return Ok(last);
            }
            if !early.is_empty() {
                // rustls refuses it at once if it is not TLS.
                let before = early;
                let count = self.session.read_tls(&mut early)?;
                self.boundary.skip(&before[..count]);
            } else if permit
                .wait_for_client(poll_fn(|cx| self.poll_read_tls(cx)))
                .await??
                == 0
            {
                return Err(HandshakeError::Closed);
            }
            let _turn = permit.time_slice().await;
            poll_fn(|cx| Poll::Ready(self.process(cx))).await?;
        }
    }

    /// Without the worker's buffer: what follows the handshake must stay in the socket or
    /// in rustls.
    fn poll_read_tls(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let Self {
            socket,
            session,
            boundary,
            ..
        } = self;
        let socket = Polled { socket, cx };
        match session.read_tls(&mut TrackedSocket { socket, boundary }) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Poll::Pending,
            read => Poll::Ready(read),
        }
    }

    /// Lets rustls process what it was given.
    fn process(&mut self, cx: &mut Context<'_>) -> Result<(), HandshakeError> {
        let Err(error) = self.session.process_new_packets() else {
            return Ok(());
        };
        // Send the pending alert, if the socket accepts it now.
        let Self {
            socket, session, ..
        } = self;
        let _ = session.write_tls(&mut Polled { socket, cx });
        Err(error.into())
    }

    /// Moves plaintext from rustls into `buffer`. Returns `false` if rustls has none and
    /// needs more ciphertext.
    ///
    /// # Errors
    /// If the stream ended without `close_notify`. rustls reports that on every call, and
    /// so does this function: also after bytes that the caller may not have read yet.
    fn take_plaintext(&mut self, buffer: &mut ReadBuf<'_>) -> io::Result<bool> {
        while buffer.remaining() > 0 {
            match self.session.reader().read(buffer.initialize_unfilled()) {
                // `close_notify`: the end.
                Ok(0) => return Ok(true),
                Ok(count) => buffer.advance(count),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    /// Gives ciphertext to rustls, record by record, and takes out the plaintext. Returns
    /// the ciphertext for which there is no room, or that must wait for a pause.
    fn decrypt<'a>(
        &mut self,
        cx: &mut Context<'_>,
        mut ciphertext: &'a [u8],
        buffer: &mut ReadBuf<'_>,
    ) -> io::Result<&'a [u8]> {
        while !ciphertext.is_empty() && self.pause.is_none() {
            match self.boundary.advance(ciphertext) {
                Step::Incomplete(count) => ciphertext = &ciphertext[count..],
                Step::Header(count) => {
                    ciphertext = &ciphertext[count..];
                    self.begin_record(cx)?;
                }
                Step::Payload(count, is_whole) => {
                    let (mut payload, rest) = ciphertext.split_at(count);
                    ciphertext = rest;
                    while !payload.is_empty() {
                        // rustls takes as much as it has room for, but at least one byte.
                        self.session.read_tls(&mut payload)?;
                        if let Err(error) = self.process(cx) {
                            return Err(self.explain(error));
                        }
                    }
                    let before = buffer.filled().len();
                    let enough = self.take_plaintext(buffer)?;
                    if buffer.filled().len() > before {
                        self.control_in_a_row = 0;
                    } else if is_whole {
                        self.count_control(cx)?;
                    }
                    if enough {
                        break;
                    }
                }
            }
        }
        Ok(ciphertext)
    }

    fn is_tls13(&self) -> bool {
        self.session.protocol_version() == Some(ProtocolVersion::TLSv1_3)
    }

    /// Gives a record header to rustls, if it is valid.
    fn begin_record(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        if let Err(why) = payload_length(self.boundary.header(), self.is_tls13()) {
            return Err(self.refuse(cx, why));
        }
        let (header, given) = self.boundary.take_header();
        let mut rest = header.get(given..).unwrap_or_default();
        while !rest.is_empty() {
            self.session.read_tls(&mut rest)?;
        }
        Ok(())
    }

    /// Counts a record without data.
    fn count_control(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        match self.control.take(net::now()) {
            Verdict::Process => {}
            Verdict::Delay(delay) => self.pause = Some(Box::pin(sleep(delay))),
            Verdict::Refuse => return Err(self.refuse(cx, Violation::TooManyControlRecords)),
        }
        self.is_answering = true;
        self.control_in_a_row = self.control_in_a_row.saturating_add(1);
        if self.is_tls13() && self.control_in_a_row.is_multiple_of(RESET_AFTER) {
            self.request(Request::ResetKeyUpdates)?;
        }
        Ok(())
    }

    fn request(&mut self, request: Request) -> io::Result<()> {
        let record = request.record();
        let mut record = record.as_slice();
        while !record.is_empty() {
            self.session.read_tls(&mut record)?;
        }
        let processed = self.session.process_new_packets();
        processed
            .map(drop)
            .map_err(|error| HandshakeError::Tls(error).into_io())
    }

    /// Ends the connection with the alert for `why`, if the socket accepts it now.
    fn refuse(&mut self, cx: &mut Context<'_>, why: Violation) -> io::Error {
        if !self.boundary.is_within_given_header() {
            let _ = self.request(Request::for_violation(why));
            let _ = self.poll_send(cx);
        }
        into_io(why)
    }

    /// The error of a record that rustls refused.
    fn explain(&self, error: HandshakeError) -> io::Error {
        match error {
            HandshakeError::Tls(error) if error == suites::UNEXPECTED => {
                let too_many = self.control_in_a_row >= u32::from(EMPTY_IN_A_ROW);
                into_io(if too_many {
                    Violation::TooManyControlRecords
                } else {
                    Violation::Unexpected
                })
            }
            other => other.into_io(),
        }
    }

    /// Sends answers to control records, which rustls holds back until data is written.
    fn poll_answer(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // While one answer waits for the socket, the next one answers all further requests.
        ready!(self.poll_send(cx))?;
        if !self.close_notify_sent {
            let _ = self.session.writer().write(&[])?;
            ready!(self.poll_send(cx))?;
        }
        self.is_answering = false;
        Poll::Ready(Ok(()))
    }

    /// Whether this many bytes may be sealed. At its key limit rustls ends a TLS 1.2
    /// connection as if all data had been sent.
    fn may_seal(&self, bytes: usize) -> bool {
        /// The handshake record, alerts and `close_notify`.
        const OTHERS: u64 = 16;
        match self.session.negotiated_cipher_suite() {
            Some(SupportedCipherSuite::Tls12(suite)) => {
                let records = bytes.min(SEND_BUFFER).div_ceil(MAX_PLAINTEXT) as u64;
                self.sealed + records + OTHERS <= suite.common.confidentiality_limit
            }
            _ => true,
        }
    }

    /// Writes everything that rustls has ready.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self {
            socket, session, ..
        } = self;
        while session.wants_write() {
            match session.write_tls(&mut Polled {
                socket,
                cx: &mut *cx,
            }) {
                Ok(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Poll::Pending,
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Reads as much ciphertext as there is room for plaintext.
    fn poll_receive(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        RECEIVED.with_borrow_mut(|received| {
            let size = buffer.remaining().clamp(SMALLEST_READ, RECEIVE);
            let mut ciphertext = ReadBuf::new(&mut received[..size]);
            ready!(Pin::new(&mut self.socket).poll_read(cx, &mut ciphertext))?;
            if ciphertext.filled().is_empty() {
                // Tell rustls that the stream ended. It reports a truncation when it is
                // asked for plaintext.
                self.session.read_tls(&mut io::empty())?;
                self.process(cx).map_err(HandshakeError::into_io)?;
                return Poll::Ready(Ok(()));
            }
            let left = self.decrypt(cx, ciphertext.filled(), buffer)?;
            self.unprocessed.extend_from_slice(left);
            Poll::Ready(Ok(()))
        })
    }
}

impl AsyncRead for Buffered {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if let Some(error) = this.failed.take() {
            return Poll::Ready(Err(error));
        }
        let before = buffer.filled().len();
        match ready!(this.poll_plaintext(cx, buffer)) {
            Err(error) if buffer.filled().len() > before => {
                this.failed = Some(error);
                Poll::Ready(Ok(()))
            }
            result => Poll::Ready(result),
        }
    }
}

impl Buffered {
    /// Reads as [`AsyncRead::poll_read`] does, but may add bytes to `buffer` and fail.
    fn poll_plaintext(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        loop {
            let enough = self.take_plaintext(buffer)?;
            if self.is_answering {
                // Also if nothing is written. If the socket is full, it wakes this task
                // later.
                let _ = self.poll_answer(cx)?;
            }
            // The buffer is full, or the stream ended, or at least something was read.
            if enough || buffer.filled().len() > before {
                return Poll::Ready(Ok(()));
            }
            if let Some(pause) = &mut self.pause {
                ready!(pause.as_mut().poll(cx));
                self.pause = None;
            }
            if self.unprocessed.is_empty() {
                ready!(self.poll_receive(cx, buffer))?;
            } else {
                let unprocessed = std::mem::take(&mut self.unprocessed);
                let left = self.decrypt(cx, &unprocessed, buffer)?;
                self.unprocessed = left.to_vec();
            }
            if self.session.wants_write() {
                // An answer of the protocol, such as to a key update. If the socket is
                // full, the next write sends it.
                let _ = self.poll_send(cx)?;
            }
        }
    }
}

impl AsyncWrite for Buffered {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if !this.may_seal(bytes.len()) {
            // Nothing may be sent any more: a `close_notify` would claim that the data is
            // complete.
            this.close_notify_sent = true;
            return Poll::Ready(Err(into_io(Violation::Exhausted)));
        }
        loop {
            let count = this.session.writer().write(bytes)?;
            this.sealed += count.div_ceil(MAX_PLAINTEXT) as u64;
            this.control.sent(count);
            // Send at once: nothing else will follow to send it with.
            let sent = this.poll_send(cx)?;
            if count > 0 || bytes.is_empty() {
                return Poll::Ready(Ok(count));
            }
            // rustls' buffer is full: wait for the socket.
            ready!(sent);
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().poll_send(cx)
    }

    /// `close_notify`, then the TCP half-close: the peer may continue to send.
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_close_notify(cx))?;
        Pin::new(&mut this.socket).poll_shutdown(cx)
    }
}

impl Buffered {
    fn poll_close_notify(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.close_notify_sent {
            self.session.send_close_notify();
            self.close_notify_sent = true;
        }
        self.poll_send(cx)
    }
}

impl net::Stream for Buffered {
    fn abort(&mut self) {
        self.socket.abort();
    }

    /// Sends `close_notify`; the FIN follows when the socket is closed.
    fn poll_finish(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().poll_close_notify(cx)
    }

    fn socket(&self) -> Option<&TcpStream> {
        Some(&self.socket)
    }
}

fn into_io(why: Violation) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}
