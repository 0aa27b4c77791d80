//! RAII guard that counts a connection on its server.

use std::fmt;

use crate::{server::Server, sync::Arc};

/// One connection in flight on a server, counted from the pick, before dialling, until the lease
/// is dropped.
///
/// Like tower's `PendingRequests`, a guard needs no explicit release call, so no early return or
/// panic can leak a count.
#[must_use = "the connection counts only while the lease is held"]
pub struct Lease(Arc<Server>);

impl Lease {
    /// Wraps a server whose count was already increased for this lease.
    pub(crate) const fn of_acquired(server: Arc<Server>) -> Self {
        Self(server)
    }

    /// The server that was picked.
    pub fn server(&self) -> &Server {
        &self.0
    }

    /// Releases the count and returns the server.
    pub(crate) fn into_server(self) -> Arc<Server> {
        Arc::clone(&self.0)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.0.release();
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Lease").field(self.0.id()).finish()
    }
}
