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
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use tracing_appender::non_blocking::{ErrorCounter, NonBlocking, NonBlockingBuilder, WorkerGuard};

use crate::config::Access;

/// Lines that may wait for the writer: about a second of a busy balancer.
const QUEUE: usize = 32 * 1024;

/// Where access log lines go. Cheap to clone.
#[derive(Clone, Debug)]
pub struct AccessLog {
    queue: Option<NonBlocking>,
    overflown: Option<ErrorCounter>,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    reopen: AtomicBool,
    unwritten: AtomicU64,
}

/// Writes out what is queued when dropped: keep it until the process ends.
#[derive(Debug)]
#[must_use]
pub struct Flusher(#[expect(dead_code, reason = "held for its drop")] Option<WorkerGuard>);

/// The access log's file cannot be opened.
#[derive(Debug, thiserror::Error)]
#[error("cannot open the access log `{}`: {source}", path.display())]
pub struct OpenError {
    path: PathBuf,
    source: io::Error,
}

impl AccessLog {
    /// Opens the log.
    ///
    /// # Errors
    /// If its file cannot be opened for appending.
    pub fn open(access: &Access) -> Result<(Self, Flusher), OpenError> {
        let shared = Arc::new(Shared::default());
        let sink = match access {
            Access::Off => None,
            Access::Stdout => Some(Sink::Stdout(BufWriter::new(io::stdout()))),
            Access::File(path) => Some(Sink::File {
                file: BufWriter::new(open(path)?),
                path: path.clone(),
            }),
        };
        let Some(sink) = sink else {
            let log = Self {
                queue: None,
                overflown: None,
                shared,
            };
            return Ok((log, Flusher(None)));
        };
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
            overflown: Some(queue.error_counter()),
            queue: Some(queue),
            shared,
        };
        Ok((log, Flusher(Some(guard))))
    }

    /// Whether lines go anywhere: spares making them.
    pub const fn is_on(&self) -> bool {
        self.queue.is_some()
    }

    /// Queues one line, which must end in a line feed.
    pub fn write(&self, line: &[u8]) {
        if let Some(queue) = &self.queue {
            // The queue itself never fails: it counts what does not fit.
            let _ = queue.clone().write(line);
        }
    }

    /// Opens the file again before the next line: the old one was renamed.
    pub fn reopen(&self) {
        self.shared.reopen.store(true, Ordering::Release);
    }

    /// Lines lost since the start.
    pub fn lost(&self) -> u64 {
        let overflown = self
            .overflown
            .as_ref()
            .map_or(0, ErrorCounter::dropped_lines);
        overflown as u64 + self.shared.unwritten.load(Ordering::Relaxed)
    }
}

#[derive(Debug)]
enum Sink {
    Stdout(BufWriter<io::Stdout>),
    File {
        file: BufWriter<File>,
        path: PathBuf,
    },
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
            source,
        })
}

impl Writer {
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
        if self.shared.reopen.swap(false, Ordering::AcqRel) {
            self.reopen();
        }
        let written = match &mut self.sink {
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
            Sink::Stdout(out) => out.flush(),
            Sink::File { file, .. } => file.flush(),
        };
        if flushed.is_err() {
            self.shared.unwritten.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }
}
