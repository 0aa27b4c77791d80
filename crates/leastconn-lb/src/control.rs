//! What the admin side may ask of the balancer that it shows. It knows no more of what
//! serves, so that what serves may know of it: where the admin side listens is part of
//! the configuration that a reload changes.

use std::{fmt, future::Future, net::SocketAddr, pin::Pin, sync::Arc};

use tokio::runtime::Handle;

use crate::shared::LastReload;

/// A balancer that can be asked.
pub trait Control: fmt::Debug + Send + Sync {
    /// Each listener's name and bound address, in the configuration's order.
    fn addresses(&self) -> Vec<(Arc<str>, SocketAddr)>;

    /// How many connections may be open at once.
    fn max_connections(&self) -> usize;

    /// The runtime of connections.
    fn runtime(&self) -> &Handle;

    /// Reads the configuration anew, checks it, and applies what changed. Waits for a
    /// reload that is going on.
    ///
    /// # Cancel safety
    /// What has begun is finished.
    fn reload(self: Arc<Self>) -> Pin<Box<dyn Future<Output = LastReload> + Send>>;
}
