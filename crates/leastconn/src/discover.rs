//! Where the members of a pool come from.

use crate::{Pool, ServerSpec};

/// A source of members: the servers of a file, a DNS name or a service registry.
///
/// It yields snapshots of the whole membership, each of which replaces the one before.
/// [`follow`] applies them to a pool.
///
/// The source decides what a failed look-up means. It should keep its last snapshot, and
/// remove a server that is missing from an answer only after a while: a resolver that fails
/// must not take servers down.
///
/// ```
/// use leastconn::{Address, Discover, ServerSpec};
/// use tokio::sync::watch;
///
/// /// Servers that another task publishes.
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
    /// Waits for the next snapshot. The first one should be ready as soon as it is known.
    /// `None`: the membership does not change any more.
    ///
    /// # Cancel safety
    /// Must be cancel safe: a snapshot that was not returned is returned by the next call.
    fn next(&mut self) -> impl Future<Output = Option<Vec<ServerSpec>>> + Send;
}

impl<D: Discover> Discover for &mut D {
    fn next(&mut self) -> impl Future<Output = Option<Vec<ServerSpec>>> + Send {
        (**self).next()
    }
}

/// A fixed list of servers: one snapshot.
#[derive(Clone, Debug, Default)]
pub struct StaticServers(Option<Vec<ServerSpec>>);

impl StaticServers {
    /// The members are these.
    pub fn new(servers: impl IntoIterator<Item = ServerSpec>) -> Self {
        Self(Some(servers.into_iter().collect()))
    }
}

impl Discover for StaticServers {
    fn next(&mut self) -> impl Future<Output = Option<Vec<ServerSpec>>> + Send {
        std::future::ready(self.0.take())
    }
}

/// Applies the snapshots of `discover` to `pool` until there are no more. A snapshot that the
/// pool does not accept is logged, and the members stay as they are.
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
        Err(error) => tracing::warn!(%upstream, %error, "members not updated"),
    }
}
