//! Counts and limits the bytes that relayed connections buffer for slow receivers.
//!
//! The total covers the whole process. A connection that buffers nothing only reads it.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// Read size while the total exceeds the limit. Each further slow receiver therefore adds at most
/// this many bytes to the total.
const SCARCE: usize = 4 * 1024;

static TOTAL: AtomicUsize = AtomicUsize::new(0);
static ALLOWANCE: AtomicUsize = AtomicUsize::new(usize::MAX);

/// Returns the approximate number of bytes that all relayed connections of the process buffer for
/// slow receivers.
pub fn buffered() -> usize {
    TOTAL.load(Ordering::Relaxed)
}

/// Sets a limit for the total returned by [`buffered`]. Above the limit, connections are relayed
/// with buffers of 4 KiB. By default, there is no limit.
pub fn set_buffer_allowance(bytes: usize) {
    ALLOWANCE.store(bytes, Ordering::Relaxed);
}

/// Reduces a poll budget while the total exceeds the limit.
pub(super) fn limit_budget(budget: usize) -> usize {
    if TOTAL.load(Ordering::Relaxed) < ALLOWANCE.load(Ordering::Relaxed) {
        budget
    } else {
        budget.min(SCARCE)
    }
}

/// The number of bytes that one direction buffers.
pub(super) struct Buffered<'a> {
    of_connection: &'a AtomicU64,
    bytes: usize,
}

impl<'a> Buffered<'a> {
    pub(super) const fn new(of_connection: &'a AtomicU64) -> Self {
        Self {
            of_connection,
            bytes: 0,
        }
    }

    pub(super) fn set(&mut self, bytes: usize) {
        if self.bytes == bytes {
            return;
        }
        // Add before subtracting, so that the total never becomes negative.
        TOTAL.fetch_add(bytes, Ordering::Relaxed);
        TOTAL.fetch_sub(self.bytes, Ordering::Relaxed);
        self.bytes = bytes;
        self.of_connection.store(bytes as u64, Ordering::Relaxed);
    }
}

impl Drop for Buffered<'_> {
    fn drop(&mut self) {
        self.set(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn total_follows_each_direction() {
        let of_connection = AtomicU64::new(0);
        // Larger than the total of all tests that run concurrently in this process.
        let size = 1 << 40;
        let mut one = Buffered::new(&of_connection);
        one.set(size);
        assert!(buffered() >= size);
        assert_eq!(of_connection.load(Ordering::Relaxed), size as u64);
        one.set(5);
        drop(one);
        assert!(buffered() < size);
        assert_eq!(of_connection.load(Ordering::Relaxed), 0);
    }
}
