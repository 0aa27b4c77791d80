//! Moves bytes between TCP connections inside the kernel with `splice(2)`, through a pipe.
//!
//! Splicing pays off only for large transfers. A direction copies until a read fills its scratch
//! buffer, then splices, and returns to copying when reads become small. A connection owns a pipe
//! only while the pipe holds bytes. Empty pipes are kept in a pool until the last connection that
//! has spliced ends. There are at most [`MAX_PIPES`] pipes; a connection that gets none copies.

use std::{
    io,
    os::fd::OwnedFd,
    task::{Context, Poll, ready},
};

use tokio::{io::Interest, net::TcpStream};

use crate::sync::Mutex;

/// Maximum number of pipes in the process. Each pipe uses two file descriptors.
pub const MAX_PIPES: usize = 32;

/// Requested size of a pipe.
pub(super) const PIPE: usize = 256 * 1024;

/// If one call splices fewer bytes than this, the direction returns to copying.
const MIN_BULK: usize = 16 * 1024;

static PIPES: Mutex<Pipes> = Mutex::new(Pipes {
    empty: Vec::new(),
    count: 0,
    users: 0,
});

/// All pipes of the process.
struct Pipes {
    empty: Vec<Pipe>,
    /// Number of pipes, whether empty or in use.
    count: usize,
    /// Number of directions that have spliced and not yet ended.
    users: usize,
}

/// Number of bytes moved through pipes. Tests use it to verify that bytes were spliced.
#[cfg(test)]
static SPLICED: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);

/// Splice state of one direction.
#[derive(Default)]
pub(super) struct Splice {
    /// Whether the last read was large.
    is_bulk: bool,
    /// The pipe, while it holds bytes that have not been written yet.
    pipe: Option<Pipe>,
    /// Whether `splice` failed permanently, for example because a sandbox forbids it.
    is_refused: bool,
    /// Whether this direction is counted in [`Pipes::users`].
    is_user: bool,
}

impl Splice {
    /// Whether the pipe holds no bytes.
    pub(super) const fn is_empty(&self) -> bool {
        self.pipe.is_none()
    }

    pub(super) const fn is_worthwhile(&self) -> bool {
        self.is_bulk
    }

    /// Records that bytes were copied. `is_bulk`: they nearly filled the scratch buffer.
    pub(super) const fn copied(&mut self, is_bulk: bool) {
        self.is_bulk = cfg!(target_os = "linux") && is_bulk && !self.is_refused;
    }

    /// Moves up to `limit` bytes from `from` into a pipe. Returns 0 at the end of the stream, and
    /// `None` if no pipe is available; the caller then copies.
    pub(super) fn poll_pull(
        &mut self,
        cx: &mut Context<'_>,
        from: &TcpStream,
        limit: usize,
    ) -> Poll<Option<io::Result<usize>>> {
        if !std::mem::replace(&mut self.is_user, true) {
            PIPES.lock().users += 1;
        }
        let (mut pipe, moved) = loop {
            // Wait before taking a pipe, because all connections share the pool of pipes.
            if let Err(error) = ready!(from.poll_read_ready(cx)) {
                return Poll::Ready(Some(Err(error)));
            }
            let Some(pipe) = Pipe::take() else {
                self.is_bulk = false;
                return Poll::Ready(None);
            };
            match from.try_io(Interest::READABLE, || splice(from, &pipe.write, limit)) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => pipe.give_back(),
                moved => break (pipe, moved),
            }
        };
        match moved {
            Err(error) if is_refusal(&error) => {
                pipe.give_back();
                (self.is_refused, self.is_bulk) = (true, false);
                return Poll::Ready(None);
            }
            Ok(0) | Err(_) => pipe.give_back(),
            Ok(count) => {
                self.is_bulk = count >= MIN_BULK;
                pipe.held = count;
                self.pipe = Some(pipe);
            }
        }
        Poll::Ready(Some(moved))
    }

    /// Moves as many bytes from the pipe to `to` as it accepts.
    pub(super) fn poll_push(
        &mut self,
        cx: &mut Context<'_>,
        to: &TcpStream,
    ) -> Poll<io::Result<usize>> {
        let Some(pipe) = &mut self.pipe else {
            return Poll::Ready(Ok(0));
        };
        loop {
            ready!(to.poll_write_ready(cx))?;
            match to.try_io(Interest::WRITABLE, || splice(&pipe.read, to, pipe.held)) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Ok(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Err(error) => return Poll::Ready(Err(error)),
                Ok(count) => {
                    #[cfg(test)]
                    SPLICED.fetch_add(count, std::sync::atomic::Ordering::Relaxed);
                    pipe.held = pipe.held.saturating_sub(count);
                    if pipe.held == 0
                        && let Some(pipe) = self.pipe.take()
                    {
                        pipe.give_back();
                    }
                    return Poll::Ready(Ok(count));
                }
            }
        }
    }
}

fn is_refusal(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::PermissionDenied | io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported
    )
}

struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
    /// Number of bytes in the pipe.
    held: usize,
}

impl Pipe {
    /// Takes an empty pipe from the pool, or creates one if the limit allows it.
    fn take() -> Option<Self> {
        let mut pipes = PIPES.lock();
        if let Some(pipe) = pipes.empty.pop() {
            return Some(pipe);
        }
        if pipes.count >= MAX_PIPES {
            return None;
        }
        let pipe = Self::new();
        pipes.count += usize::from(pipe.is_some());
        pipe
    }

    fn give_back(self) {
        debug_assert_eq!(self.held, 0);
        PIPES.lock().empty.push(self);
    }

    #[cfg(target_os = "linux")]
    fn new() -> Option<Self> {
        use rustix::pipe::{PipeFlags, fcntl_setpipe_size, pipe_with};
        // If the process is out of file descriptors, the caller copies.
        let (read, write) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).ok()?;
        // This fails if the size exceeds the kernel's limit for unprivileged users. The pipe then
        // keeps its default size.
        let _ = fcntl_setpipe_size(&write, PIPE);
        Some(Self {
            read,
            write,
            held: 0,
        })
    }

    #[cfg(not(target_os = "linux"))]
    fn new() -> Option<Self> {
        None
    }
}

impl Drop for Splice {
    fn drop(&mut self) {
        if !self.is_user {
            return;
        }
        let mut pipes = PIPES.lock();
        // A pipe that still holds bytes cannot be reused.
        pipes.count -= usize::from(self.pipe.take().is_some());
        pipes.users -= 1;
        if pipes.users == 0 {
            pipes.count -= pipes.empty.len();
            pipes.empty = Vec::new();
        }
    }
}

#[cfg(target_os = "linux")]
fn splice(
    from: impl std::os::fd::AsFd,
    to: impl std::os::fd::AsFd,
    limit: usize,
) -> io::Result<usize> {
    use rustix::pipe::SpliceFlags;
    let flags = SpliceFlags::NONBLOCK | SpliceFlags::MOVE;
    Ok(rustix::pipe::splice(from, None, to, None, limit, flags)?)
}

#[cfg(not(target_os = "linux"))]
fn splice<F, T>(_: F, _: T, _: usize) -> io::Result<usize> {
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(test)]
mod tests;
