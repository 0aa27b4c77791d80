//! Temporary values whose memory is returned to the kernel when they are dropped.

use std::{ops::Deref, panic::resume_unwind, thread};

/// A value of many small allocations that lives for a short time only, such as the parsed
/// tree of a configuration file: it takes ten times the memory of the configuration that
/// is made from it.
///
/// glibc returns the end of a heap to the kernel only if everything there is free. On the
/// heap of the calling thread, the few allocations that last would keep most of the tree's
/// pages resident. Threads have heaps of their own, so the value is built on a thread.
///
/// With 100,000 client rules the process has 37 MB resident after loading, and 55 MB after
/// three loads. Without this type it has 261 MB and 271 MB.
pub(crate) struct Scratch<T: Send> {
    /// `None` while it is dropped.
    value: Option<T>,
    /// glibc looks for memory to return only when a large block is freed. This one is
    /// freed after `value`.
    _trigger: Vec<u8>,
}

impl<T: Send> Scratch<T> {
    pub(crate) fn build(work: impl FnOnce() -> T + Send) -> Self {
        let (value, trigger) = on_thread(|| (work(), Vec::with_capacity(100_000)));
        Self {
            value: Some(value),
            _trigger: trigger,
        }
    }
}

impl<T: Send> Deref for Scratch<T> {
    type Target = Option<T>;

    fn deref(&self) -> &Option<T> {
        &self.value
    }
}

impl<T: Send> Drop for Scratch<T> {
    fn drop(&mut self) {
        let value = self.value.take();
        // Each thread caches some of the blocks that it frees. The cache of this thread
        // ends with it.
        on_thread(|| drop(value));
    }
}

fn on_thread<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| {
        let thread = scope.spawn(work);
        thread.join().unwrap_or_else(|panic| resume_unwind(panic))
    })
}
