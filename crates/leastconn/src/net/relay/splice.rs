//! Moving bytes from one TCP connection to another within the system, through a
//! pipe: they are never copied to us and back.
//!
//! Worth its while for much at once only. A direction copies until it has filled
//! its scratch space, then splices, and copies again once little comes. A pipe
//! belongs to a connection only while there are bytes in it; empty ones wait for the
//! next that needs one, and are closed with the last connection that did. There are
//! [`MAX_PIPES`] at most, and whoever gets none copies.

use std::{
    io,
    os::fd::OwnedFd,
    sync::{Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
};

use tokio::{io::Interest, net::TcpStream};

/// Pipes in the process, of two descriptors each.
pub const MAX_PIPES: usize = 32;

/// Bytes moved into a pipe at once, and its size where the system allows it.
pub(super) const PIPE: usize = 256 * 1024;

/// A direction that moves less at once copies from then on.
const WORTH_WHILE: usize = 16 * 1024;

static PIPES: Mutex<Pipes> = Mutex::new(Pipes {
    empty: Vec::new(),
    count: 0,
    users: 0,
});

/// All pipes of the process.
struct Pipes {
    empty: Vec<Pipe>,
    /// Empty ones, and those with bytes.
    count: usize,
    /// Directions that have spliced and are not over.
    users: usize,
}

fn pipes() -> MutexGuard<'static, Pipes> {
    PIPES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Bytes that went through pipes: proof that tests do not copy.
#[cfg(test)]
static SPLICED: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);

/// One direction's bytes in the system.
#[derive(Default)]
pub(super) struct Splice {
    /// Bytes come in large amounts.
    much: bool,
    /// With bytes in it.
    pipe: Option<Pipe>,
    /// The system does not splice here: a sandbox may forbid it.
    is_refused: bool,
    /// It has spliced, and is one of the pipes' users.
    is_user: bool,
}

impl Splice {
    /// No bytes are on their way.
    pub(super) const fn is_empty(&self) -> bool {
        self.pipe.is_none()
    }

    pub(super) const fn is_worth_while(&self) -> bool {
        self.much
    }

    /// Bytes were copied: all that was to be had, or as many as there is room for.
    pub(super) const fn copied(&mut self, much: bool) {
        self.much = cfg!(target_os = "linux") && much && !self.is_refused;
    }

    /// Moves up to `most` bytes that have come in `from` into a pipe; zero bytes are its
    /// end.
    ///
    /// Without a pipe nothing is moved, and splicing is off until more comes.
    pub(super) fn poll_pull(
        &mut self,
        cx: &mut Context<'_>,
        from: &TcpStream,
        most: usize,
    ) -> Poll<Option<io::Result<usize>>> {
        if !std::mem::replace(&mut self.is_user, true) {
            pipes().users += 1;
        }
        let Some(mut pipe) = Pipe::take() else {
            self.much = false;
            return Poll::Ready(None);
        };
        let moved = loop {
            match from.poll_read_ready(cx) {
                Poll::Pending => {
                    pipe.give_back();
                    return Poll::Pending;
                }
                Poll::Ready(Err(error)) => break Err(error),
                Poll::Ready(Ok(())) => {}
            }
            match from.try_io(Interest::READABLE, || splice(from, &pipe.write, most)) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                moved => break moved,
            }
        };
        match moved {
            Err(error) if is_refusal(&error) => {
                pipe.give_back();
                (self.is_refused, self.much) = (true, false);
                return Poll::Ready(None);
            }
            Ok(0) | Err(_) => pipe.give_back(),
            Ok(count) => {
                self.much = count >= WORTH_WHILE;
                pipe.held = count;
                self.pipe = Some(pipe);
            }
        }
        Poll::Ready(Some(moved))
    }

    /// Moves what is in the pipe on to `to`, as much as it takes now.
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
    /// Bytes in it.
    held: usize,
}

impl Pipe {
    /// An empty one, if there may be one more.
    fn take() -> Option<Self> {
        let mut pipes = pipes();
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
        pipes().empty.push(self);
    }

    #[cfg(target_os = "linux")]
    fn new() -> Option<Self> {
        use rustix::pipe::{PipeFlags, fcntl_setpipe_size, pipe_with};
        // Out of descriptors: copying does without.
        let (read, write) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).ok()?;
        // Beyond what an unprivileged user may have it stays as small as it is.
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
        let mut pipes = pipes();
        // What is left in it is nobody's any more: it cannot be used again.
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
    most: usize,
) -> io::Result<usize> {
    use rustix::pipe::SpliceFlags;
    let flags = SpliceFlags::NONBLOCK | SpliceFlags::MOVE;
    Ok(rustix::pipe::splice(from, None, to, None, most, flags)?)
}

#[cfg(not(target_os = "linux"))]
fn splice<F, T>(_: F, _: T, _: usize) -> io::Result<usize> {
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(test)]
mod tests;
