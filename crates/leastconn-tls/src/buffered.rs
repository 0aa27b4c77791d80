//! A TLS stream that uses rustls' record layer: rustls implements the protocol, and this module
//! reads and writes the TCP socket.

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

/// Maximum bytes of plaintext that rustls buffers while the socket accepts no data. Writes
/// wait while this buffer is full.
const SEND_BUFFER: usize = 64 * 1024;

/// Maximum bytes of ciphertext per read. rustls itself would read 4 KiB per system call, and
/// a full record would take four calls.
const RECEIVE: usize = 64 * 1024;

/// Minimum bytes of ciphertext per read, even if the reader's buffer is smaller. A read then
/// usually contains the end of a record and the beginning of the next record.
const SMALLEST_READ: usize = 4 * 1024;

/// Number of control records in a row after which rustls' key update counter is reset. Without the
/// reset, rustls would refuse the 33rd key update. [`ControlLimit`] limits the rate of key updates
/// instead.
const RESET_AFTER: u32 = 32;

thread_local! {
    /// The receive buffer of a worker thread. It is empty between polls.
    static RECEIVED: RefCell<Box<[u8]>> = RefCell::new(vec![0; RECEIVE].into());
}

/// A socket that reports each byte it reads to the [`Boundary`].
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

/// The client side or the server side of a TLS connection: see [`super::TlsStream`] and
/// [`super::client`].
pub(super) struct Buffered {
    socket: TcpStream,
    session: Box<Connection>,
    /// Received ciphertext that has not been passed to rustls yet, because the reader's buffer was
    /// full or because of `pause`. Almost always empty.
    unprocessed: Vec<u8>,
    /// Record boundaries in the bytes that were passed to rustls.
    boundary: Boundary,
    /// An error that occurred in a read that had already decrypted plaintext. That read returned
    /// the plaintext, and the next read returns this error.
    failed: Option<io::Error>,
    control: ControlLimit,
    /// Number of control records since the last record with data.
    control_in_a_row: u32,
    /// Whether rustls may hold an unsent answer to a control record.
    is_answering: bool,
    /// While this timer runs, no record is passed to rustls, because the peer sent too many
    /// records without data.
    pause: Option<Pin<Box<Sleep>>>,
    /// Number of records with data that were sealed for sending.
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

    /// Advances the record boundaries over `bytes`, which rustls has already processed.
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

    /// Drops the TLS state and returns the socket, to be closed.
    pub(super) fn into_socket(self) -> TcpStream {
        self.socket
    }

