//! Atomics and locks of the core. They come from `std`, or under `--cfg loom` from loom, so
//! that the loom tests run the same code.
//!
//! `Arc` always comes from `std`: loom's `Arc` cannot hold a slice, and the core makes no
//! decisions based on reference counts.

pub(crate) use std::sync::Arc;

#[cfg(loom)]
pub(crate) use loom::sync::{
    Mutex, MutexGuard,
    atomic::{AtomicU64, Ordering},
};
#[cfg(not(loom))]
pub(crate) use std::sync::{
    Mutex, MutexGuard,
    atomic::{AtomicU64, Ordering},
};

/// Locks `mutex` and ignores poisoning. Every critical section of this crate keeps its data
/// consistent at each step, so after a panic in one task, the other tasks can continue to use
/// the data.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    match mutex.lock() {
        Ok(guard) => guard,
        Err(poisoned) => poisoned.into_inner(),
    }
}
