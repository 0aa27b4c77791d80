//! Processes that an upgrade has replaced.

use std::collections::BTreeMap;

use parking_lot::Mutex;

/// Replaced processes that still have connections: maps the process ID to the number of
/// connections.
#[derive(Debug, Default)]
pub struct Predecessors(Mutex<BTreeMap<u32, u64>>);

impl Predecessors {
    /// Sets the number of connections that a process still has. 0 removes the process.
    pub(crate) fn set(&self, pid: u32, connections: u64) {
        let mut all = self.0.lock();
        match connections {
            0 => all.remove(&pid),
            some => all.insert(pid, some),
        };
    }

    /// Process IDs, each with its number of connections.
    pub fn list(&self) -> Vec<(u32, u64)> {
        let all = self.0.lock();
        all.iter().map(|(pid, open)| (*pid, *open)).collect()
    }
}
