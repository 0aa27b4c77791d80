//! An in-memory socket that reads and writes as many bytes as the test allows.

use std::{
    cell::RefCell,
    collections::VecDeque,
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, Waker},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The bytes in transit, and how many of them may be read and written.
#[derive(Debug, Default)]
pub(crate) struct Wire {
    /// Bytes from the peer that our side has not read yet.
    pub(crate) inbound: VecDeque<u8>,
    /// Bytes of `inbound` that may be read before reading blocks.
    pub(crate) readable: usize,
    /// Maximum number of bytes per read; 0 means no limit.
    pub(crate) piece: usize,
    /// Whether the peer has sent FIN after `inbound`.
    pub(crate) ended: bool,
    /// Bytes from our side that the peer has not read yet.
    pub(crate) outbound: Vec<u8>,
    /// Number of bytes that may be written before writing blocks.
    pub(crate) writable: usize,
    /// Whether our side has sent FIN.
    pub(crate) shut: bool,
}

/// Our end of the connection. The test keeps another handle to the wire.
#[derive(Clone, Debug, Default)]
pub(crate) struct Socket(pub(crate) Rc<RefCell<Wire>>);

/// A context without a waker: the test polls repeatedly.
pub(crate) fn context() -> Context<'static> {
    Context::from_waker(Waker::noop())
}

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut wire = self.0.borrow_mut();
        let most = match wire.piece {
            0 => usize::MAX,
            piece => piece,
        };
        let there = wire.inbound.len().min(wire.readable).min(most);
        let count = there.min(buffer.remaining());
        if count == 0 && !(wire.inbound.is_empty() && wire.ended) {
            return Poll::Pending;
        }
        wire.readable -= count;
        let (front, behind) = wire.inbound.as_slices();
        let first = count.min(front.len());
        buffer.put_slice(&front[..first]);
        buffer.put_slice(&behind[..count - first]);
        wire.inbound.drain(..count);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let mut wire = self.0.borrow_mut();
        assert!(!wire.shut, "bytes were written after FIN");
        let count = bytes.len().min(wire.writable);
        if count == 0 && !bytes.is_empty() {
            return Poll::Pending;
        }
        wire.writable -= count;
        wire.outbound.extend_from_slice(&bytes[..count]);
        Poll::Ready(Ok(count))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.borrow_mut().shut = true;
        Poll::Ready(Ok(()))
    }
}
