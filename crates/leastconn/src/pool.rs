//! The servers of one upstream, and picking among them in one step.
//!
//! A pick chooses a server (see [`crate::balance`]) and counts the connection on it with a
//! compare-and-swap of the word that it has read. If another thread has changed the word
//! since, the pick chooses again. Picks are lock-free, except that they take a lock of each
//! server that is ejected or has failed in the last second.
//!
//! Cost: one cache line and a few nanoseconds per candidate, so a few microseconds for 1,000
//! servers (`benches/core.rs`). A heap would need a lock, and "power of two choices" would
//! only approximate least connections (Envoy issue 4481).

mod builder;
mod candidates;
mod membership;
mod pick;
pub(crate) mod queue;
mod queue_policy;
mod selector;
mod weights;

use std::{
    num::NonZeroU32,
    time::{Duration, Instant, SystemTime},
};

use arc_swap::ArcSwap;

use crate::{
    AgentReport, AgentState, Weight,
    balance::{Balance, Source},
    health::{ActivePolicy, PassivePolicy},
    server::{AgentChange, Server, ServerGroup, SlotSource, SlowStart},
    spec::{ClientId, PanicPolicy, ServerId, ServerSpec, UpstreamId, ZoneId},
    sync::{Arc, Mutex},
    weight::{Hundredths, WeightOverride},
};
pub use builder::PoolBuilder;
pub use candidates::{Candidates, Tried};
pub use membership::MembershipChange;
use membership::{Membership, Merge};
pub use pick::PickRequest;
use pick::PickRules;
use queue::Queue;
pub use queue::{Displaced, EnqueueError, QueueStatus, Waiting};
pub use queue_policy::QueuePolicy;
pub use selector::Selector;
use weights::Details;

/// The servers of one upstream.
///
/// The members can change while the pool is in use ([`Pool::update`]). All other settings are
/// fixed. To change a policy or the balancing algorithm, build a [successor](Pool::successor)
/// of the pool. The successor shares the servers, including their connections and their
/// health.
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
    rules: Arc<PickRules>,
    membership: ArcSwap<Membership>,
    /// The queue of the upstream, shared with predecessors and successors of this pool.
    queue: Arc<Queue>,
    /// Serializes updates of the membership.
    updating: Mutex<()>,
    may_be_empty: bool,
    /// The group of the upstream's servers, shared with predecessors and successors of this
    /// pool.
    group: Arc<ServerGroup>,
    active: Option<ActivePolicy>,
    passive: PassivePolicy,
    slow_start: Duration,
    #[cfg(feature = "tokio")]
    members: tokio::sync::watch::Sender<Arc<[Member]>>,
}

/// An error of building a pool or of changing its members.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PoolError {
    /// The pool has no server; see [`PoolBuilder::may_be_empty`].
    #[error("upstream `{0}` has no servers")]
    Empty(UpstreamId),
    /// Two servers have the same name.
    #[error("upstream `{0}` has two servers named `{1}`")]
    DuplicateServer(UpstreamId, ServerId),
}

/// A member of a pool: a server, which may be shared with other pools, and the settings of
/// the server in this pool.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Member {
    /// The server, with its connection count and its health.
    pub server: Arc<Server>,
    /// Share of connections relative to the other members. While the weight of any member is
    /// a fraction, the weights of all members are multiplied by the same factor; see
    /// [`Self::effective_weight`].
    pub weight: Weight,
    /// Maximum of concurrent connections: the configured one or that of the server's agent.
    /// `None`: unlimited.
    pub max_conns: Option<NonZeroU32>,
    /// Whether the server is used only while no other server is available.
    pub backup: bool,
    details: Arc<Details>,
}

impl Member {
    /// Returns the weight according to the last update.
    pub fn configured_weight(&self) -> Weight {
        self.details.spec.weight
    }

