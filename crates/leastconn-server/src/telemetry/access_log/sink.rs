//! The destination of access log lines. Lines are buffered and written together; lines that
//! cannot be written are counted.
//!
//! The reader of a pipe, socket or FIFO may be slow, gone or not started yet. Opening does not wait
//! for it. Writing waits for the reader until the caller gives up, for example because the
//! destination was changed. Lines that have not been written by then are lost.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    os::{
        fd::{AsFd, BorrowedFd},
        unix::fs::{FileTypeExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
};

use leastconn_config::{Access, confinement, files};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::OFlags,
    io::Errno,
};

/// Maximum size of a write to a file.
const BUFFER: usize = 32 * 1024;

/// Maximum size of a write to a pipe (`PIPE_BUF`): a pipe that is ready accepts it without
/// blocking, and in one piece.
const PIPE_WRITE: usize = 4096;

/// How often a write that waits for a full pipe checks whether to give up.
const POLL_INTERVAL: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 100_000_000,
};

#[derive(Debug)]
pub(super) struct Sink {
    output: Output,
    buffer: Vec<u8>,
    /// Whether the last written line is incomplete.
    is_torn: bool,
    /// Why the last write lost lines, if it did.
    last_error: Option<io::Error>,
}

/// The access log cannot be opened.
#[derive(Debug, thiserror::Error)]
#[error("cannot open the access log `{}`: {source}{}", path.display(), hint(path, source))]
pub struct OpenError {
    path: PathBuf,
    source: io::Error,
}

impl OpenError {
    pub(super) fn new(path: impl Into<PathBuf>, source: io::Error) -> Self {
        Self {
            path: path.into(),
            source,
        }
    }
}

fn hint(path: &Path, error: &io::Error) -> String {
    let hint = confinement::hint_for_appending(path, error);
    hint.map_or_else(String::new, |hint| format!("; {hint}"))
}

#[derive(Debug)]
enum Output {
    Off,
    Stream(File),
    File {
        path: PathBuf,
        /// `None` for a FIFO without a reader.
        file: Option<File>,
    },
}

impl Sink {
    /// Opens the destination. Does not wait for the reader of a FIFO.
    pub(super) fn open(access: &Access) -> Result<Self, OpenError> {
        let output = match access {
            Access::Off => Output::Off,
            // Do not use `io::stdout`, which has its own buffer and keeps lines that could not be
            // written.
            Access::Stdout => Output::Stream(stream(io::stdout().as_fd(), "stdout")?),
            Access::Stderr => Output::Stream(stream(io::stderr().as_fd(), "stderr")?),
            Access::File(path) => {
                let file = open(path)?;
                warn_without_reader(path, file.as_ref());
                let path = path.clone();
                Output::File { path, file }
            }
        };
        Ok(Self {
            output,
            buffer: Vec::new(),
            is_torn: false,
            last_error: None,
        })
    }

    pub(super) const fn is_on(&self) -> bool {
        !matches!(self.output, Output::Off)
    }

    pub(super) const fn last_error(&self) -> Option<&io::Error> {
        self.last_error.as_ref()
    }

    /// Reopens the file by its path. If that fails, keeps the open file.
    pub(super) fn reopen(&mut self) {
        if let Output::File { file, path } = &mut self.output {
            match open(path) {
                Ok(opened) => {
                    warn_without_reader(path, opened.as_ref());
                    *file = opened;
                    self.is_torn = false;
                }
                Err(error) => {
                    tracing::error!(%error, "access log not reopened, previous file kept");
                }
            }
        }
    }

    /// Buffers one line, and flushes first if the buffer is full. Returns how many lines were
    /// lost.
    pub(super) fn push(&mut self, line: &[u8], give_up: impl Fn() -> bool) -> u64 {
        if !self.is_on() {
            return 0;
        }
        let mut lost = 0;
        if self.buffer.len() + line.len() > BUFFER {
            lost = self.flush(give_up);
        }
        if self.buffer.is_empty() && self.is_torn {
            // Ends the incomplete line.
            self.buffer.push(b'\n');
        }
        self.buffer.extend_from_slice(line);
        lost
    }

