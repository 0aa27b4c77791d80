use std::{fmt, sync::Arc};

use parking_lot::Mutex;

use crate::operator_log::SignedEntries;

/// What operators have set in a fleet, for the next connection of this process to the fleet: its
/// store may be another one, and the entries of the old store may be signed with another secret.
/// Clones share the same history.
#[derive(Clone, Default)]
pub struct OperatorHistory(Arc<Mutex<Known>>);

#[derive(Clone, Default)]
pub(crate) struct Known {
    pub(crate) entries: SignedEntries,
    /// The time of the last answer of the store.
    pub(crate) now: Option<u64>,
}

impl OperatorHistory {
    /// A copy that does not follow later changes of `self`.
    pub fn copy(&self) -> Self {
        Self(Arc::new(Mutex::new(self.known())))
    }

    pub(crate) fn known(&self) -> Known {
        self.0.lock().clone()
    }

    /// The store has answered at `now`. `entries`: all entries, if any has changed.
    pub(crate) fn update(&self, now: u64, entries: Option<&SignedEntries>) {
        let mut known = self.0.lock();
        known.now = Some(now);
        if let Some(entries) = entries {
            known.entries.clone_from(entries);
        }
    }
}

impl fmt::Debug for OperatorHistory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OperatorHistory(..)")
    }
}
