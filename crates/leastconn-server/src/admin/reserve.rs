//! File descriptors that only the admin side uses: whoever looks at a process that
//! has run out of them must get an answer.
//!
//! Some are held open for nothing. When a connection cannot be accepted for want of
//! one, one is closed and accepting is tried again at once, which finds that one
//! unless another thread was faster; hence there are several. The connection's own
//! takes its place when it is closed. (`max_connections` keeps clients from taking
//! all there are; this is for what it does not know of: a limit that was lowered
//! from outside, a system that has run out, probes of very many servers.)

use std::{
    io,
    os::fd::OwnedFd,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use parking_lot::{Mutex, MutexGuard};
use rustix::event::{EventfdFlags, eventfd};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::sleep,
};

use super::{listening::Accept, serve::Caller};
use crate::connection::acceptor;

/// More than a scraper, an orchestrator and a person at once.
const HELD: usize = 8;

/// How soon accepting is tried again when even the reserve was of no use.
const PAUSE: Duration = Duration::from_millis(20);

/// Descriptors that are held for nothing.
#[derive(Debug)]
pub(super) struct Reserve(Mutex<Vec<OwnedFd>>);

impl Reserve {
    /// A full one.
    ///
    /// # Errors
    /// If there are no descriptors.
    pub(super) fn new() -> io::Result<Arc<Self>> {
        let all = (0..HELD).map(|_| hold()).collect::<io::Result<_>>()?;
        Ok(Arc::new(Self(Mutex::new(all))))
    }

    /// Frees one, if there is one left.
    fn release(&self) -> bool {
        self.held().pop().is_some()
    }

    /// Holds as many again as it may and can.
    fn refill(&self) {
        let mut held = self.held();
        while held.len() < HELD {
            match hold() {
                Ok(spare) => held.push(spare),
                Err(_) => return,
            }
        }
    }

    fn held(&self) -> MutexGuard<'_, Vec<OwnedFd>> {
        self.0.lock()
    }
}

/// The cheapest there is, and it needs no file system.
fn hold() -> io::Result<OwnedFd> {
    Ok(eventfd(0, EventfdFlags::CLOEXEC)?)
}

/// A socket that accepts with the help of the reserve.
#[derive(Debug)]
pub(super) struct Reserved<S> {
    socket: S,
    reserve: Arc<Reserve>,
}

impl<S: Accept> Reserved<S> {
    pub(super) const fn new(socket: S, reserve: Arc<Reserve>) -> Self {
        Self { socket, reserve }
    }

    /// The next connection, and whose it is.
    ///
    /// # Cancel safety
    /// None is lost.
    pub(super) async fn accept(&mut self) -> (Held<S::Io>, Caller) {
        self.reserve.refill();
        let mut told = false;
        loop {
            match self.socket.accept().await {
                Ok((io, caller)) => {
                    let refill = Refill(Arc::clone(&self.reserve));
                    return (
                        Held {
                            io,
                            _refill: refill,
                        },
                        caller,
                    );
                }
                Err(error) if acceptor::is_connection_error(&error) => {}
                Err(_) if self.reserve.release() => {}
                Err(error) => {
                    if !told {
                        tracing::warn!(%error, "the admin side cannot accept connections");
                        told = true;
                    }
                    sleep(PAUSE).await;
                    self.reserve.refill();
                }
            }
        }
    }
}

/// Refills the reserve when dropped.
#[derive(Debug)]
struct Refill(Arc<Reserve>);

impl Drop for Refill {
    fn drop(&mut self) {
        self.0.refill();
    }
}

/// A connection whose descriptor goes back to the reserve.
#[derive(Debug)]
pub(super) struct Held<T> {
    io: T,
    // After `io`, and in the same order dropped.
    _refill: Refill,
}

impl<T: AsyncRead + Unpin> AsyncRead for Held<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Held<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}
