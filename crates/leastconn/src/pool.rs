//! The servers of one upstream, and picking among them in one step.
//!
//! A pick chooses a server (see [`crate::balance`]) and counts the connection on it by
//! compare-and-swap against the word that it saw; if another thread changed the server
//! meanwhile, it chooses again. No lock is taken, except for a server on trial, and some pick
//! always makes progress.
//!
//! Cost: one cache line per candidate; some nanoseconds each, microseconds for 1,000 servers
//! (`benches/core.rs`). A heap would need a lock, and "power of two choices" would be
//! approximate (Envoy issue 4481).

mod builder;
mod candidates;
mod membership;
mod pick;
mod selector;

use std::{
    num::NonZeroU32,
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;

use crate::{
    Weight,
    balance::{Balance, Seeds, slow_start::Ramp},
    health::{ActivePolicy, PassivePolicy},
    server::{Server, ServerGroup, SlowStart},
    spec::{PanicPolicy, ServerId, ServerSpec, UpstreamId},
    sync::{Arc, Mutex, lock},
};
pub use builder::PoolBuilder;
pub use candidates::{Candidates, Tried};
pub use membership::MembershipChange;
use membership::{Membership, Merge};
pub use pick::PickRequest;
pub use selector::Selector;

/// The servers of one upstream.
///
/// The members can change while the pool is in use ([`Pool::update`]); everything else is
/// fixed. To change a policy or the balancing algorithm, build the pool's
/// [successor](Pool::successor), which shares the servers with their connections and health.
///
/// ```
/// use std::time::Instant;
///
/// use leastconn::{Address, Pool, ServerSpec, Tried};
///
/// let server = |address: &str| {
///     Ok::<_, leastconn::AddressError>(ServerSpec::new(address, address.parse::<Address>()?))
/// };
/// let pool = Pool::builder("web")
///     .server(server("10.0.0.1:80")?)
///     .server(server("10.0.0.2:80")?)
///     .build()?;
/// let lease = pool.pick(&pool.all(), &Tried::default(), Instant::now()).expect("both are up");
///
/// // The first server is replaced; its connection stays open and still counts.
/// let change = pool.update([server("10.0.0.2:80")?, server("10.0.0.3:80")?])?;
/// assert_eq!(change.removed[0].as_str(), "10.0.0.1:80");
/// assert_eq!(lease.server().in_flight(), 1);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Pool {
    id: UpstreamId,
    membership: ArcSwap<Membership>,
    /// Serializes updates of the membership.
    updating: Mutex<()>,
    may_be_empty: bool,
    /// Shared with predecessors and successors.
    group: Arc<ServerGroup>,
    active: Option<ActivePolicy>,
    passive: PassivePolicy,
    balance: Balance,
    panic: PanicPolicy,
    slow_start: Duration,
    ramp: Ramp,
    seeds: Seeds,
    #[cfg(feature = "tokio")]
    members: tokio::sync::watch::Sender<Arc<[Member]>>,
}

/// The members of a pool were not changed, or it was not built.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PoolError {
    /// There is no server; see [`PoolBuilder::may_be_empty`].
    #[error("upstream `{0}` has no servers")]
    Empty(UpstreamId),
    /// Two servers have the same name.
    #[error("upstream `{0}` has two servers named `{1}`")]
    DuplicateServer(UpstreamId, ServerId),
}

/// A server as a member of a pool: the server, which is shared, and its settings in this pool.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Member {
    /// The server.
    pub server: Arc<Server>,
    /// Share of connections relative to the other members.
    pub weight: Weight,
    /// Maximum of concurrent connections. `None`: unlimited.
    pub max_conns: Option<NonZeroU32>,
    /// Whether it is used only while no other server is available.
    pub backup: bool,
}

impl Member {
    /// Whether it has as many connections as it may have.
    #[cfg(feature = "tokio")]
    pub(crate) fn is_full(&self) -> bool {
        let max = self.max_conns;
        max.is_some_and(|max| self.server.in_flight() >= max.get())
    }

    fn spec(&self) -> ServerSpec {
        ServerSpec {
            id: self.server.id().clone(),
            address: self.server.address().clone(),
            weight: self.weight,
            max_conns: self.max_conns,
            backup: self.backup,
        }
    }
}

