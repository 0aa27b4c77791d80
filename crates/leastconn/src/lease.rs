//! A RAII guard that counts a connection on its server.

use std::fmt;

use crate::{
    server::{Counting, Server},
    sync::Arc,
};

/// One connection in flight on a server. The connection counts from the pick, before the server is
/// dialled, until the lease is dropped.
///
/// The lease is a guard, like `PendingRequests` in tower. It does not need to be released
/// explicitly, so neither an early return nor a panic leaks a count.
#[must_use = "the connection counts only while the lease is held"]
pub struct Lease {
    server: Arc<Server>,
    counting: Counting,
}

impl Lease {
    /// Wraps a server on which the connection has already been counted.
    pub(crate) const fn of_acquired(server: Arc<Server>, counting: Counting) -> Self {
        Self { server, counting }
    }

    /// Returns the server that was picked.
    pub fn server(&self) -> &Arc<Server> {
        &self.server
    }

    /// Records that the connection to the server is established, so that it no longer counts as a
    /// dial in progress. This matters only if the pool [limits](crate::PoolBuilder::max_connecting)
    /// dials in progress.
    pub fn connected(&mut self) {
        if self.counting == Counting::DIAL {
            self.server.dialled();
            self.counting = Counting::CONNECTION;
        }
    }

    /// Ends the lease, so that the connection no longer counts, and returns the server.
    pub(crate) fn into_server(self) -> Arc<Server> {
        Arc::clone(&self.server)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.server.release(self.counting);
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Lease").field(self.server.id()).finish()
    }
}
