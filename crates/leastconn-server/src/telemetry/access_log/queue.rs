//! Lines that wait for the writer thread.
//!
//! If the writer is idle, a line wakes it and is written at once. While lines come faster than
//! every [`LINGER`], they are collected and written together: waking the writer and writing each
//! line would cost several times as much as producing it.
//!
//! Lines are kept in blocks. One large buffer would be copied when it grows, and would need twice
//! the memory while a part of it is written.

use std::{
    collections::VecDeque,
    mem,
    time::{Duration, Instant},
};

use leastconn::net;
use parking_lot::{Condvar, Mutex, MutexGuard};

/// Maximum time that a line is held back so that others can be written with it.
const LINGER: Duration = Duration::from_millis(10);

/// Size of a block in bytes. From this size, lines are written without waiting for more.
const BATCH: usize = 64 * 1024;

#[derive(Debug)]
pub(super) struct Queue {
    waiting: Mutex<Waiting>,
    wake: Condvar,
    /// Maximum size of the waiting lines in bytes.
    capacity: usize,
}

/// What the writer has to do next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Item {
    /// Whole lines: one, or at most [`BATCH`] bytes.
    Lines(Vec<u8>),
    /// The writer has to look at something else than lines. It has taken all earlier lines.
    Call,
}

#[derive(Debug)]
struct Waiting {
    items: VecDeque<Item>,
    /// Size of the lines in bytes.
    size: usize,
    /// An empty block.
    spare: Vec<u8>,
    writer: WriterState,
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

impl Waiting {
    fn append(&mut self, line: &[u8]) {
        self.size += line.len();
        match self.items.back_mut() {
            Some(Item::Lines(lines)) if lines.len() + line.len() <= BATCH => {
                lines.extend_from_slice(line);
            }
            _ => {
                let mut lines = mem::take(&mut self.spare);
                lines.reserve(line.len().max(BATCH));
                lines.extend_from_slice(line);
                self.items.push_back(Item::Lines(lines));
            }
        }
    }
}

impl Queue {
    pub(super) fn new(capacity: usize) -> Self {
        let waiting = Waiting {
            items: VecDeque::new(),
            size: 0,
            spare: Vec::new(),
            writer: WriterState::Busy,
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
        if waiting.size + line.len() > self.capacity {
            return false;
        }
        waiting.append(line);
        let wake = match waiting.writer {
            WriterState::Idle => true,
            WriterState::Lingering => waiting.size >= BATCH,
            WriterState::Busy => false,
        };
        if wake {
            self.wake(waiting);
        }
        true
    }

    /// Calls the writer after it has written the lines in the queue.
    pub(super) fn call(&self) {
        let mut waiting = self.waiting.lock();
        if waiting.items.back() != Some(&Item::Call) {
            waiting.items.push_back(Item::Call);
        }
        self.wake(waiting);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.lock().items.is_empty()
    }

    fn wake(&self, mut waiting: MutexGuard<'_, Waiting>) {
        // The next lines need not wake the writer again.
        waiting.writer = WriterState::Busy;
        drop(waiting);
        self.wake.notify_one();
    }

    /// Waits for the next item. `written`: a block that is no longer needed. `last_write` is when
    /// lines were last written.
    pub(super) fn take(&self, mut written: Vec<u8>, last_write: Option<Instant>) -> Item {
        written.clear();
        let mut waiting = self.waiting.lock();
        if written.capacity() > waiting.spare.capacity() {
            waiting.spare = written;
        }
        if let Some(until) = last_write.map(|at| at + LINGER) {
            while waiting.size < BATCH && !waiting.items.contains(&Item::Call) && net::now() < until
            {
                waiting.writer = WriterState::Lingering;
                self.wake.wait_until(&mut waiting, until);
            }
        }
        loop {
            let Some(item) = waiting.items.pop_front() else {
                waiting.writer = WriterState::Idle;
                self.wake.wait(&mut waiting);
                continue;
            };
            waiting.writer = WriterState::Busy;
            if let Item::Lines(lines) = &item {
                waiting.size -= lines.len();
            }
            return item;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, thread};

    use super::*;

    /// The next lines. Empty if the writer was called.
    fn take(queue: &Queue, last_write: Option<Instant>) -> Vec<u8> {
        match queue.take(Vec::new(), last_write) {
            Item::Lines(lines) => lines,
            Item::Call => Vec::new(),
        }
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
    fn call_is_seen_after_earlier_lines() {
        let queue = Queue::new(100);
        assert!(queue.push(b"1\n"));
        queue.call();
        queue.call();
        assert!(queue.push(b"2\n"));
        assert_eq!(take(&queue, None), b"1\n");
        assert_eq!(take(&queue, None), b"");
        assert_eq!(take(&queue, None), b"2\n");
        assert!(queue.is_empty());
    }

    #[test]
    fn memory_of_a_full_queue_is_bounded() {
        let capacity = 1024 * 1024;
        let queue = Queue::new(capacity);
        let line = [&[b'x'; 499], &b"\n"[..]].concat();
        while queue.push(&line) {}
        let waiting = queue.waiting.lock();
        let blocks = waiting.items.iter().map(|item| match item {
            Item::Lines(lines) => lines.capacity(),
            Item::Call => 0,
        });
        let memory: usize = blocks.sum();
        assert!(memory <= capacity + 2 * BATCH, "{memory}");
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