    /// Returns the zone of the server.
    pub fn zone(&self) -> Option<&ZoneId> {
        self.details.spec.zone.as_ref()
    }

    /// Returns the weight in effect: that of an [operator](Pool::set_weight), else the configured
    /// weight multiplied by the percentage that the server's [agent](Pool::agent_reported)
    /// reports, else [`Self::configured_weight`]. Zero: the server gets no new connections.
    pub fn effective_weight(&self) -> f64 {
        self.details.weight.to_weight()
    }

    /// The weight in effect, in hundredths. The configured weight if the weight in effect is zero,
    /// so that a weight of zero lowers the available capacity of a zone like a drain.
    fn capacity(&self) -> u64 {
        let weight = self.details.weight;
        let weight = if weight.is_zero() {
            Hundredths::new(self.configured_weight(), None)
        } else {
            weight
        };
        weight.get().into()
    }

    /// Whether the server has reached its maximum of concurrent connections, or this balancer
    /// holds no free slot of it.
    pub(crate) fn is_full(&self, now: Instant) -> bool {
        self.has_reached_max_conns() || self.server.lacks_slot(now)
    }

    fn has_reached_max_conns(&self) -> bool {
        let max = self.max_conns;
        max.is_some_and(|max| self.server.in_flight() >= max.get())
    }

    /// Whether the server could be picked if this balancer held another slot of it.
    pub(crate) fn lacks_only_slot(&self, now: Instant) -> bool {
        self.server.lacks_slot(now)
            && !self.has_reached_max_conns()
            && self.server.is_available_at(now)
    }

    fn spec(&self) -> &ServerSpec {
        &self.details.spec
    }
}

