//! The access log: one JSON object a line for every accepted socket.
//!
//! Lines go through a bounded queue to a thread of their own. When whoever
//! reads them is slower than connections end, or the disk is full, lines are
//! lost and counted, and a message says so now and then; connections never wait for the
//! log.

mod sink;

use std::{
    io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel},
    },
    thread,
    time::{Duration, Instant},
};

use parking_lot::Mutex;

use crate::{
    config::{Access, AccessFilter},
    confinement,
};
use sink::Sink;

/// Lines that may wait for the writer: about a second of a busy balancer.
const QUEUE: usize = 32 * 1024;

/// How long the end of the process waits for queued lines to be written.
const LAST_LINES: Duration = Duration::from_secs(1);

/// How often at most a message says that lines were lost.
const COMPLAIN: Duration = Duration::from_secs(60);

/// Where access log lines go. Cheap to clone.
#[derive(Clone, Debug)]
pub struct AccessLog {
    queue: SyncSender<Message>,
    shared: Arc<Shared>,
}

#[derive(Debug)]
enum Message {
    Line(Vec<u8>),
    /// Something has changed in [`Shared`].
    Look,
}

#[derive(Debug, Default)]
struct Shared {
    on: AtomicBool,
    /// Lines of clients that were not identified are left out.
    identified_only: AtomicBool,
    reopen: AtomicBool,
    /// Where lines go from the next one on.
    next: Mutex<Option<Sink>>,
    has_next: AtomicBool,
    /// Write what is queued, and end.
    closing: AtomicBool,
    lost: AtomicU64,
}

impl Shared {
    /// Whether whoever writes, and waits, should do something else.
    fn is_wanted_elsewhere(&self) -> bool {
        self.has_next.load(Ordering::Acquire) || self.reopen.load(Ordering::Acquire)
    }

    fn lose(&self, lines: u64) {
        self.lost.fetch_add(lines, Ordering::Relaxed);
    }
}

/// Writes out what is queued when dropped: keep it until the process ends.
#[derive(Debug)]
#[must_use]
pub struct Flusher {
    log: AccessLog,
    /// Ends with the writer.
    writing: Receiver<()>,
}

/// Another place for the access log, ready to be used.
#[derive(Debug)]
pub struct Prepared(Sink);

/// The access log cannot be opened.
#[derive(Debug, thiserror::Error)]
#[error("cannot open the access log `{}`: {source}{}", path.display(), hint(path, source))]
pub struct OpenError {
    path: PathBuf,
    source: io::Error,
}

fn hint(path: &Path, error: &io::Error) -> String {
    let hint = confinement::hint_for_appending(path, error);
    hint.map_or_else(String::new, |hint| format!("; {hint}"))
}

impl AccessLog {
    /// Opens the log.
    ///
    /// # Errors
    /// If its file cannot be opened for appending, or its thread cannot be started.
    pub fn open(access: &Access) -> Result<(Self, Flusher), OpenError> {
        Self::start(Sink::open(access)?, QUEUE).map_err(|source| OpenError {
            path: "thread".into(),
            source,
        })
    }

    fn start(sink: Sink, queue: usize) -> io::Result<(Self, Flusher)> {
        let shared = Arc::new(Shared::default());
        shared.on.store(sink.is_on(), Ordering::Relaxed);
        let (queue, queued) = sync_channel(queue);
        let (done, writing) = sync_channel(0);
        let mut writer = Writer {
            sink,
            shared: Arc::clone(&shared),
            complained: None,
            told: 0,
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
            writing,
        };
        Ok((log, flusher))
    }

    /// Opens another place for it, which is not yet used.
    ///
    /// # Errors
    /// If its file cannot be opened for appending.
    pub fn prepare(&self, access: &Access) -> Result<Prepared, OpenError> {
        Sink::open(access).map(Prepared)
    }

    /// Lines that are written from here on go to the new place; those that are
    /// queued may do so, too.
    pub fn switch(&self, to: Prepared) {
        let on = to.0.is_on();
        let mut next = self.shared.next.lock();
        *next = Some(to.0);
        drop(next);
        self.shared.has_next.store(true, Ordering::Release);
        self.shared.on.store(on, Ordering::Relaxed);
        self.nudge();
    }

    /// Has the writer look what has changed. Where there is no room in the queue it
    /// is awake anyway, or will be told by what it waits for.
    fn nudge(&self) {
        let _ = self.queue.try_send(Message::Look);
    }

