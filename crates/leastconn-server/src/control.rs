//! What the admin side may ask of the balancer that it shows. It knows no more of what
//! serves, so that what serves may know of it: where the admin side listens is part of
//! the configuration that a reload changes.

use std::{fmt, future::Future, net::SocketAddr, path::Path, pin::Pin, sync::Arc};

use tokio::runtime::Handle;

use crate::{context::LastReload, overrides::Replaced};

/// A balancer that can be asked.
pub trait Control: fmt::Debug + Send + Sync {
    /// Each listener's name and bound address, in the configuration's order. Waits for
    /// nothing, not even for a reload that is being applied.
    fn addresses(&self) -> Vec<(Arc<str>, SocketAddr)>;

    /// The same of UNIX sockets.
    fn paths(&self) -> Vec<(Arc<str>, Arc<Path>)>;

    /// How many connections may be open at once.
    fn max_connections(&self) -> usize;

    /// The runtime of connections.
    fn runtime(&self) -> &Handle;

    /// Reads the configuration anew, checks it, and applies what changed. Waits for a
    /// reload that is going on.
    ///
    /// # Errors
    /// If another process has taken the place of this one, and is to be asked.
    ///
    /// # Cancel safety
    /// What was asked for is done, in its turn, and told to the service manager.
    fn reload(
        self: Arc<Self>,
    ) -> Pin<Box<dyn Future<Output = Result<LastReload, Replaced>> + Send>>;
}
