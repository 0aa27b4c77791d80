//! What relayed connections hold for receivers that are slow, and how much they may.
//!
//! The total is of the whole process, as memory is. Connections that transfer without
//! stalling only read it.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// What is read at once when the allowance is used up: so much is held at most for each
/// further receiver that is slow.
const SCARCE: usize = 4 * 1024;

static TOTAL: AtomicUsize = AtomicUsize::new(0);
static ALLOWANCE: AtomicUsize = AtomicUsize::new(usize::MAX);

/// About how many bytes all relayed connections of the process hold for receivers that
/// are slow.
pub fn buffered() -> usize {
    TOTAL.load(Ordering::Relaxed)
}

/// Sets how much [`buffered`] may be. Beyond it connections are still relayed, with
/// buffers of 4 KiB. Initially there is no limit.
pub fn set_buffer_allowance(bytes: usize) {
    ALLOWANCE.store(bytes, Ordering::Relaxed);
}

/// How much may be read at once, where `room` would be otherwise.
pub(super) fn room(room: usize) -> usize {
    if TOTAL.load(Ordering::Relaxed) < ALLOWANCE.load(Ordering::Relaxed) {
        room
    } else {
        room.min(SCARCE)
    }
}

/// What one direction holds.
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
        // First the addition: the total never becomes negative.
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
        // Other tests of this process may relay meanwhile: a size that none of them has.
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
