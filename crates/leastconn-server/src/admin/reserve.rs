//! Reserved file descriptors, so that the admin side responds even when the process has run out of
//! descriptors.
//!
//! A few spare descriptors are held open. When accept fails for lack of descriptors, one spare is
//! closed and accept is retried immediately. There are several spares, because another thread may
//! take the freed descriptor first. The reserve is refilled when an admin connection is closed.
//! (`max_connections` keeps client connections from using up all descriptors. The reserve covers
//! other causes: a lowered limit, a system-wide shortage, or simultaneous probes of many servers.)

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

use super::{accept::Accept, serve::Caller};
use crate::connection::acceptor;

/// The number of spare descriptors: enough for a scraper, an orchestrator and an operator at the
/// same time.
const SIZE: usize = 8;

/// Delay before accept is retried when the reserve is empty.
const RETRY_DELAY: Duration = Duration::from_millis(20);

/// Spare descriptors.
#[derive(Debug)]
pub(super) struct Reserve(Mutex<Vec<OwnedFd>>);

impl Reserve {
    /// # Errors
    /// If there are not enough descriptors.
    pub(super) fn new() -> io::Result<Arc<Self>> {
        let all = (0..SIZE).map(|_| open_spare()).collect::<io::Result<_>>()?;
        Ok(Arc::new(Self(Mutex::new(all))))
    }

    /// Closes one spare descriptor. Returns false if none is left.
    fn release(&self) -> bool {
        self.held().pop().is_some()
    }

    /// Reopens spare descriptors, as many as possible.
    fn refill(&self) {
        let mut held = self.held();
        while held.len() < SIZE {
            match open_spare() {
                Ok(spare) => held.push(spare),
                Err(_) => return,
            }
        }
    }

    fn held(&self) -> MutexGuard<'_, Vec<OwnedFd>> {
        self.0.lock()
    }
}

/// Opens an eventfd, which is cheap and independent of file systems.
fn open_spare() -> io::Result<OwnedFd> {
    Ok(eventfd(0, EventfdFlags::CLOEXEC)?)
}

/// A listening socket that uses the reserve.
#[derive(Debug)]
pub(super) struct Reserved<S> {
    socket: S,
    reserve: Arc<Reserve>,
}

impl<S: Accept> Reserved<S> {
    pub(super) const fn new(socket: S, reserve: Arc<Reserve>) -> Self {
        Self { socket, reserve }
    }

    /// Accepts a connection and identifies its client.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub(super) async fn accept(&mut self) -> (Held<S::Io>, Caller) {
        self.reserve.refill();
        let mut is_logged = false;
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
                    if !is_logged {
                        tracing::warn!(%error, "admin accept failed");
                        is_logged = true;
                    }
                    sleep(RETRY_DELAY).await;
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

/// A connection that refills the reserve when it is closed.
#[derive(Debug)]
pub(super) struct Held<T> {
    io: T,
    // Must be declared after `io`: fields are dropped in declaration order, and `io` must release
    // its descriptor before the reserve is refilled.
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
