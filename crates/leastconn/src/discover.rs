//! Discovery of the members of a pool.

use crate::{Pool, ServerSpec};

/// A source of members, for example a file, a DNS name or a service registry.
///
/// Yields complete member lists, each of which replaces the previous one. [`follow`] applies the
/// lists to a pool.
///
/// The implementation decides how to handle a failed lookup. It should keep its last list, and it
/// should remove a server that is missing from an answer only after a delay. Otherwise a failing
/// resolver would take servers down.
///
/// ```
/// use leastconn::{Address, Discover, ServerSpec};
/// use tokio::sync::watch;
///
/// /// A list of servers that another task publishes.
/// struct Watched(watch::Receiver<Vec<ServerSpec>>);
///
/// impl Discover for Watched {
///     async fn next(&mut self) -> Option<Vec<ServerSpec>> {
///         self.0.changed().await.ok()?;
///         Some(self.0.borrow_and_update().clone())
///     }
/// }
/// ```
pub trait Discover: Send {
    /// Waits for the next member list. The first call should complete as soon as the members are
    /// known. Returns `None` if the membership will never change again.
    ///
    /// # Cancel safety
    /// Implementations must be cancel safe: if the future is dropped, the next call returns
    /// the list that this call would have returned.
    fn next(&mut self) -> impl Future<Output = Option<Vec<ServerSpec>>> + Send;
}

impl<D: Discover> Discover for &mut D {
    fn next(&mut self) -> impl Future<Output = Option<Vec<ServerSpec>>> + Send {
        (**self).next()
    }
}

/// A fixed list of servers, which yields a single member list.
#[derive(Clone, Debug, Default)]
pub struct StaticServers(Option<Vec<ServerSpec>>);

impl StaticServers {
    /// Creates a source whose only member list contains these servers.
    pub fn new(servers: impl IntoIterator<Item = ServerSpec>) -> Self {
        Self(Some(servers.into_iter().collect()))
    }
}

impl Discover for StaticServers {
    fn next(&mut self) -> impl Future<Output = Option<Vec<ServerSpec>>> + Send {
        std::future::ready(self.0.take())
    }
}

/// Applies the member lists from `discover` to `pool` until there are no more lists. If the pool
/// rejects a list, the error is logged and the members stay the same.
///
/// # Cancel safety
/// Cancel safe.
pub async fn follow(pool: &Pool, mut discover: impl Discover) {
    while let Some(servers) = discover.next().await {
        let updated = pool.update(servers);
        #[cfg(feature = "tokio")]
        log(pool, &updated);
        #[cfg(not(feature = "tokio"))]
        let _ = updated;
    }
}

#[cfg(feature = "tokio")]
fn log(pool: &Pool, updated: &Result<crate::MembershipChange, crate::PoolError>) {
    let upstream = pool.id();
    match updated {
        Ok(change) => {
            for server in &change.added {
                tracing::info!(%upstream, %server, "server joined");
            }
            for server in &change.removed {
                tracing::info!(%upstream, %server, "server left");
            }
        }
        Err(error) => tracing::warn!(%upstream, %error, "member update rejected"),
    }
}
