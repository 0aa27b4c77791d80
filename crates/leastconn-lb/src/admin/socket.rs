//! The admin side's Unix socket: a file that only its owner may use, that takes no
//! living balancer's place, and that goes when the balancer does.

use std::{
    fs, io,
    os::{
        fd::AsFd,
        unix::{
            fs::{FileTypeExt, MetadataExt, PermissionsExt},
            net::{UnixListener as StdListener, UnixStream},
        },
    },
    path::{Path, PathBuf},
};

use rustix::fs::Mode;
use socket2::{Domain, SockAddr, Socket, Type};
use tokio::net::UnixListener;

use crate::confinement;

/// A program asks and waits; more than a few at once there are not.
const BACKLOG: i32 = 128;

/// A socket cannot be made.
#[derive(Debug, thiserror::Error)]
#[error("the admin socket {} cannot be listened at: {trouble}", path.display())]
pub struct SocketError {
    path: PathBuf,
    trouble: String,
}

/// A socket's file. Removed when this is dropped, if it is still the same.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    id: FileId,
}

/// Its device and its number there.
type FileId = (u64, u64);

impl SocketFile {
    /// Listens at `path`, and has its file.
    ///
    /// # Errors
    /// If another process listens there, if something else than a socket is there,
    /// or if the operating system refuses.
    ///
    /// # Panics
    /// Outside a Tokio runtime.
    pub(super) fn listen(path: &Path) -> Result<(UnixListener, Self), SocketError> {
        let failed = |trouble: String| SocketError {
            path: path.to_owned(),
            trouble,
        };
        make_way(path).map_err(failed)?;
        let listen = || {
            let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
            // Before there is a file: Linux makes it with the mode of the socket. And
            // after, for others: nobody can connect before it listens.
            let owner = Mode::RUSR | Mode::WUSR;
            let _ = rustix::fs::fchmod(socket.as_fd(), owner);
            socket.bind(&SockAddr::unix(path)?)?;
            fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
            let file = Self {
                path: path.to_owned(),
                id: id_of(path)?,
            };
            socket.listen(BACKLOG)?;
            socket.set_nonblocking(true)?;
            let listener = UnixListener::from_std(socket.into())?;
            io::Result::Ok((listener, file))
        };
        listen().map_err(|error| failed(with_hint(&error, path)))
    }

    /// Has the file of a socket that another process opened at `path`.
    ///
    /// # Errors
    /// If the file is gone, or the operating system refuses.
    ///
    /// # Panics
    /// Outside a Tokio runtime.
    pub(super) fn adopt(
        socket: StdListener,
        path: &Path,
    ) -> Result<(UnixListener, Self), SocketError> {
        let adopt = || {
            let file = Self {
                path: path.to_owned(),
                id: id_of(path)?,
            };
            socket.set_nonblocking(true)?;
            io::Result::Ok((UnixListener::from_std(socket)?, file))
        };
        adopt().map_err(|error| SocketError {
            path: path.to_owned(),
            trouble: error.to_string(),
        })
    }

    /// Leaves the file to another process, which has the socket.
    pub(super) fn leave(mut self) {
        // That of no file: nothing is removed.
        self.id = (0, 0);
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether nobody has removed or replaced it.
    pub(super) fn is_there(&self) -> bool {
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
        if self.is_there() {
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
    match UnixStream::connect(path) {
        Ok(_) => Err("another process listens there (`ss -lxp` shows which)".to_owned()),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            tracing::info!(socket = %path.display(), "a socket that nobody listens at is replaced");
            fs::remove_file(path).map_err(|error| with_hint(&error, path))
        }
        Err(error) => Err(format!("what is there cannot be told: {error}")),
    }
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
    use super::*;

    #[tokio::test]
    async fn only_a_dead_process_s_socket_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lb.sock");
        let living = StdListener::bind(&path).unwrap();
        let error = SocketFile::listen(&path).unwrap_err().to_string();
        assert!(error.contains("another process listens there"), "{error}");
        assert!(path.exists());
        drop(living);
        let (listener, file) = SocketFile::listen(&path).unwrap();
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        UnixStream::connect(&path).unwrap();
        drop((listener, file));
        assert!(!path.exists());

        fs::write(&path, "precious").unwrap();
        let error = SocketFile::listen(&path).unwrap_err().to_string();
        assert!(error.contains("something else than a socket"), "{error}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
        fs::remove_file(&path).unwrap();
        let target = dir.path().join("target");
        let _listener = StdListener::bind(&target).unwrap();
        std::os::unix::fs::symlink(&target, &path).unwrap();
        assert!(SocketFile::listen(&path).is_err());
        assert!(target.exists() && path.is_symlink());
        let nowhere = dir.path().join("none/lb.sock");
        let error = SocketFile::listen(&nowhere).unwrap_err().to_string();
        assert!(error.contains("there is no directory"), "{error}");
    }

    #[tokio::test]
    async fn another_s_socket_is_not_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lb.sock");
        let (_listener, file) = SocketFile::listen(&path).unwrap();
        // Kept beside, so that its number is not given to the next one.
        fs::rename(&path, dir.path().join("old")).unwrap();
        let _other = StdListener::bind(&path).unwrap();
        drop(file);
        assert!(path.exists());
    }
}
