//! The servers of one upstream, and picking among them in a single step.
//!
//! A pick chooses a server (see [`crate::balance`]) and counts the connection on it with a
//! compare-and-swap of the server's state word. If another thread has changed the word since it was
//! read, the pick chooses again. Picks are lock-free, except that they take the lock of each server
//! that is ejected or has failed in the last second, and a lock of the upstream when they request
//! [slots](Pool::set_slot_source).
//!
//! Cost: one cache line and a few nanoseconds per candidate, so a few microseconds for 1,000
//! servers (`benches/core.rs`). A heap would need a lock, and "power of two choices" would only
//! approximate least connections (Envoy issue 4481).

mod builder;
mod candidates;
#[cfg(feature = "tokio")]
pub(crate) mod full;
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
/// fixed. To change a policy or the balancing algorithm, build a [successor](Pool::successor) of
/// the pool. The successor shares the servers, including their connections and health.
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
    /// The queue of the upstream, shared with this pool's predecessors and successors.
    queue: Arc<Queue>,
    /// Serializes updates of the membership.
    updating: Mutex<()>,
    may_be_empty: bool,
    /// The group that contains the upstream's servers, shared with this pool's predecessors and
    /// successors.
    group: Arc<ServerGroup>,
    active: Option<ActivePolicy>,
    passive: PassivePolicy,
    slow_start: Duration,
    #[cfg(feature = "tokio")]
    members: tokio::sync::watch::Sender<Arc<[Member]>>,
}

/// Building a pool or changing its members failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PoolError {
    /// There are no servers; see [`PoolBuilder::may_be_empty`].
    #[error("upstream `{0}` has no servers")]
    Empty(UpstreamId),
    /// Two servers have the same name.
    #[error("upstream `{0}` has two servers named `{1}`")]
    DuplicateServer(UpstreamId, ServerId),
}

/// A member of a pool: a server, which may be shared with other pools, and its settings in this
/// pool.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Member {
    /// The server, with its connection count and health.
    pub server: Arc<Server>,
    /// Share of connections relative to the other members. If any member's weight is a fraction,
    /// the weights of all members are multiplied by the same factor; see
    /// [`Self::effective_weight`].
    pub weight: Weight,
    /// Maximum number of concurrent connections, either as configured or as reported by the
    /// server's agent. `None`: unlimited.
    pub max_conns: Option<NonZeroU32>,
    /// Whether the server is used only while no other server is available.
    pub backup: bool,
    details: Arc<Details>,
}

impl Member {
    /// Returns the weight that the last update set.
    pub fn configured_weight(&self) -> Weight {
        self.details.spec.weight
    }

    /// Returns the zone of the server.
    pub fn zone(&self) -> Option<&ZoneId> {
        self.details.spec.zone.as_ref()
    }

    /// Returns the weight in effect. A weight set by an [operator](Pool::set_weight) takes
    /// precedence. Otherwise, it is the configured weight multiplied by the percentage that the
    /// server's [agent](Pool::agent_reported) reports, or [`Self::configured_weight`] without such
    /// a report. Zero: the server gets no new connections.
    pub fn effective_weight(&self) -> f64 {
        self.details.weight.to_weight()
    }

    /// Returns the weight in effect, in hundredths. If it is zero, returns the configured weight
    /// instead, so that a weight of zero lowers the available capacity of a zone in the same way as
    /// a drain.
    fn capacity(&self) -> u64 {
        let weight = self.details.weight;
        let weight = if weight.is_zero() {
            Hundredths::new(self.configured_weight(), None)
        } else {
            weight
        };
        weight.get().into()
    }

    /// Whether the server has reached its maximum number of concurrent connections, or this
    /// balancer holds none of its free slots.
    pub(crate) fn is_full(&self, now: Instant) -> bool {
        self.has_reached_max_conns() || self.server.lacks_slot(now)
    }

    fn has_reached_max_conns(&self) -> bool {
        let max = self.max_conns;
        max.is_some_and(|max| self.server.in_flight() >= max.get())
    }

    /// Whether the server could be picked if this balancer held one more of its slots.
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

