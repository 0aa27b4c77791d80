//! The handle of the running configuration.

use std::sync::Arc;

use arc_swap::ArcSwap;

use super::Snapshot;

/// The newest [`Snapshot`]. Reading takes no lock.
///
/// Each connection loads the snapshot when it is accepted, and keeps that snapshot until a server
/// is connected.
#[derive(Debug)]
pub struct SnapshotHandle(ArcSwap<Snapshot>);

impl SnapshotHandle {
    pub fn new(first: Snapshot) -> Self {
        Self(ArcSwap::from_pointee(first))
    }

    pub fn load(&self) -> Arc<Snapshot> {
        self.0.load_full()
    }

    /// The generation of the newest snapshot.
    pub fn generation(&self) -> u64 {
        self.0.load().generation
    }

    pub(crate) fn replace(&self, next: Snapshot) {
        self.0.store(Arc::new(next));
    }
}
