//! RAII guard that counts a connection on its server.

use std::fmt;

use crate::{server::Server, sync::Arc};

/// One connection in flight on a server. The connection is counted from the pick, before the
/// server is dialled, until the lease is dropped.
///
/// The lease is a guard, like `PendingRequests` in tower. It needs no explicit release call,
/// so neither an early return nor a panic leaks a count.
#[must_use = "the connection counts only while the lease is held"]
pub struct Lease(Arc<Server>);

impl Lease {
    /// Wraps a server on which this connection has already been counted.
    pub(crate) const fn of_acquired(server: Arc<Server>) -> Self {
        Self(server)
    }

    /// The server that was picked.
    pub fn server(&self) -> &Server {
        &self.0
    }

    /// Ends the lease, so that the connection no longer counts, and returns the server.
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
