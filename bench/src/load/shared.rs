//! The specification of a load, and the state that the workers share.

use std::cell::{Cell, RefCell};

use tokio::{sync::Notify, time::Duration};

use super::{
    Mode,
    client::{Failure, Target},
    schedule::Schedule,
    tally::Tally,
};

/// Specification of the load to generate.
#[derive(Clone, Copy, Debug)]
pub struct Spec {
    pub mode: Mode,
    pub connections: usize,
    /// Number of workers. The connections are divided among the workers, and each worker
    /// uses its connections in turn.
    pub busy: usize,
    /// Bytes per echo.
    pub size: usize,
    /// Operations per second; `None`: as many as possible.
    pub rate: Option<f64>,
    /// Time for which a worker pauses after each echo.
    pub pause: Option<Duration>,
    /// Stop counting after this many operations.
    pub count: Option<u64>,
}

/// State shared by the workers, which all run on one thread.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) target: Target,
    pub(super) spec: Spec,
    pub(super) payload: Vec<u8>,
    pub(super) schedule: Schedule,
    pub(super) stop: Cell<bool>,
    pub(super) counting: Cell<bool>,
    pub(super) tally: RefCell<Tally>,
    pub(super) done: Notify,
}

impl Shared {
    /// Counts a successful operation, if counting is on.
    pub(super) fn succeeded(&self, took: Duration, bytes: u64) {
        if !self.counting.get() {
            return;
        }
        let mut tally = self.tally.borrow_mut();
        tally.succeeded(took, bytes);
        self.check_count(&tally);
    }

    /// Counts a resumed TLS session, if counting is on.
    pub(super) fn resumed(&self) {
        if self.counting.get() {
            self.tally.borrow_mut().resumed += 1;
        }
    }

    /// Counts bytes of a stream, if counting is on.
    pub(super) fn streamed(&self, bytes: u64) {
        if self.counting.get() {
            self.tally.borrow_mut().bytes += bytes;
        }
    }

    /// Counts a failed operation, even if counting is off.
    pub(super) fn failed(&self, failure: &Failure) {
        let mut tally = self.tally.borrow_mut();
        tally.failed(failure);
        self.check_count(&tally);
    }

    fn check_count(&self, tally: &Tally) {
        let Some(most) = self.spec.count else { return };
        if tally.operations + tally.errors.values().sum::<u64>() >= most {
            self.counting.set(false);
            self.stop.set(true);
            self.done.notify_waiters();
        }
    }
}
