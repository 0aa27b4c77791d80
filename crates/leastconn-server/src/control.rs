//! The operations of the reloader that the admin side needs. They are a trait, because the admin
//! side must not depend on the reloader: the reloader depends on the admin side, whose addresses a
//! reload may change.

use std::{fmt, future::Future, net::SocketAddr, path::Path, pin::Pin, sync::Arc};

use tokio::runtime::Handle;

use crate::{context::LastReload, overrides::Replaced};

/// Operations of the reloader that the admin side uses.
pub trait Control: fmt::Debug + Send + Sync {
    /// Each listener's name and bound address, in the order of the configuration. Does not
    /// wait for a reload in progress.
    fn addresses(&self) -> Vec<(Arc<str>, SocketAddr)>;

    /// Each listener's name and UNIX socket path.
    fn paths(&self) -> Vec<(Arc<str>, Arc<Path>)>;

    /// Maximum number of open connections.
    fn max_connections(&self) -> usize;

    /// The Tokio runtime that serves client connections.
    fn runtime(&self) -> &Handle;

    /// Reads and checks the configuration, and applies the difference. Waits for a reload in
    /// progress.
    ///
    /// # Errors
    /// If a successor process has taken over. Send the request to that process instead.
    ///
    /// # Cancel safety
    /// If the future is dropped, the reload still runs.
    fn reload(
        self: Arc<Self>,
    ) -> Pin<Box<dyn Future<Output = Result<LastReload, Replaced>> + Send>>;
}
