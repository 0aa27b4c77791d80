//! The file of a UNIX socket of the admin API or of a listener.
//!
//! The file has the configured mode. It never replaces the socket of a running process, and is
//! removed when the balancer ends.

mod lock;

use std::{
    fs, io,
    os::{
        fd::AsFd,
        unix::{
            fs::{FileTypeExt, MetadataExt, PermissionsExt},
            net::UnixListener as StdListener,
        },
    },
    path::{Path, PathBuf},
};

use leastconn_config::confinement;
use rustix::fs::Mode;
use socket2::{Domain, SockAddr, Socket, Type};
use tokio::net::UnixListener;

/// Length of the backlog, the same as for TCP listeners. While the backlog is full, a non-blocking
/// connect fails with EAGAIN.
const BACKLOG: i32 = 4096;

/// A UNIX socket cannot be created or adopted.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on the UNIX socket {}: {reason}", path.display())]
pub struct SocketError {
    path: PathBuf,
    reason: String,
}

/// The file of a UNIX socket. Dropping it removes the file, if this process owns the file and it
/// was not replaced.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    id: FileId,
    owner: Owner,
}

/// The process that removes the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Owner {
    ThisProcess,
    /// The predecessor, until this process takes over.
    Predecessor,
    /// A service manager or a successor removes the file. This process never does.
    Other,
}

/// Device and inode number.
type FileId = (u64, u64);

impl SocketFile {
    /// Listens on a new socket at `path` with this file mode.
    ///
    /// # Errors
    /// If another process listens there, if the file is not a socket, or if a system call
    /// fails.
    ///
    /// # Panics
    /// If called outside a Tokio runtime.
    pub(crate) fn listen(path: &Path, mode: u32) -> Result<(UnixListener, Self), SocketError> {
        let failed = |reason: String| SocketError {
            path: path.to_owned(),
            reason,
        };
        let _lock = lock::lock_directory_of(path);
        remove_stale_socket(path).map_err(failed)?;
        let listen = || {
            let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
            // Linux creates the file with the mode of the socket. On other systems, the mode must
            // be set afterwards. No client can connect before `listen`.
            let _ = rustix::fs::fchmod(socket.as_fd(), Mode::from_raw_mode(mode));
            socket.bind(&SockAddr::unix(path)?)?;
            fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
            let file = Self {
                path: path.to_owned(),
                id: file_id(path)?,
                owner: Owner::ThisProcess,
            };
            socket.listen(BACKLOG)?;
            socket.set_nonblocking(true)?;
            let listener = UnixListener::from_std(socket.into())?;
            io::Result::Ok((listener, file))
        };
        listen().map_err(|error| failed(with_hint(&error, path)))
    }

    /// Adopts a socket that another process has opened at `path`. If `is_balancers`, that process
    /// is the predecessor. Otherwise, it is a service manager, which removes the file itself.
    ///
    /// # Errors
    /// If the file does not exist, or a system call fails.
    ///
    /// # Panics
    /// If called outside a Tokio runtime.
    pub(crate) fn adopt(
        socket: StdListener,
        path: &Path,
        is_balancers: bool,
    ) -> Result<(UnixListener, Self), SocketError> {
        let adopt = || {
            let file = Self {
                path: path.to_owned(),
                id: file_id(path)?,
                owner: if is_balancers {
                    Owner::Predecessor
                } else {
                    Owner::Other
                },
            };
            socket.set_nonblocking(true)?;
            io::Result::Ok((UnixListener::from_std(socket)?, file))
        };
        adopt().map_err(|error| SocketError {
            path: path.to_owned(),
            reason: error.to_string(),
        })
    }

    /// Whether all users of this machine may connect.
    pub(crate) fn is_open_to_all(&self) -> bool {
        let metadata = fs::symlink_metadata(&self.path);
        metadata.is_ok_and(|metadata| metadata.permissions().mode() & 0o002 != 0)
    }

    /// Changes the mode of the file, if a balancer owns it and it still exists.
    ///
    /// # Errors
    /// If the system call fails.
    pub(crate) fn set_mode(&self, mode: u32) -> io::Result<()> {
        if !self.is_balancers() || !self.is_there() {
            return Ok(());
        }
        fs::set_permissions(&self.path, fs::Permissions::from_mode(mode))
    }

    /// Leaves the file to a successor process, which accepts from a copy of the socket.
    pub(crate) fn leave(mut self) {
        self.owner = Owner::Other;
    }

    /// Whether a balancer owns the file, so that the last process of an upgrade removes it.
    pub(crate) fn is_balancers(&self) -> bool {
        self.owner != Owner::Other
    }

    /// Takes the file over from the predecessor, which has left it.
    pub(crate) fn take_over(&mut self) {
        if self.owner == Owner::Predecessor {
            self.owner = Owner::ThisProcess;
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the file still exists and was not replaced.
    pub(crate) fn is_there(&self) -> bool {
        file_id(&self.path).is_ok_and(|now| now == self.id)
    }
}

fn file_id(path: &Path) -> io::Result<FileId> {
    let metadata = fs::symlink_metadata(path)?;
    Ok((metadata.dev(), metadata.ino()))
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        // Remove the file only if no other balancer has replaced it.
        if self.owner == Owner::ThisProcess && self.is_there() {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Removes the socket that a killed process has left behind.
fn remove_stale_socket(path: &Path) -> Result<(), String> {
    let found = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(with_hint(&error, path)),
        Ok(found) => found,
    };
    if !found.file_type().is_socket() {
        return Err(
            "the file exists and is not a socket; remove it or configure another path".to_owned(),
        );
    }
    let connected = Socket::new(Domain::UNIX, Type::STREAM, None).and_then(|socket| {
        // Do not block: a stopped process does not accept, so its backlog may be full.
        socket.set_nonblocking(true)?;
        socket.connect(&SockAddr::unix(path)?)
    });
    match connected.map_err(|error| (error.kind(), error)) {
        Ok(()) | Err((io::ErrorKind::WouldBlock, _)) => {
            Err("another process listens there (`ss -lxp` shows which)".to_owned())
        }
        Err((io::ErrorKind::ConnectionRefused, _)) => {
            tracing::info!(socket = %path.display(), "stale UNIX socket replaced");
            fs::remove_file(path).map_err(|error| with_hint(&error, path))
        }
        Err((io::ErrorKind::PermissionDenied, _)) => Err(format!(
            "a socket of another user (uid {}) exists, and this user may not check whether a process listens on it; if none does, remove it",
            found.uid()
        )),
        // Another process has just removed the file.
        Err((io::ErrorKind::NotFound, _)) => Ok(()),
        Err((_, error)) => Err(format!(
            "cannot check whether a process listens there: {error}"
        )),
    }
}

fn with_hint(error: &io::Error, path: &Path) -> String {
    let directory = path.parent().unwrap_or(Path::new("")).display();
    match error.kind() {
        io::ErrorKind::NotFound => format!(
            "there is no directory {directory}; create it, or let systemd do so: RuntimeDirectory=leastconn"
        ),
        io::ErrorKind::PermissionDenied => confinement::hint_for_socket(path, error)
            .unwrap_or_else(|| format!("this user may not create a file in {directory}")),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests;
