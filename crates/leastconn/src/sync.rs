//! Atomics and locks of the core: from `std`, or from loom under `--cfg loom`, so that the loom
//! tests run the same code.
//!
//! `Arc` always comes from `std`: no decision depends on a reference count, and loom's `Arc`
//! cannot hold a slice.

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

/// Locks and ignores poisoning: every critical section of this crate keeps its data consistent at
/// each step, so a panic in one task must not stop the counting of all connections.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    match mutex.lock() {
        Ok(guard) => guard,
        Err(poisoned) => poisoned.into_inner(),
    }
}
