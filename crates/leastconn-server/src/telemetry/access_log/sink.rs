//! The destination of access log lines. Lines that cannot be written are counted.
//!
//! The reader of a pipe, socket or FIFO may be slow, gone or not started yet. Opening does not wait
//! for it. Writing waits for the reader until the caller gives up, for example because the
//! destination was changed. Lines that have not been written by then are lost.

use std::{
    fs::{File, Metadata, OpenOptions},
    io::{self, Write},
    os::{
        fd::{AsFd, BorrowedFd},
        unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
};

use leastconn_config::{Access, confinement, files};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::OFlags,
    io::Errno,
};

use super::MAX_LINE;

/// How often a write that waits for a full pipe checks whether to give up.
const POLL_INTERVAL: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 100_000_000,
};

#[derive(Debug)]
pub(super) struct Sink {
    output: Output,
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
    Stream(Target),
    File {
        path: PathBuf,
        /// `None` for a FIFO without a reader.
        target: Option<Target>,
    },
}

/// An open file, pipe or socket.
#[derive(Debug)]
struct Target {
    file: File,
    /// Writes to regular files never wait for a reader.
    is_regular: bool,
    /// Device and inode.
    id: Option<(u64, u64)>,
}

impl Target {
    fn new(file: File) -> Self {
        let data = file.metadata().ok();
        Self {
            file,
            is_regular: data.as_ref().is_some_and(|data| data.is_file()),
            id: data.map(|data| id(&data)),
        }
    }

    fn is_same(&self, other: &Self) -> bool {
        self.id.is_some() && self.id == other.id
    }

    /// Whether the file at `path`, which is this one, ends within a line: another process, or this
    /// one before a reload, could not write all of it. `None` if that is unknown.
    fn ends_within_a_line(&self, path: &Path) -> Option<bool> {
        if !self.is_regular {
            return None;
        }
        // The target is open for writing only, and the file need not be readable.
        let (file, data) = files::open_regular(path).ok()?;
        if Some(id(&data)) != self.id {
            return None;
        }
        let Some(last) = data.len().checked_sub(1) else {
            return Some(false);
        };
        let mut byte = [0];
        file.read_exact_at(&mut byte, last).ok()?;
        Some(byte != *b"\n")
    }
}

fn id(data: &Metadata) -> (u64, u64) {
    (data.dev(), data.ino())
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
                let target = open(path)?;
                warn_without_reader(path, target.as_ref());
                let path = path.clone();
                Output::File { path, target }
            }
        };
        let mut sink = Self {
            output,
            is_torn: false,
            last_error: None,
        };
        sink.is_torn = sink.ends_within_a_line().unwrap_or(false);
        Ok(sink)
    }

    /// See [`Target::ends_within_a_line`].
    fn ends_within_a_line(&self) -> Option<bool> {
        match &self.output {
            Output::File {
                path,
                target: Some(target),
            } => target.ends_within_a_line(path),
            _ => None,
        }
    }

    /// Replaces `earlier`: if it is the same file and its last line is incomplete, the next line
    /// begins on a new line.
    pub(super) fn follow(&mut self, earlier: &mut Self) {
        let targets = self.output.target().zip(earlier.output.target());
        let is_same = targets.is_some_and(|(new, old)| new.is_same(old));
        // Read the file again: it may have been written to since `self` was opened.
        let is_torn = self.ends_within_a_line();
        self.is_torn = is_torn.unwrap_or(is_same && earlier.is_torn);
        // Lost lines may not have been logged yet.
        self.last_error = earlier.last_error.take();
    }

    /// Whether [`Self::reopen`] has an effect.
    pub(super) const fn can_reopen(&self) -> bool {
        matches!(self.output, Output::File { .. })
    }

    #[cfg(test)]
    pub(super) fn to_stream(file: File) -> Self {
        Self {
            output: Output::Stream(Target::new(file)),
            is_torn: false,
            last_error: None,
        }
    }

    pub(super) const fn is_on(&self) -> bool {
        !matches!(self.output, Output::Off)
    }

    pub(super) const fn last_error(&self) -> Option<&io::Error> {
        self.last_error.as_ref()
    }

    /// Reopens the file by its path. If that fails, the open file stays in use.
    pub(super) fn reopen(&mut self) {
        let Output::File { path, .. } = &self.output else {
            return;
        };
        match Self::open(&Access::File(path.clone())) {
            Ok(mut opened) => {
                opened.follow(self);
                *self = opened;
            }
            Err(error) => {
                tracing::error!(%error, "access log not reopened, previous file kept");
            }
        }
    }

    /// Writes whole lines; if a write would block, waits until it is possible or `give_up` returns
    /// true. Returns how many lines were lost.
    pub(super) fn write(&mut self, lines: &[u8], give_up: impl Fn() -> bool) -> u64 {
        if self.is_torn {
            // Ends the incomplete line.
            let (written, error) = self.output.write(b"\n", &give_up);
            self.is_torn = written == 0;
            if error.is_some() {
                self.last_error = error;
                return count_lines(lines);
            }
        }
        let written;
        (written, self.last_error) = self.output.write(lines, &give_up);
        if written > 0 {
            self.is_torn = lines[written - 1] != b'\n';
        }
        count_lines(&lines[written..])
    }
}

