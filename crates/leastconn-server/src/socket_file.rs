//! A UNIX socket's file, of the admin side or of a listener: it has the mode that was asked
//! for, takes no living balancer's place, and is removed with the balancer.
//!
//! Finding out that nobody listens at a file, removing it and listening there are three
//! steps. Two balancers that start at once would both find a file that was left behind,
//! and the later one would remove the socket that the earlier one has just made. So they
//! take turns, by a lock on the directory: it is there already, leaves nothing behind,
//! and is given back by the system whatever becomes of who holds it.

use std::{
    fs, io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::{
            fs::{FileTypeExt, MetadataExt, PermissionsExt},
            net::UnixListener as StdListener,
        },
    },
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use rustix::{
    fs::{FlockOperation, Mode, OFlags, flock, open},
    io::Errno,
};
use socket2::{Domain, SockAddr, Socket, Type};
use tokio::net::UnixListener;

use crate::confinement;

/// As for TCP listeners: a non-blocking connect fails with EAGAIN while the backlog is full.
const BACKLOG: i32 = 4096;

/// A socket cannot be made.
#[derive(Debug, thiserror::Error)]
#[error("the UNIX socket {} cannot be listened at: {trouble}", path.display())]
pub struct SocketError {
    path: PathBuf,
    trouble: String,
}

/// How often a lock is tried for that somebody else holds, and how long after. It is
/// held for less than a millisecond, unless for another purpose.
const TRIES: usize = 100;
const PAUSE: Duration = Duration::from_millis(10);

/// A socket's file. Removed when this is dropped, if it is ours and still the same.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    id: FileId,
    whose: Whose,
}

/// Who removes a socket's file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Whose {
    /// This process does.
    Ours,
    /// The balancer whose place this one is to take, as long as it has not.
    Earlier,
    /// Whoever made it, or a balancer after this one.
    Others,
}

/// Its device and its number there.
type FileId = (u64, u64);

impl SocketFile {
    /// Listens at `path`, whose file gets this mode.
    ///
    /// # Errors
    /// If another process listens there, if something else than a socket is there,
    /// or if the operating system refuses.
    ///
    /// # Panics
    /// Outside a Tokio runtime.
    pub(crate) fn listen(path: &Path, mode: u32) -> Result<(UnixListener, Self), SocketError> {
        let failed = |trouble: String| SocketError {
            path: path.to_owned(),
            trouble,
        };
        let _turn = turn(path);
        make_way(path).map_err(failed)?;
        let listen = || {
            let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
            // Before there is a file: Linux makes it with the mode of the socket. And
            // after, for others: nobody can connect before it listens.
            let _ = rustix::fs::fchmod(socket.as_fd(), Mode::from_raw_mode(mode));
            socket.bind(&SockAddr::unix(path)?)?;
            fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
            let file = Self {
                path: path.to_owned(),
                id: id_of(path)?,
                whose: Whose::Ours,
            };
            socket.listen(BACKLOG)?;
            socket.set_nonblocking(true)?;
            let listener = UnixListener::from_std(socket.into())?;
            io::Result::Ok((listener, file))
        };
        listen().map_err(|error| failed(with_hint(&error, path)))
    }

    /// Has the file of a socket that another process opened at `path`: a balancer whose
    /// place this one is to take (`is_balancers`), or one that removes it by itself.
    ///
    /// # Errors
    /// If the file is gone, or the operating system refuses.
    ///
    /// # Panics
    /// Outside a Tokio runtime.
    pub(crate) fn adopt(
        socket: StdListener,
        path: &Path,
        is_balancers: bool,
    ) -> Result<(UnixListener, Self), SocketError> {
        let adopt = || {
            let file = Self {
                path: path.to_owned(),
                id: id_of(path)?,
                whose: if is_balancers {
                    Whose::Earlier
                } else {
                    Whose::Others
                },
            };
            socket.set_nonblocking(true)?;
            io::Result::Ok((UnixListener::from_std(socket)?, file))
        };
        adopt().map_err(|error| SocketError {
            path: path.to_owned(),
            trouble: error.to_string(),
        })
    }

    /// Whether every user of this machine may connect.
    pub(crate) fn is_open_to_all(&self) -> bool {
        let metadata = fs::symlink_metadata(&self.path);
        metadata.is_ok_and(|metadata| metadata.permissions().mode() & 0o002 != 0)
    }

