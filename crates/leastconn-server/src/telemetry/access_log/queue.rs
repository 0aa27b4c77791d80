//! Lines that wait for the writer thread.
//!
//! If the writer is idle, a line wakes it and is written at once. While lines come faster than
//! every [`LINGER`], they are collected and written together: waking the writer and writing each
//! line would cost several times as much as producing it.

use std::{
    mem,
    time::{Duration, Instant},
};

use leastconn::net;
use parking_lot::{Condvar, Mutex, MutexGuard};

/// Maximum time that a line is held back so that others can be written with it.
const LINGER: Duration = Duration::from_millis(10);

/// Size in bytes from which lines are written without waiting for more.
const BATCH: usize = 64 * 1024;

/// A buffer that has grown to more than this while the reader was slow is not kept.
const MAX_KEPT: usize = 4 * BATCH;

#[derive(Debug)]
pub(super) struct Queue {
    waiting: Mutex<Waiting>,
    wake: Condvar,
    /// Maximum size of the waiting lines in bytes.
    capacity: usize,
}

#[derive(Debug)]
struct Waiting {
    lines: Vec<u8>,
    writer: WriterState,
    /// Whether the writer has to look at something else than lines.
    is_called: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum WriterState {
    /// Waits for a line.
    Idle,
    /// Waits until [`LINGER`] has passed since the last write, or [`BATCH`] is reached.
    Lingering,
    /// Writes, and looks for new lines afterwards.
    Busy,
}

impl Queue {
    pub(super) fn new(capacity: usize) -> Self {
        let waiting = Waiting {
            lines: Vec::new(),
            writer: WriterState::Busy,
            is_called: false,
        };
        Self {
            waiting: Mutex::new(waiting),
            wake: Condvar::new(),
            capacity,
        }
    }

    /// Adds a line, unless the queue is full. Returns whether it was added.
    pub(super) fn push(&self, line: &[u8]) -> bool {
        let mut waiting = self.waiting.lock();
        let size = waiting.lines.len() + line.len();
        if size > self.capacity {
            return false;
        }
        waiting.lines.extend_from_slice(line);
        let wake = match waiting.writer {
            WriterState::Idle => true,
            WriterState::Lingering => size >= BATCH,
            WriterState::Busy => false,
        };
        if wake {
            self.wake(waiting);
        }
        true
    }

    /// Makes [`Self::take`] return even if there is no line.
    pub(super) fn call(&self) {
        let mut waiting = self.waiting.lock();
        waiting.is_called = true;
        self.wake(waiting);
    }

    fn wake(&self, mut waiting: MutexGuard<'_, Waiting>) {
        // The next lines need not wake the writer again.
        waiting.writer = WriterState::Busy;
        drop(waiting);
        self.wake.notify_one();
    }

    /// Waits for lines and moves them to `lines`, which must be empty. `last_write` is when lines
    /// were last written. Returns with no lines after [`Self::call`].
    pub(super) fn take(&self, lines: &mut Vec<u8>, last_write: Option<Instant>) {
        if lines.capacity() > MAX_KEPT {
            *lines = Vec::new();
        }
        let mut waiting = self.waiting.lock();
        if let Some(until) = last_write.map(|at| at + LINGER) {
            while !waiting.is_called && waiting.lines.len() < BATCH && net::now() < until {
                waiting.writer = WriterState::Lingering;
                self.wake.wait_until(&mut waiting, until);
            }
        }
        while !waiting.is_called && waiting.lines.is_empty() {
            waiting.writer = WriterState::Idle;
            self.wake.wait(&mut waiting);
        }
        waiting.writer = WriterState::Busy;
        waiting.is_called = false;
        mem::swap(&mut waiting.lines, lines);
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, thread};

    use super::*;

    fn take(queue: &Queue, last_write: Option<Instant>) -> Vec<u8> {
        let mut lines = Vec::new();
        queue.take(&mut lines, last_write);
        lines
    }

    #[test]
    fn idle_writer_gets_a_line_at_once() {
        let queue = Arc::new(Queue::new(100));
        let writer = {
            let queue = Arc::clone(&queue);
            thread::spawn(move || take(&queue, None))
        };
        while queue.waiting.lock().writer != WriterState::Idle {
            thread::yield_now();
        }
        assert!(queue.push(b"1\n"));
        // No second line is needed, and no time has to pass.
        assert_eq!(writer.join().unwrap(), b"1\n");
    }

    #[test]
    fn lines_after_a_write_are_collected() {
        let queue = Queue::new(100);
        let start = net::now();
        assert!(queue.push(b"1\n"));
        assert!(queue.push(b"2\n"));
        assert_eq!(take(&queue, Some(start)), b"1\n2\n");
        assert!(start.elapsed() >= LINGER);
    }

    #[test]
    fn full_batch_is_not_held_back() {
        let queue = Queue::new(2 * BATCH);
        let line = vec![b'x'; BATCH];
        assert!(queue.push(&line));
        let far = net::now() + Duration::from_secs(3600);
        assert_eq!(take(&queue, Some(far)), line);
    }

    #[test]
    fn call_ends_the_wait() {
        let queue = Queue::new(100);
        queue.call();
        assert_eq!(take(&queue, None), b"");
        assert!(queue.push(b"1\n"));
        queue.call();
        let far = net::now() + Duration::from_secs(3600);
        assert_eq!(take(&queue, Some(far)), b"1\n");
    }

    #[test]
    fn full_queue_refuses_lines() {
        let queue = Queue::new(4);
        assert!(queue.push(b"1\n"));
        assert!(!queue.push(b"23\n"));
        assert!(queue.push(b"2\n"));
        assert_eq!(take(&queue, None), b"1\n2\n");
        assert!(queue.push(b"3\n"));
    }
}