    /// Writes the buffered lines; if a write would block, waits until it is possible or `give_up`
    /// returns true. Returns how many lines were lost.
    pub(super) fn flush(&mut self, give_up: impl Fn() -> bool) -> u64 {
        if self.buffer.is_empty() {
            return 0;
        }
        let written;
        (written, self.last_error) = self.output.write(&self.buffer, give_up);
        let rest = &self.buffer[written..];
        let mut lost = rest.iter().filter(|&&byte| byte == b'\n').count() as u64;
        if written == 0 {
            // The line feed that was to end the incomplete line is not a lost line.
            lost -= u64::from(self.is_torn);
        } else {
            self.is_torn = self.buffer[written - 1] != b'\n';
        }
        self.buffer.clear();
        lost
    }
}

impl Output {
    /// Returns how many bytes were written, and the error if some were not.
    fn write(&mut self, bytes: &[u8], give_up: impl Fn() -> bool) -> (usize, Option<io::Error>) {
        let file = match self {
            Self::Off => return (bytes.len(), None),
            Self::Stream(file) => file,
            Self::File { file, path } => {
                // The FIFO may have a reader by now.
                if file.is_none() {
                    *file = open(path).ok().flatten();
                }
                match file {
                    Some(file) => file,
                    None => return (0, Some(io::Error::other("the FIFO has no reader"))),
                }
            }
        };
        let is_regular = file.metadata().is_ok_and(|data| data.is_file());
        let max_write = if is_regular { bytes.len() } else { PIPE_WRITE };
        let mut written = 0;
        while let Some(rest) = bytes.get(written..).filter(|rest| !rest.is_empty()) {
            if !is_regular && !is_ready(file, &give_up) {
                return (written, Some(io::Error::other("the reader is too slow")));
            }
            // Write whole lines where they fit, because another process may write to the same pipe.
            let piece = &rest[..rest.len().min(max_write)];
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

/// Waits until the file is writable or has an error. Returns false if the caller gave up.
fn is_ready(file: &File, give_up: impl Fn() -> bool) -> bool {
    loop {
        let mut writable = [PollFd::new(file, PollFlags::OUT)];
        match poll(&mut writable, Some(&POLL_INTERVAL)) {
            Ok(0) if give_up() => return false,
            Ok(0) | Err(Errno::INTR) => {}
            // In case of an error, the write returns it.
            Ok(_) | Err(_) => return true,
        }
    }
}

fn stream(stream: BorrowedFd<'_>, name: &str) -> Result<File, OpenError> {
    let owned = stream.try_clone_to_owned();
    owned
        .map(File::from)
        .map_err(|error| OpenError::new(name, error))
}

/// Opens a file for appending. Returns `None` for a FIFO without a reader.
fn open(path: &Path) -> Result<Option<File>, OpenError> {
    // Without this flag, opening a FIFO would wait for its reader. The flag has no effect on
    // regular files.
    let nonblock = i32::try_from(OFlags::NONBLOCK.bits()).unwrap_or_default();
    let mut options = OpenOptions::new();
    options.create(true).append(true).custom_flags(nonblock);
    let opened = files::record(path, || options.open(path));
    match opened {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.raw_os_error() == Some(Errno::NXIO.raw_os_error()) && is_fifo(path) => {
            Ok(None)
        }
        Err(error) => Err(OpenError::new(path, error)),
    }
}

fn warn_without_reader(path: &Path, file: Option<&File>) {
    if file.is_none() {
        tracing::warn!(path = %path.display(), "access log FIFO has no reader, lines are lost");
    }
}

fn is_fifo(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|data| data.file_type().is_fifo())
}
