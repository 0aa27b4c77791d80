//! The access log: one line with a JSON object for every accepted socket.
//!
//! A bounded queue passes lines to a writer thread, so connections never wait for the log. If the
//! reader of the log is too slow or the disk is full, lines are lost and counted, and a warning is
//! logged at most once a minute.

mod sink;

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel},
    },
    thread,
    time::{Duration, Instant},
};

use leastconn_config::{Access, AccessFilter};
use parking_lot::Mutex;

use sink::Sink;

pub use sink::OpenError;

/// Capacity of the queue in lines. A busy balancer writes this many lines in about one second.
const QUEUE: usize = 32 * 1024;

/// How long the process waits at its end for queued lines to be written.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// Minimum time between two warnings about lost lines.
const WARNING_INTERVAL: Duration = Duration::from_secs(60);

/// Handle of the access log. Cheap to clone.
#[derive(Clone, Debug)]
pub struct AccessLog {
    queue: SyncSender<Message>,
    shared: Arc<Shared>,
}

#[derive(Debug)]
enum Message {
    Line(Vec<u8>),
    /// [`Shared`] has changed.
    Wake,
}

#[derive(Debug, Default)]
struct Shared {
    is_on: AtomicBool,
    /// Whether connections of unidentified clients are left out.
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
    /// Whether the writer should stop waiting for a slow reader.
    fn has_new_destination(&self) -> bool {
        self.has_next.load(Ordering::Acquire) || self.reopen.load(Ordering::Acquire)
    }

    fn count_lost(&self, lines: u64) {
        self.lost.fetch_add(lines, Ordering::Relaxed);
    }
}

/// Writes the queued lines when dropped: keep it until the process ends.
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
        let shared = Arc::new(Shared::default());
        shared.is_on.store(sink.is_on(), Ordering::Relaxed);
        let (queue, queued) = sync_channel(queue);
        let (done, writer_done) = sync_channel(0);
        let mut writer = Writer {
            sink,
            shared: Arc::clone(&shared),
            last_warning: None,
            reported: 0,
        };
        let write = move || {
            writer.run(&queued);
            drop(done);
        };
        thread::Builder::new()
            .name("access-log".to_owned())
            .spawn(write)?;
        let log = Self { queue, shared };
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

    /// Changes to a new destination. Lines that are already queued may be written to the previous
    /// or to the new destination.
    pub fn switch(&self, to: Prepared) {
        let is_on = to.0.is_on();
        let mut next = self.shared.next.lock();
        *next = Some(to.0);
        drop(next);
        self.shared.has_next.store(true, Ordering::Release);
        self.shared.is_on.store(is_on, Ordering::Relaxed);
        self.wake_writer();
    }

    /// Wakes the writer to check [`Shared`]. If the queue is full, the writer is awake already, or
    /// waits for a slow reader and checks [`Shared`] periodically.
    fn wake_writer(&self) {
        let _ = self.queue.try_send(Message::Wake);
    }

    /// Whether lines are written at all.
    pub fn is_on(&self) -> bool {
        self.shared.is_on.load(Ordering::Relaxed)
    }

    /// Returns whether to log a connection, depending on whether its client was identified. Call
    /// this before building a line.
    pub fn accepts(&self, is_identified: bool) -> bool {
        self.is_on() && (is_identified || !self.shared.identified_only.load(Ordering::Relaxed))
    }

    /// Chooses which connections are logged.
    pub fn set_filter(&self, filter: AccessFilter) {
        let only = filter == AccessFilter::Identified;
        self.shared.identified_only.store(only, Ordering::Relaxed);
    }

    /// Queues one line, which must end with a line feed. Does not wait: if the queue is
    /// full, the line is lost.
    pub fn write(&self, line: Vec<u8>) {
        if self.is_on() && self.queue.try_send(Message::Line(line)).is_err() {
            self.shared.count_lost(1);
        }
    }

    /// Reopens the file, for log rotation.
    pub fn reopen(&self) {
        self.shared.reopen.store(true, Ordering::Release);
        self.wake_writer();
    }

    /// The number of lines lost since the start.
    pub fn lost(&self) -> u64 {
        self.shared.lost.load(Ordering::Relaxed)
    }
}

impl Drop for Flusher {
    fn drop(&mut self) {
        self.log.shared.closing.store(true, Ordering::Release);
        self.log.wake_writer();
        // A slow reader must not keep the process from ending.
        if self.writer_done.recv_timeout(FLUSH_TIMEOUT) == Err(RecvTimeoutError::Timeout) {
            tracing::warn!("access log not flushed: its reader is too slow");
        }
    }
}

#[derive(Debug)]
struct Writer {
    sink: Sink,
    shared: Arc<Shared>,
    /// When lost lines were last logged.
    last_warning: Option<Instant>,
    /// The number of lost lines that have been logged.
    reported: u64,
}

impl Writer {
    fn run(&mut self, queued: &Receiver<Message>) {
        while let Ok(first) = queued.recv() {
            self.handle(first);
            self.drain(queued);
            if self.shared.closing.load(Ordering::Acquire) {
                // Lines may have been queued between the last drain and the closing.
                self.drain(queued);
                return;
            }
        }
    }

    fn drain(&mut self, queued: &Receiver<Message>) {
        while let Ok(next) = queued.try_recv() {
            self.handle(next);
        }
        self.flush();
        // A new destination may have been set during the flush.
        self.change_destination();
    }

    fn handle(&mut self, message: Message) {
        self.change_destination();
        if let Message::Line(line) = message {
            let shared = &self.shared;
            let lost = self.sink.push(&line, || shared.has_new_destination());
            shared.count_lost(lost);
            if lost > 0 {
                // Warn now, because the next write overwrites the error of this one.
                self.warn_if_lost();
            }
        }
    }

    fn change_destination(&mut self) {
        if self.shared.has_next.swap(false, Ordering::AcqRel) {
            let next = self.shared.next.lock().take();
            if let Some(next) = next {
                self.flush_without_waiting();
                self.sink = next;
            }
        }
        if self.shared.reopen.swap(false, Ordering::AcqRel) {
            self.flush_without_waiting();
            self.sink.reopen();
        }
    }

    /// Writes buffered lines, but stops when a write would have to wait for the reader. Use it
    /// after the request for a new destination was cleared, because then nothing would end the
    /// wait.
    fn flush_without_waiting(&mut self) {
        let lost = self.sink.flush(|| true);
        self.shared.count_lost(lost);
        self.warn_if_lost();
    }

    fn flush(&mut self) {
        let shared = &self.shared;
        let lost = self.sink.flush(|| shared.has_new_destination());
        shared.count_lost(lost);
        self.warn_if_lost();
    }

    /// Do not call this while waiting for the reader of the access log: the same program may read
    /// standard error, and both programs would wait for each other.
    fn warn_if_lost(&mut self) {
        let lost = self.shared.lost.load(Ordering::Relaxed);
        if lost == self.reported {
            return;
        }
        let now = leastconn::net::now();
        let is_recent = |at| now.saturating_duration_since(at) < WARNING_INTERVAL;
        if self.last_warning.is_some_and(is_recent) {
            return;
        }
        let reason = self
            .sink
            .last_error()
            .map_or_else(|| "the queue is full".to_owned(), ToString::to_string);
        tracing::warn!(
            lines = lost - self.reported,
            reason,
            "access log lines lost"
        );
        self.last_warning = Some(now);
        self.reported = lost;
    }
}

/// A duration in milliseconds, to the microsecond.
pub(crate) fn milliseconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}

#[cfg(test)]
mod tests;
