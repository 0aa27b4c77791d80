//! The atomics and mutexes that the core uses. Under `--cfg loom` they come from loom, so that the
//! loom tests run the same code.
//!
//! `Arc` always comes from `std`: loom's `Arc` cannot hold a slice, and the core makes no decisions
//! based on reference counts.
//!
//! The mutexes are not poisoned by a panic. Every critical section of this crate keeps its data
//! consistent at each step, so other tasks can continue to use the data after a task has panicked.

pub(crate) use std::sync::Arc;

#[cfg(loom)]
pub(crate) use self::model::Mutex;
#[cfg(loom)]
pub(crate) use loom::sync::{
    MutexGuard,
    atomic::{AtomicU64, Ordering},
};
#[cfg(not(loom))]
pub(crate) use parking_lot::{Mutex, MutexGuard};
#[cfg(not(loom))]
pub(crate) use std::sync::atomic::{AtomicU64, Ordering};

#[cfg(loom)]
mod model {
    use std::sync::PoisonError;

    /// loom's mutex with the interface of `parking_lot::Mutex`.
    #[derive(Debug)]
    pub(crate) struct Mutex<T>(loom::sync::Mutex<T>);

    impl<T: Default> Default for Mutex<T> {
        fn default() -> Self {
            Self::new(T::default())
        }
    }

    impl<T> Mutex<T> {
        pub(crate) fn new(value: T) -> Self {
            Self(loom::sync::Mutex::new(value))
        }

        pub(crate) fn lock(&self) -> loom::sync::MutexGuard<'_, T> {
            self.0.lock().unwrap_or_else(PoisonError::into_inner)
        }
    }
}