    /// Changes the file's mode, if the file is the balancer's and still there.
    ///
    /// # Errors
    /// If the operating system refuses.
    pub(crate) fn set_mode(&self, mode: u32) -> io::Result<()> {
        if !self.is_balancers() || !self.is_there() {
            return Ok(());
        }
        fs::set_permissions(&self.path, fs::Permissions::from_mode(mode))
    }

    /// Leaves the file to another process, which has the socket.
    pub(crate) fn leave(mut self) {
        self.whose = Whose::Others;
    }

    /// Whether it is a balancer's, to be removed when the last one ends.
    pub(crate) fn is_balancers(&self) -> bool {
        self.whose != Whose::Others
    }

    /// The balancer before this one has left it.
    pub(crate) fn take_over(&mut self) {
        if self.whose == Whose::Earlier {
            self.whose = Whose::Ours;
        }
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether nobody has removed or replaced it.
    pub(crate) fn is_there(&self) -> bool {
        id_of(&self.path).is_ok_and(|now| now == self.id)
    }
}

fn id_of(path: &Path) -> io::Result<FileId> {
    let metadata = fs::symlink_metadata(path)?;
    Ok((metadata.dev(), metadata.ino()))
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        // Another balancer may have taken the place since.
        if self.whose == Whose::Ours && self.is_there() {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Removes the socket that a process has left behind when it died.
fn make_way(path: &Path) -> Result<(), String> {
    let found = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(with_hint(&error, path)),
        Ok(found) => found,
    };
    if !found.file_type().is_socket() {
        return Err("there is something else than a socket, which is left as it is; remove it or name another path".to_owned());
    }
    let asked = Socket::new(Domain::UNIX, Type::STREAM, None).and_then(|socket| {
        // Whoever listens may be stopped, with a full queue.
        socket.set_nonblocking(true)?;
        socket.connect(&SockAddr::unix(path)?)
    });
    match asked.map_err(|error| (error.kind(), error)) {
        Ok(()) | Err((io::ErrorKind::WouldBlock, _)) => {
            Err("another process listens there (`ss -lxp` shows which)".to_owned())
        }
        Err((io::ErrorKind::ConnectionRefused, _)) => {
            tracing::info!(socket = %path.display(), "a socket that nobody listens at is replaced");
            fs::remove_file(path).map_err(|error| with_hint(&error, path))
        }
        Err((io::ErrorKind::PermissionDenied, _)) => Err(format!(
            "there is a socket of another user (uid {}), of which this one cannot tell whether anybody listens at it; if not, remove it",
            found.uid()
        )),
        // It went just now.
        Err((io::ErrorKind::NotFound, _)) => Ok(()),
        Err((_, error)) => Err(format!("what is there cannot be told: {error}")),
    }
}

/// Waits until no other balancer looks or makes a socket in the same directory, and
/// keeps all from it while what this returns is there. None where there is no lock to
/// be had: what is in its way must not be in a start's way too.
fn turn(path: &Path) -> Option<OwnedFd> {
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let opened = match open(directory, flags, Mode::empty()) {
        Ok(opened) => opened,
        Err(error) => {
            // What is wrong with it will be said by whoever makes the socket.
            tracing::debug!(%error, directory = %directory.display(), "not locked");
            return None;
        }
    };
    for _ in 0..TRIES {
        match flock(&opened, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Some(opened),
            Err(Errno::WOULDBLOCK) => wait(),
            Err(error) => {
                tracing::debug!(%error, directory = %directory.display(), "not locked");
                return None;
            }
        }
    }
    tracing::warn!(directory = %directory.display(), "another process holds a lock on the directory of a UNIX socket, which is made all the same");
    None
}

#[expect(
    clippy::disallowed_methods,
    reason = "a lock tells nobody that it is free, and waiting for it in the kernel may be for ever"
)]
fn wait() {
    thread::sleep(PAUSE);
}

