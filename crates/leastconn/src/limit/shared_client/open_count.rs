//! The number of open connections of a client.

use std::sync::Weak;

use super::{Change, SharedClient};
use crate::sync::{Arc, AtomicU64, Mutex, Ordering};

/// Flag in the count: a [`SharedClient`] must be notified.
const SHARED: u64 = 1 << 63;

/// The number of open connections of a client. Dropping a permit decrements it.
#[derive(Debug, Default)]
pub(in crate::limit) struct OpenCount {
    /// The number, combined with the flag [`SHARED`]. They share one word, so that the end of a
    /// connection whose client has no shared limits costs no second memory access.
    word: AtomicU64,
    shared: Mutex<Option<Weak<SharedClient>>>,
}

impl OpenCount {
    pub(in crate::limit) fn get(&self) -> u64 {
        self.word.load(Ordering::Acquire) & !SHARED
    }

    pub(in crate::limit) fn open(&self) {
        self.word.fetch_add(1, Ordering::AcqRel);
    }

    pub(in crate::limit) fn close(&self) {
        if self.word.fetch_sub(1, Ordering::AcqRel) & SHARED != 0 {
            self.notify();
        }
    }

    #[cold]
    #[inline(never)]
    fn notify(&self) {
        let shared = self.shared.lock().as_ref().and_then(Weak::upgrade);
        if let Some(shared) = shared {
            shared.mark(Change::Usage);
        }
    }

    /// Notifies `client` from now on. If a connection ended before, a [`Self::get`] after this call
    /// takes that into account.
    pub(in crate::limit) fn attach(&self, client: &Arc<SharedClient>) {
        *self.shared.lock() = Some(Arc::downgrade(client));
        self.word.fetch_or(SHARED, Ordering::AcqRel);
    }

    pub(in crate::limit) fn detach(&self) {
        self.word.fetch_and(!SHARED, Ordering::AcqRel);
        *self.shared.lock() = None;
    }
}