    /// Whether lines go anywhere: spares making them.
    pub fn is_on(&self) -> bool {
        self.shared.on.load(Ordering::Relaxed)
    }

    /// Whether a line goes anywhere, of a client that was identified or was not.
    pub fn takes(&self, is_identified: bool) -> bool {
        self.is_on() && (is_identified || !self.shared.identified_only.load(Ordering::Relaxed))
    }

    /// Chooses whose lines are written from here on.
    pub fn filter(&self, filter: AccessFilter) {
        let only = filter == AccessFilter::Identified;
        self.shared.identified_only.store(only, Ordering::Relaxed);
    }

    /// Queues one line, which must end in a line feed.
    pub fn write(&self, line: Vec<u8>) {
        if self.is_on() && self.queue.try_send(Message::Line(line)).is_err() {
            self.shared.lose(1);
        }
    }

    /// Opens the file again: the old one was renamed.
    pub fn reopen(&self) {
        self.shared.reopen.store(true, Ordering::Release);
        self.nudge();
    }

    /// Lines lost since the start.
    pub fn lost(&self) -> u64 {
        self.shared.lost.load(Ordering::Relaxed)
    }
}

impl Drop for Flusher {
    fn drop(&mut self) {
        self.log.shared.closing.store(true, Ordering::Release);
        self.log.nudge();
        // A reader that does not read must not keep the process from ending.
        if self.writing.recv_timeout(LAST_LINES) == Err(RecvTimeoutError::Timeout) {
            tracing::warn!("the last lines of the access log were not taken in time");
        }
    }
}

#[derive(Debug)]
struct Writer {
    sink: Sink,
    shared: Arc<Shared>,
    /// When a message last said that lines were lost.
    complained: Option<Instant>,
    /// How many it and those before it spoke of.
    told: u64,
}

impl Writer {
    fn run(&mut self, queued: &Receiver<Message>) {
        while let Ok(first) = queued.recv() {
            self.take(first);
            self.take_queued(queued);
            if self.shared.closing.load(Ordering::Acquire) {
                // What was queued meanwhile.
                self.take_queued(queued);
                return;
            }
        }
    }

    fn take_queued(&mut self, queued: &Receiver<Message>) {
        while let Ok(next) = queued.try_recv() {
            self.take(next);
        }
        self.flush();
        // Asked for while it was being written.
        self.change_place();
    }

    fn take(&mut self, message: Message) {
        self.change_place();
        if let Message::Line(line) = message {
            let shared = &self.shared;
            let lost = self.sink.take(&line, || shared.is_wanted_elsewhere());
            shared.lose(lost);
            if lost > 0 {
                // While it is known why.
                self.complain();
            }
        }
    }

    fn change_place(&mut self) {
        if self.shared.has_next.swap(false, Ordering::AcqRel) {
            let next = self.shared.next.lock().take();
            if let Some(next) = next {
                self.leave();
                self.sink = next;
            }
        }
        if self.shared.reopen.swap(false, Ordering::AcqRel) {
            self.leave();
            self.sink.reopen();
        }
    }

    /// Writes what was gathered as far as its reader takes it now: nothing says any more
    /// that it is wanted elsewhere.
    fn leave(&mut self) {
        let lost = self.sink.flush(|| true);
        self.shared.lose(lost);
        self.complain();
    }

    fn flush(&mut self) {
        let shared = &self.shared;
        let lost = self.sink.flush(|| shared.is_wanted_elsewhere());
        shared.lose(lost);
        self.complain();
    }

    /// Not while it waits for a reader: that of messages may be the same one.
    fn complain(&mut self) {
        let lost = self.shared.lost.load(Ordering::Relaxed);
        if lost == self.told {
            return;
        }
        let now = leastconn::net::now();
        let recently = |at| now.saturating_duration_since(at) < COMPLAIN;
        if self.complained.is_some_and(recently) {
            return;
        }
        let why = self.sink.trouble().map_or_else(
            || "they came faster than they were taken".to_owned(),
            ToString::to_string,
        );
        tracing::warn!(lines = lost - self.told, %why, "access log lines were lost");
        self.complained = Some(now);
        self.told = lost;
    }
}

/// A duration in milliseconds, to the microsecond.
pub(crate) fn milliseconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}

#[cfg(test)]
mod tests;