impl Pool {
    /// Starts building the pool of the upstream `id`.
    pub fn builder(id: impl Into<UpstreamId>) -> PoolBuilder<'static> {
        PoolBuilder::new(id.into())
    }

    /// Starts building a pool that replaces this pool when the configuration changes. The
    /// members and settings of this pool are the defaults.
    ///
    /// A server with the same name and address in both pools is the same server: it keeps its
    /// connections, its health and its administrative state. If a server that has left this
    /// pool rejoins while it still has connections, those connections still count. New
    /// servers begin with slow start if it is enabled in the new pool.
    ///
    /// Connections that began with this pool can continue to use it, but its members must not
    /// be [updated](Pool::update) any more.
    pub fn successor(&self) -> PoolBuilder<'_> {
        PoolBuilder::succeeding(self)
    }

    /// Replaces the members.
    ///
    /// A server with the same name and address as a present member is the same server. It
    /// keeps its connections, its health and its administrative state, and gets the new
    /// weight, limit and backup flag.
    ///
    /// A member that is not in `servers` leaves the pool and gets no new connections. The
    /// leases of that server remain valid and still count. If the server rejoins while it has
    /// leases, the leases still count.
    ///
    /// If the pool has servers already, a server that joins begins with slow start if it is
    /// enabled. If some servers stay members, a server that joins is unavailable until its
    /// first successful probe, provided that there are [active checks](PoolBuilder::active).
    ///
    /// [`Candidates`] that were made before the update keep the old members. [`Selector`]s
    /// follow the update.
    ///
    /// # Errors
    /// If `servers` is empty and the pool [must not be empty](PoolBuilder::may_be_empty), or
    /// if two servers have the same name. The members do not change in these cases.
    pub fn update(
        &self,
        servers: impl IntoIterator<Item = ServerSpec>,
    ) -> Result<MembershipChange, PoolError> {
        self.update_with(servers, |_| {})
    }

    /// Like [`Self::update`], but calls `prepare` for each server that joins, before it can be
    /// picked. For example, `prepare` can set the administrative state.
    ///
    /// # Errors
    /// As [`Self::update`].
    pub fn update_with(
        &self,
        servers: impl IntoIterator<Item = ServerSpec>,
        prepare: impl Fn(&Server),
    ) -> Result<MembershipChange, PoolError> {
        let _updating = self.updating.lock();
        let before = self.membership.load_full();
        let servers: Vec<_> = servers.into_iter().collect();
        if before.is_same_as(&servers) {
            return Ok(MembershipChange::default());
        }
        let merge = Merge::new(self, servers, Some(&before))?;
        let change = merge.change(&before);
        if self.rules.ramp.is_none() {
            before.end_ramps();
        }
        let members = merge.commit(self, prepare);
        let membership = Membership::new(&self.rules, members, before.departed());
        self.publish(membership);
        Ok(change)
    }

    fn publish(&self, membership: Membership) {
        #[cfg(feature = "tokio")]
        let members = membership.all.to_shared();
        let membership = Arc::new(membership);
        self.membership.store(Arc::clone(&membership));
        self.queue.set_newest(&self.rules, &membership);
        #[cfg(feature = "tokio")]
        self.members.send_replace(members);
    }

    /// Returns the name of the upstream.
    pub fn id(&self) -> &UpstreamId {
        &self.rules.upstream
    }

    /// Returns the balancing algorithm.
    pub fn balance(&self) -> Balance {
        self.rules.balance
    }

    /// The maximum of dials in progress on one server; see [`PoolBuilder::max_connecting`].
    pub fn max_connecting(&self) -> Option<NonZeroU32> {
        self.rules.max_connecting
    }

    /// Returns what happens to connections while no server is available.
    pub fn panic(&self) -> PanicPolicy {
        self.rules.panic
    }

    /// Whether the pool is in panic: no server is available, but at least one server is
    /// ejected or down. Servers in drain or maint are disregarded, and so is `max_conns`.
    pub fn is_panicking(&self) -> bool {
        self.group.is_panicking()
    }

    /// Returns the duration of slow start.
    pub const fn slow_start(&self) -> Duration {
        self.slow_start
    }

    /// Returns the slow start progress of the member `server` at `now`. Returns `None` if the
    /// server may get its whole share or cannot be picked. The call neither starts nor ends
    /// slow start.
    pub fn slow_start_of(&self, server: &Server, now: Instant) -> Option<SlowStart> {
        server.slow_start(now, self.rules.ramp)
    }

    /// Returns the own zone, if the pool has servers both in this zone and outside it. The
    /// second value is whether new connections are sent only to servers in this zone. It
    /// disregards backups and applies to clients that may use all servers.
    pub fn own_zone(&self) -> Option<(&ZoneId, bool)> {
        let membership = self.membership.load();
        let local = membership.all.local()?;
        Some((self.rules.zone.as_ref()?, local.is_mostly_available(false)))
    }

    /// Returns the present members, in the order of the last update.
    pub fn members(&self) -> Arc<[Member]> {
        self.membership.load().all.to_shared()
    }

    /// Returns the servers that left the pool and still have connections.
    pub fn departed(&self) -> Vec<Arc<Server>> {
        self.membership.load().departed_in_use()
    }

    /// Returns the present member with this name.
    pub fn server(&self, name: &str) -> Option<Arc<Server>> {
        let membership = self.membership.load();
        let mut members = membership.all.members().iter();
        members
            .find(|member| member.server.id().as_str() == name)
            .map(|member| Arc::clone(&member.server))
    }

    /// Returns all present members as candidates.
    pub fn all(&self) -> Candidates {
        self.membership.load().all.clone()
    }

    /// Returns the present members that satisfy `is_allowed`, as candidates.
    ///
    /// Create the candidates once per client, not for each connection: with
    /// [`Balance::RoundRobin`] every call begins a new round.
    pub fn subset(&self, is_allowed: impl FnMut(&Server) -> bool) -> Candidates {
        self.membership.load().subset(&self.rules, is_allowed)
    }

    /// Returns the present members that `selector` selects.
    pub fn candidates(&self, selector: &Selector) -> Candidates {
        selector.resolve(&self.membership.load(), &self.rules)
    }

    /// Returns how many connections may wait for a server, and for how long.
    pub fn queue_policy(&self) -> QueuePolicy {
        self.rules.queue
    }

    /// Makes a connection wait for one of the selected servers, after a [pick](Self::pick_for)
    /// has found none. The future resolves to a lease when a server has a free slot, or becomes
    /// available. The caller limits the time of waiting.
    ///
    /// Connections of different clients are served in turn; those of one client in order. A
    /// connection that may use only servers that are full does not delay connections that may
    /// use other servers. While connections wait for a server, it is not picked for others.
    ///
    /// If the queue is full, the newest connection of the client with the most waiting
    /// connections loses its place. A client therefore cannot fill the queue for others.
    ///
    /// All pools of an upstream share one queue, so a [successor](Self::successor) serves
    /// connections that wait already.
    ///
    /// # Errors
    /// If the queue is full of connections of clients that have no more of them than `client`,
    /// or if none of the servers could be picked even if it had a free slot.
    pub fn enqueue(
        &self,
        selector: &Selector,
        client: Option<&ClientId>,
        source: Option<Source>,
        now: Instant,
    ) -> Result<Waiting, EnqueueError> {
        let waits_for_slots = !self.group.slot_wait().is_zero();
        self.queue
            .enqueue(selector, client, source, now, waits_for_slots)
    }

    /// Serves waiting connections for which an ejected server has become due for a trial
    /// connection by `now`. In all other cases, the queue is served by the event itself.
    pub fn serve_queue(&self, now: Instant) {
        self.queue.serve_at(now);
    }

    /// Returns when the next of the selected servers that are ejected is due for a trial
    /// connection.
    pub fn next_trial(&self, selector: &Selector) -> Option<Instant> {
        let candidates = self.candidates(selector);
        let members = candidates.members().iter();
        members.filter_map(|member| member.server.trial_at()).min()
    }

    /// Returns how many connections wait for a server, and for how long.
    pub fn queue_status(&self, now: Instant) -> QueueStatus {
        self.queue.status(now)
    }

    /// Sets where more slots come from, for this pool and for its predecessors and successors.
    /// With `None`, which is the default, slots are not requested.
    ///
    /// Slots are requested when the last slot of a server is taken, and when a pick fails that
    /// another slot would have made possible. A connection that ends on a server with more
    /// connections than [slots](Server::set_slots) requests that the slot be taken back.
    ///
    /// If the pool has no queue, a connection can [wait](Self::enqueue) for slots, at most for
    /// the time that is part of the source.
    pub fn set_slot_source(&self, source: Option<SlotSource>) {
        self.group.set_slot_source(source);
    }

    /// How long a connection may wait in the queue.
    #[cfg(feature = "tokio")]
    pub(crate) fn longest_wait(&self) -> Duration {
        if self.rules.queue.size > 0 {
            self.rules.queue.timeout
        } else {
            self.group.slot_wait()
        }
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

    /// Whether a server of `selector` could become available after `now`. Returns `true` if one of its
    /// `candidates` is ejected or down, or available and below `max_conns`. If all of them are in
    /// drain or maint, or there are none, returns whether a further server may join.
    #[cfg(feature = "tokio")]
    pub(crate) fn may_recover(
        &self,
        selector: &Selector,
        candidates: &Candidates,
        now: Instant,
    ) -> bool {
        let may_recover = candidates.members().iter().any(|member| {
            let server = &member.server;
            server.is_unhealthy() || (server.is_available() && !member.is_full(now))
        });
        may_recover || (are_withdrawn(candidates) && self.may_join(selector, candidates))
    }

    /// Whether all candidates are in drain or maint, and no further server of `selector` may join.
    #[cfg(feature = "tokio")]
    pub(crate) fn is_withdrawn(&self, selector: &Selector, candidates: &Candidates) -> bool {
        are_withdrawn(candidates) && !self.may_join(selector, candidates)
    }

    /// Whether servers of `selector` are absent, but could become members. Only pools that
    /// [may be empty](PoolBuilder::may_be_empty) are expected to change their members.
    #[cfg(feature = "tokio")]
    fn may_join(&self, selector: &Selector, candidates: &Candidates) -> bool {
        self.may_be_empty && selector.has_absent_servers(candidates)
    }
}

