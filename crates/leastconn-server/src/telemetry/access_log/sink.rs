//! Where lines are written: they are gathered, written in one go, and counted if
//! that fails.
//!
//! A pipe, a socket or a FIFO may have a reader that is slow, gone, or not there
//! yet. Neither opening nor writing waits for one longer than until somebody wants
//! the lines elsewhere; what was not taken by then is lost.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    os::{
        fd::{AsFd, BorrowedFd},
        unix::fs::{FileTypeExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::OFlags,
    io::Errno,
};

use super::OpenError;
use crate::{config::Access, files};

/// So much is written in one go.
const GATHERED: usize = 32 * 1024;

/// What a pipe takes without making the writer wait, once it says that it is ready,
/// and in one piece (`PIPE_BUF`).
const PIPE: usize = 4096;

/// How often a writer that waits looks whether it still should.
const LOOK: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 100_000_000,
};

#[derive(Debug)]
pub(super) struct Sink {
    out: Out,
    gathered: Vec<u8>,
    /// The last line that was written is incomplete.
    torn: bool,
    /// Why lines were lost, if they were when it was last written to.
    trouble: Option<io::Error>,
}

#[derive(Debug)]
enum Out {
    Off,
    Stream(File),
    File {
        path: PathBuf,
        /// `None`: a FIFO without a reader.
        file: Option<File>,
    },
}

impl Sink {
    /// Opens it. Does not wait for the reader of a FIFO.
    pub(super) fn open(access: &Access) -> Result<Self, OpenError> {
        let out = match access {
            Access::Off => Out::Off,
            // Not `io::stdout`, which gathers lines itself and keeps those that failed.
            Access::Stdout => Out::Stream(stream(io::stdout().as_fd(), "stdout")?),
            Access::Stderr => Out::Stream(stream(io::stderr().as_fd(), "stderr")?),
            Access::File(path) => Out::File {
                file: open(path)?,
                path: path.clone(),
            },
        };
        Ok(Self {
            out,
            gathered: Vec::new(),
            torn: false,
            trouble: None,
        })
    }

    pub(super) const fn is_on(&self) -> bool {
        !matches!(self.out, Out::Off)
    }

    /// Why what was gathered last could not be written, if it could not.
    pub(super) const fn trouble(&self) -> Option<&io::Error> {
        self.trouble.as_ref()
    }

    /// Opens the file of this name anew. If that fails, goes on with the one that is
    /// open.
    pub(super) fn reopen(&mut self) {
        if let Out::File { file, path } = &mut self.out {
            match open(path) {
                Ok(opened) => {
                    *file = opened;
                    self.torn = false;
                }
                Err(error) => tracing::error!(%error, "going on with the file that was open"),
            }
        }
    }

    /// Takes one line. Returns how many have been lost.
    pub(super) fn take(&mut self, line: &[u8], give_up: impl Fn() -> bool) -> u64 {
        if !self.is_on() {
            return 0;
        }
        let mut lost = 0;
        if self.gathered.len() + line.len() > GATHERED {
            lost = self.flush(give_up);
        }
        if self.gathered.is_empty() && self.torn {
            // What is left of it stays on a line of its own.
            self.gathered.push(b'\n');
        }
        self.gathered.extend_from_slice(line);
        lost
    }

    /// Writes what was gathered, unless it would have to wait when `give_up` says so.
    /// Returns how many lines have been lost.
    pub(super) fn flush(&mut self, give_up: impl Fn() -> bool) -> u64 {
        if self.gathered.is_empty() {
            return 0;
        }
        let written;
        (written, self.trouble) = self.out.write(&self.gathered, give_up);
        let rest = &self.gathered[written..];
        let mut lost = rest.iter().filter(|&&byte| byte == b'\n').count() as u64;
        if written == 0 {
            // As torn as it was; the line feed that would have ended it is no line.
            lost -= u64::from(self.torn);
        } else {
            self.torn = self.gathered[written - 1] != b'\n';
        }
        self.gathered.clear();
        lost
    }
}

impl Out {
    /// Returns how many bytes were written, and what kept the others from it.
    fn write(&mut self, bytes: &[u8], give_up: impl Fn() -> bool) -> (usize, Option<io::Error>) {
        let file = match self {
            Self::Off => return (bytes.len(), None),
            Self::Stream(file) => file,
            Self::File { file, path } => {
                // Its reader may have come.
                if file.is_none() {
                    *file = open(path).ok().flatten();
                }
                match file {
                    Some(file) => file,
                    None => return (0, Some(io::Error::other("nobody reads it"))),
                }
            }
        };
        let of_file = file.metadata().is_ok_and(|data| data.is_file());
        let piece = if of_file { bytes.len() } else { PIPE };
        let mut written = 0;
        while let Some(rest) = bytes.get(written..).filter(|rest| !rest.is_empty()) {
            if !of_file && !is_ready(file, &give_up) {
                return (written, Some(io::Error::other("its reader does not read")));
            }
            // Whole lines, as far as they fit: another process may write to the same pipe.
            let piece = &rest[..rest.len().min(piece)];
            let end = piece.iter().rposition(|&byte| byte == b'\n');
            match file.write(end.map_or(piece, |end| &piece[..=end])) {
                Ok(0) => return (written, Some(io::ErrorKind::WriteZero.into())),
                Ok(more) => written += more,
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock
                    ) => {}
                Err(error) => return (written, Some(error)),
            }
        }
        (written, None)
    }
}

/// Waits until it can be written to, or fails to be; false if that was given up.
fn is_ready(file: &File, give_up: impl Fn() -> bool) -> bool {
    loop {
        let mut wanted = [PollFd::new(file, PollFlags::OUT)];
        match poll(&mut wanted, Some(&LOOK)) {
            Ok(0) if give_up() => return false,
            Ok(0) | Err(Errno::INTR) => {}
            // Writing tells what is wrong.
            Ok(_) | Err(_) => return true,
        }
    }
}

fn stream(stream: BorrowedFd<'_>, name: &str) -> Result<File, OpenError> {
    let owned = stream.try_clone_to_owned();
    owned.map(File::from).map_err(|source| OpenError {
        path: name.into(),
        source,
    })
}

/// `None`: a FIFO that nobody reads.
fn open(path: &Path) -> Result<Option<File>, OpenError> {
    // Without it, a FIFO is opened when its reader comes. Files know no such thing.
    let at_once = i32::try_from(OFlags::NONBLOCK.bits()).unwrap_or_default();
    let mut opened = OpenOptions::new();
    opened.create(true).append(true).custom_flags(at_once);
    let opened = files::record(path, || opened.open(path));
    match opened {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.raw_os_error() == Some(Errno::NXIO.raw_os_error()) && is_fifo(path) => {
            tracing::warn!(path = %path.display(), "nobody reads the access log: lines are lost until somebody does");
            Ok(None)
        }
        Err(source) => Err(OpenError {
            path: path.to_owned(),
            source,
        }),
    }
}

fn is_fifo(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|data| data.file_type().is_fifo())
}