fn with_hint(error: &io::Error, path: &Path) -> String {
    let directory = path.parent().unwrap_or(Path::new("")).display();
    match error.kind() {
        io::ErrorKind::NotFound => format!(
            "there is no directory {directory}; make it, or let systemd: RuntimeDirectory=leastconn"
        ),
        io::ErrorKind::PermissionDenied => confinement::hint_for_socket(path, error)
            .unwrap_or_else(|| format!("this user may not make a file in {directory}")),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::{os::unix::net::UnixStream, sync::Barrier};

    use super::*;

    #[tokio::test]
    async fn only_a_dead_process_s_socket_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lb.sock");
        let living = StdListener::bind(&path).unwrap();
        let error = SocketFile::listen(&path, 0o600).unwrap_err().to_string();
        assert!(error.contains("another process listens there"), "{error}");
        assert!(path.exists());
        drop(living);
        let (listener, file) = SocketFile::listen(&path, 0o600).unwrap();
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        UnixStream::connect(&path).unwrap();
        drop((listener, file));
        assert!(!path.exists());

        fs::write(&path, "precious").unwrap();
        let error = SocketFile::listen(&path, 0o600).unwrap_err().to_string();
        assert!(error.contains("something else than a socket"), "{error}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
        fs::remove_file(&path).unwrap();
        let target = dir.path().join("target");
        let _listener = StdListener::bind(&target).unwrap();
        std::os::unix::fs::symlink(&target, &path).unwrap();
        assert!(SocketFile::listen(&path, 0o600).is_err());
        assert!(target.exists() && path.is_symlink());
        let nowhere = dir.path().join("none/lb.sock");
        let error = SocketFile::listen(&nowhere, 0o600).unwrap_err().to_string();
        assert!(error.contains("there is no directory"), "{error}");
    }

    #[tokio::test]
    async fn another_s_socket_is_not_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lb.sock");
        let (_listener, file) = SocketFile::listen(&path, 0o600).unwrap();
        // Kept beside, so that its number is not given to the next one.
        fs::rename(&path, dir.path().join("old")).unwrap();
        let _other = StdListener::bind(&path).unwrap();
        drop(file);
        assert!(path.exists());
    }
    #[tokio::test]
    async fn a_process_that_does_not_get_to_it_listens_all_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lb.sock");
        let stopped = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
        stopped.bind(&SockAddr::unix(&path).unwrap()).unwrap();
        stopped.listen(0).unwrap();
        // Its queue is full: whoever else connects would wait for it to go on.
        let _waiting = UnixStream::connect(&path).unwrap();
        let error = SocketFile::listen(&path, 0o600).unwrap_err().to_string();
        assert!(error.contains("another process listens there"), "{error}");
    }

    #[test]
    fn of_many_that_find_a_dead_socket_one_gets_its_place() {
        const MANY: usize = 8;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        for _ in 0..50 {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("lb.sock");
            drop(StdListener::bind(&path).unwrap());
            let barrier = Barrier::new(MANY);
            let listen = || {
                let _enter = runtime.enter();
                barrier.wait();
                SocketFile::listen(&path, 0o600)
            };
            let done: Vec<_> = thread::scope(|scope| {
                let all: Vec<_> = (0..MANY).map(|_| scope.spawn(listen)).collect();
                let all = all.into_iter();
                all.map(|one| one.join().unwrap()).collect()
            });
            let (got, others): (Vec<_>, Vec<_>) = done.into_iter().partition(Result::is_ok);
            assert_eq!(got.len(), 1);
            for other in others {
                let error = other.unwrap_err().to_string();
                assert!(error.contains("another process listens there"), "{error}");
            }
            // It is the one who says so.
            let (listener, file) = got.into_iter().next().unwrap().unwrap();
            assert!(file.is_there());
            let _client = UnixStream::connect(&path).unwrap();
            let listener = listener.into_std().unwrap();
            listener.accept().unwrap();
            drop(file);
            assert_eq!(fs::read_dir(&dir).unwrap().count(), 0, "litter");
        }
    }

    #[tokio::test]
    async fn a_lock_that_is_held_for_something_else_is_not_waited_for_long() {
        let dir = tempfile::tempdir().unwrap();
        let held = fs::File::open(&dir).unwrap();
        held.lock_shared().unwrap();
        let (_listener, file) = SocketFile::listen(&dir.path().join("lb.sock"), 0o600).unwrap();
        assert!(file.is_there());
    }

    #[tokio::test]
    async fn a_service_manager_s_socket_is_left_to_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lb.sock");
        let passed = StdListener::bind(&path).unwrap();
        drop(SocketFile::adopt(passed.try_clone().unwrap(), &path, false).unwrap());
        assert!(path.exists());
        // Nor is a balancer's removed by one that never took its place.
        drop(SocketFile::adopt(passed.try_clone().unwrap(), &path, true).unwrap());
        assert!(path.exists());
        let (socket, mut file) = SocketFile::adopt(passed, &path, true).unwrap();
        file.take_over();
        drop((socket, file));
        assert!(!path.exists());
    }
}