#[cfg(feature = "tokio")]
fn are_withdrawn(candidates: &Candidates) -> bool {
    let mut servers = candidates.members().iter().map(|member| &member.server);
    servers.all(|server| !server.is_available() && !server.is_unhealthy())
}

/// Weights that are changed while the pool is in use.
impl Pool {
    /// Sets the weight of the member `server` while the pool is in use, or resets it to the
    /// weight of its [`ServerSpec`] with `None`. Returns `false` if there is no such member.
    ///
    /// With a weight of zero the server gets no new connections, as in
    /// [drain](crate::AdminState::Drain). Slow start begins if the weight of a server without
    /// connections changes from zero. Otherwise the new weight is applied at once.
    ///
    /// The weight persists as long as the server stays in the pool, also across
    /// [updates](Self::update) and in a [successor](Self::successor).
    ///
    /// ```
    /// use leastconn::{Address, Pool, ServerSpec, WeightOverride};
    ///
    /// let server = |address: &str| {
    ///     Ok::<_, leastconn::AddressError>(ServerSpec::new(address, address.parse::<Address>()?))
    /// };
    /// let pool = Pool::builder("web")
    ///     .server(server("10.0.0.1:80")?)
    ///     .server(server("10.0.0.2:80")?)
    ///     .build()?;
    /// assert!(pool.set_weight("10.0.0.1:80", Some(WeightOverride::Percent(50))));
    /// assert_eq!(pool.members()[0].effective_weight(), 0.5);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn set_weight(&self, server: &str, weight: Option<WeightOverride>) -> bool {
        let _updating = self.updating.lock();
        let Some(server) = self.server(server) else {
            return false;
        };
        if server.set_weight_override(weight) {
            self.refresh_weights();
        }
        true
    }

    /// Records a report of the agent of `server` at `time`, and applies it. The weight that an
    /// operator has [set](Self::set_weight) and the state that an operator has
    /// [set](Server::set_admin) take precedence.
    pub fn agent_reported(
        &self,
        server: &Server,
        report: &AgentReport,
        time: SystemTime,
    ) -> AgentChange {
        let _updating = self.updating.lock();
        let change = server.agent_reported(report, time);
        if change.settings {
            self.refresh_weights();
        }
        change
    }

    /// Resets the state reported by agents. Must be called when agent checks end.
    pub fn forget_agents(&self, time: SystemTime) {
        let _updating = self.updating.lock();
        let members = self.members();
        let changes = members
            .iter()
            .map(|member| member.server.set_agent(AgentState::default(), time));
        if changes.fold(false, |settings, change| settings | change.settings) {
            self.refresh_weights();
        }
    }

    /// Publishes the weights in effect. The caller holds the lock of updates.
    fn refresh_weights(&self) {
        let before = self.membership.load_full();
        let mut members = before.all.members().to_vec();
        weights::apply(&mut members);
        for member in &members {
            // Stop new connections before the new weights are published.
            if member.details.weight.is_zero() {
                member.server.set_zero_weight(true);
            }
        }
        let returned: Vec<_> = members
            .iter()
            .filter(|member| !member.details.weight.is_zero())
            .map(|member| Arc::clone(&member.server))
            .collect();
        self.publish(Membership::new(
            &self.rules,
            members.into(),
            before.departed(),
        ));
        for server in returned {
            server.set_zero_weight(false);
        }
    }
}

#[cfg(test)]
mod tests;
