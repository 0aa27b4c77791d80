//! The atomics and locks that the core is built on: `std`'s, or loom's under
//! `--cfg loom`, so that the models in the tests explore the code that runs.
//!
//! `Arc` is `std`'s in both: no decision hangs on a reference count, and loom's
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

/// Locks, and goes on after a panic in another holder: every critical section
/// of this crate leaves its data whole at each step, and a balancer that stops
/// counting because one task died would be the larger fault.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    match mutex.lock() {
        Ok(guard) => guard,
        Err(poisoned) => poisoned.into_inner(),
    }
}
