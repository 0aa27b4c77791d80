//! The access log: one line with a JSON object for every accepted socket.
//!
//! A bounded queue passes lines to a writer thread, so connections never wait for the log. A line is
//! written within 10 ms, or at once if the log was idle. If the reader of the log is too slow or the
//! disk is full, lines are lost and counted, and a warning is logged at most once a minute.

mod queue;
mod sink;
mod writer;

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc::{Receiver, RecvTimeoutError, sync_channel},
    },
    thread,
    time::Duration,
};

use leastconn_config::{Access, AccessFilter};
use parking_lot::Mutex;

use queue::Queue;
use sink::Sink;
use writer::Writer;

pub use sink::OpenError;

/// Maximum length of a line in bytes, with its line feed. This is `PIPE_BUF`: a pipe that is ready
/// accepts so much without blocking and in one piece, even if other processes write to it.
pub(crate) const MAX_LINE: usize = 4096;

/// Capacity of the queue in bytes. A busy balancer writes this much in about one second.
const QUEUE: usize = 16 * 1024 * 1024;

/// How long the process waits for queued lines to be written before it exits.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// Handle of the access log. Cheap to clone.
#[derive(Clone, Debug)]
pub struct AccessLog(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    queue: Queue,
    is_on: AtomicBool,
    /// Whether only connections of identified clients are logged.
    identified_only: AtomicBool,
    /// Asks the writer to reopen the file.
    reopen: AtomicBool,
    /// The destination that the writer changes to.
    next: Mutex<Option<Sink>>,
    has_next: AtomicBool,
    /// Asks the writer to write the queued lines and then to end.
    closing: AtomicBool,
    lost: AtomicU64,
}

impl Shared {
    fn new(queue: usize) -> Self {
        Self {
            queue: Queue::new(queue),
            is_on: AtomicBool::default(),
            identified_only: AtomicBool::default(),
            reopen: AtomicBool::default(),
            next: Mutex::default(),
            has_next: AtomicBool::default(),
            closing: AtomicBool::default(),
            lost: AtomicU64::default(),
        }
    }

    /// Whether the writer should stop waiting for a slow reader. `can_reopen`: whether the
    /// destination can be reopened.
    fn has_new_destination(&self, can_reopen: bool) -> bool {
        let reopens = can_reopen && self.reopen.load(Ordering::Acquire);
        reopens || self.has_next.load(Ordering::Acquire)
    }

    fn count_lost(&self, lines: u64) {
        self.lost.fetch_add(lines, Ordering::Relaxed);
    }
}

/// Writes the queued lines when dropped. Keep it until the process ends.
#[derive(Debug)]
#[must_use]
pub struct Flusher {
    log: AccessLog,
    /// Disconnected when the writer ends.
    writer_done: Receiver<()>,
}

/// A new destination of the access log, opened but not used yet.
#[derive(Debug)]
pub struct Prepared(Sink);

impl AccessLog {
    /// Opens the log and starts its writer thread.
    ///
    /// # Errors
    /// If the file cannot be opened for appending, or the thread cannot be started.
    pub fn open(access: &Access) -> Result<(Self, Flusher), OpenError> {
        let sink = Sink::open(access)?;
        Self::start(sink, QUEUE).map_err(|error| OpenError::new("thread", error))
    }

    fn start(sink: Sink, queue: usize) -> io::Result<(Self, Flusher)> {
        let shared = Arc::new(Shared::new(queue));
        shared.is_on.store(sink.is_on(), Ordering::Relaxed);
        let (done, writer_done) = sync_channel(0);
        let mut writer = Writer::new(sink, Arc::clone(&shared));
        let write = move || {
            writer.run();
            drop(done);
        };
        thread::Builder::new()
            .name("access-log".to_owned())
            .spawn(write)?;
        let log = Self(shared);
        let flusher = Flusher {
            log: log.clone(),
            writer_done,
        };
        Ok((log, flusher))
    }

    /// Opens a new destination.
    ///
    /// # Errors
    /// If the file cannot be opened for appending.
    pub fn prepare(&self, access: &Access) -> Result<Prepared, OpenError> {
        Sink::open(access).map(Prepared)
    }

    /// Changes to a new destination. Lines that are already queued are written to the previous one,
    /// unless its reader is too slow.
    pub fn switch(&self, to: Prepared) {
        let is_on = to.0.is_on();
        if !is_on {
            self.0.is_on.store(false, Ordering::Relaxed);
        }
        let mut next = self.0.next.lock();
        *next = Some(to.0);
        drop(next);
        self.0.has_next.store(true, Ordering::Release);
        self.0.queue.call();
        // Last: until now, lines would go to the previous destination, which may be `off`.
        self.0.is_on.store(is_on, Ordering::Relaxed);
    }

    /// Whether lines are written at all.
    pub fn is_on(&self) -> bool {
        self.0.is_on.load(Ordering::Relaxed)
    }

    /// Returns whether to log a connection, depending on whether its client was identified. Call
    /// this before building a line.
    pub fn accepts(&self, is_identified: bool) -> bool {
        self.is_on() && (is_identified || !self.0.identified_only.load(Ordering::Relaxed))
    }

    /// Chooses which connections are logged.
    pub fn set_filter(&self, filter: AccessFilter) {
        let only = filter == AccessFilter::Identified;
        self.0.identified_only.store(only, Ordering::Relaxed);
    }

    /// Queues one line, which must end with a line feed. Does not wait: if the queue is
    /// full, the line is lost.
    pub fn write(&self, line: &[u8]) {
        if self.is_on() && !self.0.queue.push(line) {
            self.0.count_lost(1);
        }
    }

    /// Reopens the file, for log rotation.
    pub fn reopen(&self) {
        self.0.reopen.store(true, Ordering::Release);
        self.0.queue.call();
    }

    /// The number of lines lost since the start.
    pub fn lost(&self) -> u64 {
        self.0.lost.load(Ordering::Relaxed)
    }
}

impl Drop for Flusher {
    fn drop(&mut self) {
        self.log.0.closing.store(true, Ordering::Release);
        self.log.0.queue.call();
        // A slow reader must not keep the process from ending.
        if self.writer_done.recv_timeout(FLUSH_TIMEOUT) == Err(RecvTimeoutError::Timeout) {
            tracing::warn!("access log not flushed: its reader is too slow");
        }
    }
}

/// A duration in milliseconds, to the microsecond.
pub(crate) fn milliseconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}

#[cfg(test)]
mod tests;
