//! The thread that writes the lines.

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use leastconn::net;

use super::{Shared, queue::Item, sink::Sink};

/// Minimum time between two warnings about lost lines.
const WARNING_INTERVAL: Duration = Duration::from_secs(60);

/// Maximum size of the lines that are written together. Between two writes the destination can
/// change.
const MAX_WRITE: usize = 64 * 1024;

#[derive(Debug)]
pub(super) struct Writer {
    pub(super) sink: Sink,
    shared: Arc<Shared>,
    /// When lost lines were last logged.
    last_warning: Option<Instant>,
    /// The number of lost lines that have been logged.
    reported: u64,
}

impl Writer {
    pub(super) const fn new(sink: Sink, shared: Arc<Shared>) -> Self {
        Self {
            sink,
            shared,
            last_warning: None,
            reported: 0,
        }
    }

    /// Writes lines until the log is closed and all lines are written.
    pub(super) fn run(&mut self) {
        let mut written = Vec::new();
        let mut last_write = None;
        loop {
            match self.shared.queue.take(written, last_write) {
                Item::Lines(lines) => {
                    self.write(&lines);
                    last_write = Some(net::now());
                    written = lines;
                }
                Item::Call => {
                    self.change_destination();
                    written = Vec::new();
                    if self.shared.closing.load(Ordering::Acquire) {
                        if self.shared.queue.is_empty() {
                            return;
                        }
                        self.shared.queue.call();
                    }
                }
            }
        }
    }

    /// Writes whole lines. If the reader is too slow while the destination changes, the rest goes
    /// to the new destination.
    pub(super) fn write(&mut self, lines: &[u8]) {
        let mut rest = lines;
        loop {
            let (chunk, after) = rest.split_at(chunk_length(rest));
            if chunk.is_empty() {
                return;
            }
            let shared = &self.shared;
            let can_reopen = self.sink.can_reopen();
            let lost = self
                .sink
                .write(chunk, || shared.has_new_destination(can_reopen));
            shared.count_lost(lost);
            if lost > 0 {
                self.change_destination();
            }
            self.warn_if_lost();
            rest = after;
        }
    }

    fn change_destination(&mut self) {
        if self.shared.has_next.swap(false, Ordering::AcqRel) {
            let next = self.shared.next.lock().take();
            if let Some(mut next) = next {
                next.follow(&mut self.sink);
                self.sink = next;
            }
        }
        if self.shared.reopen.swap(false, Ordering::AcqRel) {
            self.sink.reopen();
        }
    }

    /// Do not call this while waiting for the reader of the access log: the same program may read
    /// standard error, and both programs would wait for each other.
    fn warn_if_lost(&mut self) {
        let lost = self.shared.lost.load(Ordering::Relaxed);
        if lost == self.reported {
            return;
        }
        let now = net::now();
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

/// The length of the lines at the start of `lines` that fit into [`MAX_WRITE`], but at least of the
/// first.
fn chunk_length(lines: &[u8]) -> usize {
    let Some(head) = lines.get(..MAX_WRITE) else {
        return lines.len();
    };
    let last = head.iter().rposition(|&byte| byte == b'\n');
    let end = last.or_else(|| lines.iter().position(|&byte| byte == b'\n'));
    end.map_or(lines.len(), |end| end + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_end_with_a_line() {
        assert_eq!(chunk_length(b""), 0);
        assert_eq!(chunk_length(b"1\n2\n"), 4);
        let short = b"123456789\n".repeat(MAX_WRITE / 10 + 1);
        assert_eq!(chunk_length(&short), MAX_WRITE / 10 * 10);
        let long = [vec![b'x'; MAX_WRITE], b"\n1\n".to_vec()].concat();
        assert_eq!(chunk_length(&long), MAX_WRITE + 1);
    }
}