fn count_lines(text: &[u8]) -> u64 {
    text.iter().filter(|&&byte| byte == b'\n').count() as u64
}

impl Output {
    const fn target(&self) -> Option<&Target> {
        match self {
            Self::Off => None,
            Self::Stream(target) => Some(target),
            Self::File { target, .. } => target.as_ref(),
        }
    }

    /// Returns how many bytes were written, and the error if some bytes were not.
    fn write(&mut self, bytes: &[u8], give_up: impl Fn() -> bool) -> (usize, Option<io::Error>) {
        let Target {
            file, is_regular, ..
        } = match self {
            Self::Off => return (bytes.len(), None),
            Self::Stream(target) => target,
            Self::File { target, path } => {
                // The FIFO may have a reader by now.
                if target.is_none() {
                    *target = open(path).ok().flatten();
                }
                match target {
                    Some(target) => target,
                    None => return (0, Some(io::Error::other("the FIFO has no reader"))),
                }
            }
        };
        let max_write = if *is_regular { bytes.len() } else { MAX_LINE };
        let mut written = 0;
        while let Some(rest) = bytes.get(written..).filter(|rest| !rest.is_empty()) {
            if !*is_regular && !is_ready(file, &give_up) {
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
            // If there is an error, the write returns it.
            Ok(_) | Err(_) => return true,
        }
    }
}

fn stream(stream: BorrowedFd<'_>, name: &str) -> Result<Target, OpenError> {
    let owned = stream.try_clone_to_owned();
    owned
        .map(|owned| Target::new(File::from(owned)))
        .map_err(|error| OpenError::new(name, error))
}

/// Opens a file for appending. Returns `None` for a FIFO without a reader.
fn open(path: &Path) -> Result<Option<Target>, OpenError> {
    // Without this flag, opening a FIFO would wait for its reader. The flag has no effect on
    // regular files.
    let nonblock = i32::try_from(OFlags::NONBLOCK.bits()).unwrap_or_default();
    let mut options = OpenOptions::new();
    options.create(true).append(true).custom_flags(nonblock);
    let opened = files::record(path, || options.open(path));
    match opened {
        Ok(file) => Ok(Some(Target::new(file))),
        Err(error) if error.raw_os_error() == Some(Errno::NXIO.raw_os_error()) && is_fifo(path) => {
            Ok(None)
        }
        Err(error) => Err(OpenError::new(path, error)),
    }
}

fn warn_without_reader(path: &Path, target: Option<&Target>) {
    if target.is_none() {
        tracing::warn!(path = %path.display(), "access log FIFO has no reader, lines are lost");
    }
}

fn is_fifo(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|data| data.file_type().is_fifo())
}
