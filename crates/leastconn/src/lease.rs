//! A connection's place on a server, counted while the lease lives.

use std::fmt;

use crate::{server::Server, sync::Arc};

/// One connection in flight on a server: counted when picked, before anything
/// is dialled, and until this is dropped.
///
/// Load as a reference count (as in tower's `PendingRequests`): there is no
/// call to forget and no path, early return or panic that leaks a count.
#[must_use = "the connection counts only while the lease is held"]
pub struct Lease(Arc<Server>);

impl Lease {
    /// `server` must have been acquired for this lease.
    pub(crate) const fn of_acquired(server: Arc<Server>) -> Self {
        Self(server)
    }

    /// The server that was picked.
    pub fn server(&self) -> &Server {
        &self.0
    }

    /// Ends the lease and keeps the server.
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
