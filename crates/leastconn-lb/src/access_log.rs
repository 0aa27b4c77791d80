//! The access log: one JSON object a line for every accepted socket.
//!
//! Lines go through a bounded queue to a thread of their own. When whoever
//! reads them is slower than connections end, or the disk is full, lines are
//! lost and counted; connections never wait for the log.

use std::{
    fs::{File, OpenOptions},
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use tracing_appender::non_blocking::{ErrorCounter, NonBlocking, NonBlockingBuilder, WorkerGuard};

use crate::{config::Access, sandbox};

/// Lines that may wait for the writer: about a second of a busy balancer.
const QUEUE: usize = 32 * 1024;

/// What a pipe takes in one piece (`PIPE_BUF`): during an upgrade two processes write
/// to the same one, and no line may end up within another.
const WHOLE: usize = 4096;

/// Wakes the writer, and is not written: a line is JSON and ends in a line feed.
const NUDGE: &[u8] = b"\0";

/// Where access log lines go. Cheap to clone.
#[derive(Clone, Debug)]
pub struct AccessLog {
    queue: NonBlocking,
    overflown: ErrorCounter,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    on: AtomicBool,
    reopen: AtomicBool,
    /// Where lines go from the next one on.
    next: Mutex<Option<Sink>>,
    has_next: AtomicBool,
    unwritten: AtomicU64,
}

/// Writes out what is queued when dropped: keep it until the process ends.
#[derive(Debug)]
#[must_use]
pub struct Flusher(#[expect(dead_code, reason = "held for its drop")] WorkerGuard);

/// Another place for the access log, ready to be used.
#[derive(Debug)]
pub struct Prepared(Sink);

/// The access log's file cannot be opened.
#[derive(Debug, thiserror::Error)]
#[error("cannot open the access log `{}`: {source}{hint}", path.display())]
pub struct OpenError {
    path: PathBuf,
    source: io::Error,
    /// What to do about it, if that is known; begins with a semicolon.
    hint: String,
}

impl AccessLog {
    /// Opens the log.
    ///
    /// # Errors
    /// If its file cannot be opened for appending.
    pub fn open(access: &Access) -> Result<(Self, Flusher), OpenError> {
        let sink = Sink::open(access)?;
        let shared = Arc::new(Shared::default());
        shared.on.store(sink.is_on(), Ordering::Relaxed);
        let writer = Writer {
            sink,
            shared: Arc::clone(&shared),
        };
        let (queue, guard) = NonBlockingBuilder::default()
            .lossy(true)
            .buffered_lines_limit(QUEUE)
            .thread_name("access-log")
            .finish(writer);
        let log = Self {
            overflown: queue.error_counter(),
            queue,
            shared,
        };
        Ok((log, Flusher(guard)))
    }

    /// Opens another place for it, which is not yet used.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn prepare(&self, access: &Access) -> Result<Prepared, OpenError> {
        Sink::open(access).map(Prepared)
    }

    /// Lines that are written from here on go to the new place; those that are
    /// queued may do so, too.
    pub fn switch(&self, to: Prepared) {
        let on = to.0.is_on();
        let mut next = self
            .shared
            .next
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *next = Some(to.0);
        drop(next);
        self.shared.has_next.store(true, Ordering::Release);
        self.shared.on.store(on, Ordering::Relaxed);
        // Nothing to write, but the writer changes its place and closes the old one.
        let _ = self.queue.clone().write(NUDGE);
    }

    /// Whether lines go anywhere: spares making them.
    pub fn is_on(&self) -> bool {
        self.shared.on.load(Ordering::Relaxed)
    }

    /// Queues one line, which must end in a line feed.
    pub fn write(&self, line: &[u8]) {
        if self.is_on() {
            // The queue itself never fails: it counts what does not fit.
            let _ = self.queue.clone().write(line);
        }
    }

    /// Opens the file again before the next line: the old one was renamed.
    pub fn reopen(&self) {
        self.shared.reopen.store(true, Ordering::Release);
    }

    /// Lines lost since the start.
    pub fn lost(&self) -> u64 {
        let overflown = self.overflown.dropped_lines();
        overflown as u64 + self.shared.unwritten.load(Ordering::Relaxed)
    }
}

#[derive(Debug)]
enum Sink {
    Off,
    Stdout(BufWriter<io::Stdout>),
    File {
        file: BufWriter<File>,
        path: PathBuf,
    },
}

impl Sink {
    fn open(access: &Access) -> Result<Self, OpenError> {
        Ok(match access {
            Access::Off => Self::Off,
            Access::Stdout => {
                let out = BufWriter::with_capacity(WHOLE, io::stdout());
                Self::Stdout(out)
            }
            Access::File(path) => Self::File {
                file: BufWriter::new(open(path)?),
                path: path.clone(),
            },
        })
    }

    const fn is_on(&self) -> bool {
        !matches!(self, Self::Off)
    }
}

#[derive(Debug)]
struct Writer {
    sink: Sink,
    shared: Arc<Shared>,
}

fn open(path: &Path) -> Result<File, OpenError> {
    OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .map_err(|source| OpenError {
            path: path.to_owned(),
            hint: sandbox::hint_for_appending(path, &source)
                .map_or_else(String::new, |hint| format!("; {hint}")),
            source,
        })
}

impl Writer {
    fn change_place(&mut self) {
        let next = self.shared.next.lock();
        let next = next.unwrap_or_else(PoisonError::into_inner).take();
        if let Some(next) = next {
            let _ = self.flush();
            self.sink = next;
        }
    }

    fn reopen(&mut self) {
        if let Sink::File { file, path } = &mut self.sink {
            let _ = file.flush();
            match open(path) {
                Ok(opened) => *file = BufWriter::new(opened),
                Err(error) => tracing::error!(%error, "going on with the file that was open"),
            }
        }
    }
}

impl Write for Writer {
    /// Takes one whole line, which is what the queue gives.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.shared.has_next.swap(false, Ordering::AcqRel) {
            self.change_place();
        }
        if self.shared.reopen.swap(false, Ordering::AcqRel) {
            self.reopen();
        }
        if line == NUDGE {
            return Ok(line.len());
        }
        let written = match &mut self.sink {
            Sink::Off => Ok(()),
            Sink::Stdout(out) => out.write_all(line),
            Sink::File { file, .. } => file.write_all(line),
        };
        if written.is_err() {
            self.shared.unwritten.fetch_add(1, Ordering::Relaxed);
        }
        // An error would end the queue's thread; the line is lost and counted.
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let flushed = match &mut self.sink {
            Sink::Off => Ok(()),
            Sink::Stdout(out) => out.flush(),
            Sink::File { file, .. } => file.flush(),
        };
        if flushed.is_err() {
            self.shared.unwritten.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }
}
