//! Atomics and locks of the core, from `std`, or under `--cfg loom` from loom. The loom tests
//! therefore run the same code.
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
/// consistent at each step. After a panic in one task, other tasks can therefore continue to
/// use the data.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    match mutex.lock() {
        Ok(guard) => guard,
        Err(poisoned) => poisoned.into_inner(),
    }
}