impl Pool {
    /// Starts building the pool of the upstream `id`.
    pub fn builder(id: impl Into<UpstreamId>) -> PoolBuilder<'static> {
        PoolBuilder::new(id.into())
    }

    /// Starts building a pool that takes the place of this one when the configuration
    /// changes, with the members and settings of this one as defaults.
    ///
    /// A server with the same name and address is the same server in both: it keeps its
    /// connections, its health and its administrative state. A server that had left and still
    /// has connections keeps those. New servers begin with slow start, if the new pool has it.
    ///
    /// This pool can still be used by connections that began with it, but its members must
    /// not be [updated](Pool::update) any more.
    pub fn successor(&self) -> PoolBuilder<'_> {
        PoolBuilder::succeeding(self)
    }

    /// Replaces the members.
    ///
    /// A server with the same name and address as a present member is that member: it keeps
    /// its connections, its health and its administrative state, and takes over the new
    /// weight, limit and backup flag. Servers that are not in `servers` get no new
    /// connections; their leases stay valid and count until they end. A server that rejoins
    /// before that keeps its count. New servers begin with slow start, if the pool has it.
    ///
    /// [`Candidates`] made before keep the old members; [`Selector`]s follow.
    ///
    /// # Errors
    /// If `servers` is empty, unless the pool may be, or has two servers of the same name.
    /// The members stay as they were.
    pub fn update(
        &self,
        servers: impl IntoIterator<Item = ServerSpec>,
    ) -> Result<MembershipChange, PoolError> {
        let _updating = lock(&self.updating);
        let before = self.membership.load_full();
        let servers: Vec<_> = servers.into_iter().collect();
        if before.is_same_as(&servers) {
            return Ok(MembershipChange::default());
        }
        let merge = Merge::new(self, servers, Some(&before))?;
        let change = merge.change(&before);
        if self.ramp.is_none() {
            before.end_ramps();
        }
        let members = merge.commit(self);
        let membership = Membership::new(self, members, before.departed());
        self.publish(membership);
        Ok(change)
    }

    fn publish(&self, membership: Membership) {
        #[cfg(feature = "tokio")]
        let members = membership.all.to_shared();
        self.membership.store(Arc::new(membership));
        #[cfg(feature = "tokio")]
        self.members.send_replace(members);
    }

    /// The name of the upstream.
    pub const fn id(&self) -> &UpstreamId {
        &self.id
    }

    /// The balancing algorithm.
    pub const fn balance(&self) -> Balance {
        self.balance
    }

    /// What happens to connections while no server is available.
    pub const fn panic(&self) -> PanicPolicy {
        self.panic
    }

    /// Whether no server is available, but at least one that is ejected or down would be
    /// dialled under [`PanicPolicy::Dial`]. Servers in drain or maint count as absent;
    /// `max_conns` does not matter.
    pub fn is_panicking(&self) -> bool {
        self.group.is_panicking()
    }

    /// The duration of slow start.
    pub const fn slow_start(&self) -> Duration {
        self.slow_start
    }

    /// Progress of `server`, a member, in slow start at `now`. `None`: the server may get its
    /// whole share, or cannot be picked. Does not start or end slow start.
    pub fn slow_start_of(&self, server: &Server, now: Instant) -> Option<SlowStart> {
        server.slow_start(now, self.ramp)
    }

    /// The present members, in the order of the last update.
    pub fn members(&self) -> Arc<[Member]> {
        self.membership.load().all.to_shared()
    }

    /// Servers that left the pool and still have connections.
    pub fn departed(&self) -> Vec<Arc<Server>> {
        self.membership.load().departed_in_use()
    }

    /// The present member with that name.
    pub fn server(&self, name: &str) -> Option<Arc<Server>> {
        let membership = self.membership.load();
        let mut members = membership.all.members().iter();
        members
            .find(|member| member.server.id().as_str() == name)
            .map(|member| Arc::clone(&member.server))
    }

    /// All present members as candidates.
    pub fn all(&self) -> Candidates {
        self.membership.load().all.clone()
    }

    /// The present members that satisfy `is_allowed`, as candidates.
    ///
    /// Make them once for a client, not for each connection: with [`Balance::RoundRobin`]
    /// every call begins a new round.
    pub fn subset(&self, is_allowed: impl FnMut(&Server) -> bool) -> Candidates {
        self.membership.load().subset(self, is_allowed)
    }

    /// The present members that `selector` selects.
    pub fn candidates(&self, selector: &Selector) -> Candidates {
        selector.resolve(self)
    }

    /// Notifies when a server becomes available or unavailable. The value is whether the pool
    /// is in panic.
    #[cfg(feature = "tokio")]
    pub(crate) fn panicking(&self) -> tokio::sync::watch::Receiver<bool> {
        self.group.panicking()
    }

    /// Notifies when the members change.
    #[cfg(feature = "tokio")]
    pub(crate) fn watch_members(&self) -> tokio::sync::watch::Receiver<Arc<[Member]>> {
        self.members.subscribe()
    }

    /// Whether waiting could make a candidate available: one is ejected or down, or has become
    /// available and has room, or the pool has no members yet. Not if all are in drain or
    /// maint, or at `max_conns`.
    #[cfg(feature = "tokio")]
    pub(crate) fn may_recover(&self, candidates: &Candidates) -> bool {
        let may_recover = candidates.members().iter().any(|member| {
            let server = &member.server;
            server.is_unhealthy() || (server.is_available() && !member.is_full())
        });
        may_recover || self.membership.load().all.is_empty()
    }
}

#[cfg(test)]
mod tests;