    /// Completes the handshake. Each flight is processed in a time slice of `permit`.
    /// `early` holds the bytes that were already received. When the handshake is complete,
    /// the new sessions in `sessions` become resumable. Returns which side sent the last
    /// flight.
    pub(super) async fn handshake(
        &mut self,
        mut early: &[u8],
        permit: &impl Permit,
        sessions: Option<&ConnectionSessions>,
    ) -> Result<LastFlight, HandshakeError> {
        loop {
            if let Some(sessions) = sessions.filter(|_| !self.session.is_handshaking()) {
                // Make the sessions resumable before the last flight is sent: a client that has
                // received that flight may resume immediately.
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
                // If these bytes are not TLS, rustls refuses them immediately.
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

    /// Reads into rustls' buffer, not into the worker's buffer: data that follows the handshake
    /// must stay in the socket or in rustls.
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

    /// Lets rustls process the ciphertext that was passed to it.
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
    /// If the stream ended without `close_notify`. rustls reports this error on every call,
    /// and so does this function: it may add bytes to `buffer` and then fail.
    fn take_plaintext(&mut self, buffer: &mut ReadBuf<'_>) -> io::Result<bool> {
        while buffer.remaining() > 0 {
            match self.session.reader().read(buffer.initialize_unfilled()) {
                // The peer sent `close_notify`.
                Ok(0) => return Ok(true),
                Ok(count) => buffer.advance(count),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    /// Passes ciphertext to rustls, record by record, and moves the plaintext into `buffer`.
    /// Returns the unprocessed ciphertext if `buffer` is full or a pause has begun.
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
                        // Each call of `read_tls` takes at least one byte.
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

    /// Passes a complete record header to rustls. Ends the connection if the header is
    /// invalid.
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

    /// Counts a control record. Pauses or ends the connection if the peer has sent too many.
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

    /// Ends the connection because of the violation `why`. Sends the alert if the socket accepts it
    /// now.
    fn refuse(&mut self, cx: &mut Context<'_>, why: Violation) -> io::Error {
        if !self.boundary.is_within_given_header() {
            let _ = self.request(Request::for_violation(why));
            let _ = self.poll_send(cx);
        }
        io::Error::from(why)
    }

    /// Converts rustls' error for a refused record into an I/O error.
    fn explain(&self, error: HandshakeError) -> io::Error {
        match error {
            HandshakeError::Tls(error) if error == suites::UNEXPECTED => {
                let too_many = self.control_in_a_row >= u32::from(EMPTY_IN_A_ROW);
                io::Error::from(if too_many {
                    Violation::TooManyControlRecords
                } else {
                    Violation::Unexpected
                })
            }
            other => other.into_io(),
        }
    }

    /// Sends answers to control records. rustls holds them back until data is written.
    fn poll_answer(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // First finish sending the previous answer. One new answer covers all requests that
        // arrived in the meantime.
        ready!(self.poll_send(cx))?;
        if !self.close_notify_sent {
            let _ = self.session.writer().write(&[])?;
            ready!(self.poll_send(cx))?;
        }
        self.is_answering = false;
        Poll::Ready(Ok(()))
    }

    /// Whether `bytes` more bytes may be sealed. At its key limit, rustls ends a TLS 1.2
    /// connection as if all data had been sent.
    fn may_seal(&self, bytes: usize) -> bool {
        /// Reserve for records without data: Finished, alerts and `close_notify`.
        const OTHERS: u64 = 16;
        match self.session.negotiated_cipher_suite() {
            Some(SupportedCipherSuite::Tls12(suite)) => {
                let records = bytes.min(SEND_BUFFER).div_ceil(MAX_PLAINTEXT) as u64;
                self.sealed + records + OTHERS <= suite.common.confidentiality_limit
            }
            _ => true,
        }
    }

    /// Writes all ciphertext that rustls has ready to the socket.
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

    /// Reads about as many bytes of ciphertext as `buffer` has room for, and decrypts them.
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
                // Report the end of the stream to rustls. If `close_notify` is missing, the
                // next read of plaintext returns a truncation error.
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
    /// Like [`AsyncRead::poll_read`], but may both add bytes to `buffer` and return an
    /// error.
    fn poll_plaintext(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        loop {
            let enough = self.take_plaintext(buffer)?;
            if self.is_answering {
                // Send answers even if the caller writes nothing. If the socket is full, it
                // wakes this task later.
                let _ = self.poll_answer(cx)?;
            }
            // Stop if the buffer is full, the stream has ended or something was read.
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
                // rustls has an answer to send, such as to a key update. If the socket is
                // full, the next write sends the answer.
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
            // Send nothing more, not even `close_notify`: it would claim that the data is
            // complete.
            this.close_notify_sent = true;
            return Poll::Ready(Err(io::Error::from(Violation::Exhausted)));
        }
        loop {
            let count = this.session.writer().write(bytes)?;
            this.sealed += count.div_ceil(MAX_PLAINTEXT) as u64;
            this.control.sent(count);
            // Send immediately: there may be no later write to send this data.
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

    /// Sends `close_notify`, then the FIN. The peer may continue to send.
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

    /// Sends `close_notify`. The FIN follows when the socket is closed.
    fn poll_finish(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().poll_close_notify(cx)
    }

    fn socket(&self) -> Option<&TcpStream> {
        Some(&self.socket)
    }
}