    /// Starts building a pool that replaces this pool when the configuration changes. It starts
    /// with the members and settings of this pool.
    ///
    /// A server with the same name and address in both pools is the same server: it keeps its
    /// connections, health and administrative state. If a server that has left this pool rejoins
    /// while it still has connections, those connections still count. New servers begin with slow
    /// start if it is enabled in the new pool.
    ///
    /// Connections that began with this pool can continue to use it, but its members must no longer
    /// be [updated](Pool::update).
    pub fn successor(&self) -> PoolBuilder<'_> {
        PoolBuilder::succeeding(self)
    }

    /// Replaces the members.
    ///
    /// A server with the same name and address as a current member is the same server. It keeps its
    /// connections, health and administrative state, and gets the new weight, limit and backup
    /// flag.
    ///
    /// A member that is not in `servers` leaves the pool and gets no new connections. Its leases
    /// remain valid and still count, even if the server rejoins later.
    ///
    /// If the pool already has servers, a server that joins begins with slow start, provided that
    /// it is enabled. If some servers remain members and there are [active
    /// checks](PoolBuilder::active), a server that joins is unavailable until its first successful
    /// probe.
    ///
    /// [`Candidates`] that were created before the update keep the old members. [`Selector`]s
    /// follow the update.
    ///
    /// # Errors
    /// If `servers` is empty and the pool [must not be empty](PoolBuilder::may_be_empty), or if two
    /// servers have the same name. In both cases, the members do not change.
    pub fn update(
        &self,
        servers: impl IntoIterator<Item = ServerSpec>,
    ) -> Result<MembershipChange, PoolError> {
        self.update_with(servers, |_| {})
    }

    /// Like [`Self::update`], but calls `prepare` for each joining server before it can be picked.
    /// For example, `prepare` can set the administrative state.
    ///
    /// # Errors
    /// The same as for [`Self::update`].
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

    /// Returns the maximum number of dials in progress to one server; see
    /// [`PoolBuilder::max_connecting`].
    pub fn max_connecting(&self) -> Option<NonZeroU32> {
        self.rules.max_connecting
    }

    /// Returns what happens to connections while no server is available.
    pub fn panic(&self) -> PanicPolicy {
        self.rules.panic
    }

    /// Whether the pool is in panic: no server is available, but at least one server is ejected or
    /// down. Servers in drain or maint and limits by `max_conns` are disregarded.
    pub fn is_panicking(&self) -> bool {
        self.group.is_panicking()
    }

    /// Returns the duration of slow start.
    pub const fn slow_start(&self) -> Duration {
        self.slow_start
    }

    /// Returns the slow start progress of the member `server` at `now`. Returns `None` if the
    /// server may get its whole share or cannot be picked. This call neither starts nor ends slow
    /// start.
    pub fn slow_start_of(&self, server: &Server, now: Instant) -> Option<SlowStart> {
        server.slow_start(now, self.rules.ramp)
    }

    /// Returns the pool's own zone, provided that the pool has servers both in this zone and
    /// outside it. The second value tells whether new connections are sent only to servers in this
    /// zone. It disregards backups and applies to clients that may use all servers.
    pub fn own_zone(&self) -> Option<(&ZoneId, bool)> {
        let membership = self.membership.load();
        let local = membership.all.local()?;
        Some((self.rules.zone.as_ref()?, local.is_mostly_available(false)))
    }

    /// Returns the current members, in the order of the last update.
    pub fn members(&self) -> Arc<[Member]> {
        self.membership.load().all.to_shared()
    }

    /// Returns the servers that have left the pool and still have connections.
    pub fn departed(&self) -> Vec<Arc<Server>> {
        self.membership.load().departed_in_use()
    }

    /// Returns the current member with this name.
    pub fn server(&self, name: &str) -> Option<Arc<Server>> {
        let membership = self.membership.load();
        let mut members = membership.all.members().iter();
        members
            .find(|member| member.server.id().as_str() == name)
            .map(|member| Arc::clone(&member.server))
    }

    /// Returns all current members as candidates.
    pub fn all(&self) -> Candidates {
        self.membership.load().all.clone()
    }

    /// Returns those current members that satisfy `is_allowed` as candidates.
    ///
    /// Create the candidates once per client, not for each connection: with
    /// [`Balance::RoundRobin`], every call begins a new round.
    pub fn subset(&self, is_allowed: impl FnMut(&Server) -> bool) -> Candidates {
        self.membership.load().subset(&self.rules, is_allowed)
    }

    /// Returns the current members that `selector` selects.
    pub fn candidates(&self, selector: &Selector) -> Candidates {
        selector.resolve(&self.membership.load(), &self.rules)
    }

    /// Returns how many connections may wait for a server, and for how long.
    pub fn queue_policy(&self) -> QueuePolicy {
        self.rules.queue
    }

    /// Makes a connection wait for one of the selected servers, after a [pick](Self::pick_for) has
    /// not found any. The future resolves to a lease as soon as a server has a free slot or becomes
    /// available. The caller must limit the waiting time.
    ///
    /// The connections of different clients are served in turn, and those of one client in order of
    /// arrival. A connection that may use only full servers does not delay connections that may use
    /// other servers. While connections wait for a server, it is not picked for new connections.
    ///
    /// If the queue is full, the client with the most waiting connections loses the newest of them.
    /// A single client therefore cannot fill the queue.
    ///
    /// All pools of an upstream share one queue, so a [successor](Self::successor) also serves
    /// connections that are already waiting.
    ///
    /// # Errors
    /// If the queue is full and no client has more waiting connections than `client`, or if none of
    /// the servers could be picked even with a free slot.
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

    /// Serves the connections that wait for an ejected server whose trial is due at `now`. All
    /// other events serve the queue by themselves.
    pub fn serve_queue(&self, now: Instant) {
        self.queue.serve_at(now);
    }

    /// Returns when the next trial connection is due on any of the selected servers that are
    /// ejected.
    pub fn next_trial(&self, selector: &Selector) -> Option<Instant> {
        let candidates = self.candidates(selector);
        let members = candidates.members().iter();
        members.filter_map(|member| member.server.trial_at()).min()
    }

    /// Returns the number of waiting connections and the longest wait so far.
    pub fn queue_status(&self, now: Instant) -> QueueStatus {
        self.queue.status(now)
    }

    /// Sets where more slots come from, for this pool and its predecessors and successors. With
    /// `None`, which is the default, slots are not requested.
    ///
    /// Slots are requested when a server's last slot is taken, and when a pick fails but would have
    /// succeeded with another slot. If a server has more connections than
    /// [slots](Server::set_slots), the end of a connection requests that its slot be taken back.
    ///
    /// If the pool has no queue, a connection can [wait](Self::enqueue) for slots, but no longer
    /// than the source allows.
    pub fn set_slot_source(&self, source: Option<SlotSource>) {
        self.group.set_slot_source(source);
    }

    /// Returns how long a connection may wait in the queue.
    #[cfg(feature = "tokio")]
    pub(crate) fn longest_wait(&self) -> Duration {
        if self.rules.queue.size > 0 {
            self.rules.queue.timeout
        } else {
            self.group.slot_wait()
        }
    }

    /// Notifies when a server becomes available or unavailable. The value tells whether the pool is
    /// in panic.
    #[cfg(feature = "tokio")]
    pub(crate) fn panicking(&self) -> tokio::sync::watch::Receiver<bool> {
        self.group.panicking()
    }

    /// Returns the queue, which the pool shares with its predecessors and successors.
    #[cfg(feature = "tokio")]
    pub(crate) const fn queue(&self) -> &Arc<Queue> {
        &self.queue
    }

    /// Notifies when the members change.
    #[cfg(feature = "tokio")]
    pub(crate) fn watch_members(&self) -> tokio::sync::watch::Receiver<Arc<[Member]>> {
        self.members.subscribe()
    }

    /// Whether a server of `selector` could become available after `now`. This is the case if one
    /// of its `candidates` is ejected or down, or is available and below `max_conns`. If there are
    /// no candidates, or all of them are in drain or maint, the result is whether a further server
    /// may join.
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

    /// Whether servers of `selector` are absent but could become members. Only pools that [may be
    /// empty](PoolBuilder::may_be_empty) are expected to change their members.
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

/// Changes to weights while the pool is in use.
impl Pool {
    /// Sets the weight of the member `server` while the pool is in use. With `None`, resets it to
    /// the weight in its [`ServerSpec`]. Returns `false` if there is no such member.
    ///
    /// With a weight of zero, the server gets no new connections, as in
    /// [drain](crate::AdminState::Drain). If the weight changes from zero while the server has no
    /// connections, slow start begins. Otherwise the new weight takes effect immediately.
    ///
    /// The weight persists as long as the server stays in the pool, including across
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

    /// Records a report that the agent of `server` sent at `time`, and applies it. The
    /// [weight](Self::set_weight) and [state](Server::set_admin) that an operator has set take
    /// precedence.
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

    /// Publishes the weights in effect. The caller must hold the lock for updates.
    fn refresh_weights(&self) {
        let before = self.membership.load_full();
        let mut members = before.all.members().to_vec();
        weights::apply(&mut members);
        for member in &members {
            // Stop new connections before publishing the new weights.
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
