//! A socket in memory, which reads and writes as much at once as it is told to.

use std::{
    cell::RefCell,
    collections::VecDeque,
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, Waker},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What is on its way, and how much of it passes.
#[derive(Debug, Default)]
pub(super) struct Wire {
    /// To our side, and not yet read by it.
    pub(super) inbound: VecDeque<u8>,
    /// Bytes of them that may still be read before reading waits.
    pub(super) readable: usize,
    /// At most so many at once, if that is not 0.
    pub(super) piece: usize,
    /// Nothing comes after what is inbound.
    pub(super) ended: bool,
    /// From our side, and not yet taken by the other.
    pub(super) outbound: Vec<u8>,
    /// Bytes that may still be written before writing waits.
    pub(super) writable: usize,
    /// Our side has ended its direction.
    pub(super) shut: bool,
}

/// Our end of it. The test keeps another handle.
#[derive(Clone, Debug, Default)]
pub(super) struct Socket(pub(super) Rc<RefCell<Wire>>);

/// Polls are repeated by the test, so nobody has to be woken.
pub(super) fn context() -> Context<'static> {
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
        assert!(!wire.shut, "written behind the end");
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
