//! Builds an upstream's first pool, or the successor of a pool.

use std::{
    num::NonZeroU32,
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;

use super::{
    Candidates, Pool, PoolError, QueuePolicy,
    membership::{Membership, Merge},
    pick::PickRules,
    queue::Queue,
};
use crate::{
    balance::{Balance, Seeds, slow_start::Ramp},
    health::{ActivePolicy, PassivePolicy},
    server::{Counting, ServerGroup},
    spec::{PanicPolicy, ServerSpec, UpstreamId, ZoneId},
    sync::{Arc, Mutex},
};

/// Builds a [`Pool`]; see [`Pool::builder`] and [`Pool::successor`].
#[derive(Clone, Debug)]
#[must_use]
pub struct PoolBuilder<'a> {
    id: UpstreamId,
    servers: Vec<ServerSpec>,
    may_be_empty: bool,
    active: Option<ActivePolicy>,
    passive: PassivePolicy,
    max_connecting: Option<NonZeroU32>,
    balance: Balance,
    panic: PanicPolicy,
    slow_start: Duration,
    zone: Option<ZoneId>,
    queue: QueuePolicy,
    clock: Option<fn() -> Instant>,
    seed: u64,
    predecessor: Option<&'a Pool>,
}

impl PoolBuilder<'static> {
    pub(super) fn new(id: UpstreamId) -> Self {
        Self {
            id,
            servers: Vec::new(),
            may_be_empty: false,
            active: None,
            passive: PassivePolicy::default(),
            max_connecting: None,
            balance: Balance::default(),
            panic: PanicPolicy::default(),
            slow_start: Duration::ZERO,
            zone: None,
            queue: QueuePolicy::default(),
            clock: None,
            seed: 0,
            predecessor: None,
        }
    }
}

impl<'a> PoolBuilder<'a> {
    pub(super) fn succeeding(pool: &'a Pool) -> Self {
        let members = pool.members();
        Self {
            id: pool.id().clone(),
            servers: members.iter().map(|member| member.spec().clone()).collect(),
            may_be_empty: pool.may_be_empty,
            active: pool.active,
            passive: pool.passive,
            max_connecting: pool.max_connecting(),
            balance: pool.balance(),
            panic: pool.panic(),
            slow_start: pool.slow_start,
            zone: pool.rules.zone.clone(),
            queue: pool.queue_policy(),
            clock: pool.rules.clock,
            seed: pool.rules.seeds.next(),
            predecessor: Some(pool),
        }
    }

    /// Adds a server to the initial members.
    pub fn server(mut self, server: ServerSpec) -> Self {
        self.servers.push(server);
        self
    }

    /// Replaces all servers, including those of the predecessor pool.
    pub fn servers(mut self, servers: impl IntoIterator<Item = ServerSpec>) -> Self {
        self.servers = servers.into_iter().collect();
        self
    }

    /// Sets whether the pool may have no servers, for example because its members are not known
    /// yet. The default is `false`: [`Self::build`] and [`Pool::update`] then fail if there are no
    /// servers, so that a faulty source of members cannot remove all of them.
    pub const fn may_be_empty(mut self, may_be_empty: bool) -> Self {
        self.may_be_empty = may_be_empty;
        self
    }

    /// Sets how many consecutive health checks change a server's state. With `None`, which is the
    /// default, the results of health checks are ignored.
    pub fn active(mut self, policy: impl Into<Option<ActivePolicy>>) -> Self {
        self.active = policy.into();
        self
    }

    /// Sets how connect failures and early failures eject a server. [`PassivePolicy`] documents the
    /// default.
    pub const fn passive(mut self, policy: PassivePolicy) -> Self {
        self.passive = policy;
        self
    }

    /// Sets the maximum number of dials in progress to one server. A server at this maximum is
    /// picked only if all other servers of its kind (backup or not) that could be picked are also
    /// at the maximum. With `None`, which is the default, there is no maximum.
    ///
    /// A dial is in progress until [`Lease::connected`](crate::Lease::connected) is called or the
    /// lease is dropped. `net::Connect` calls that method.
    pub const fn max_connecting(mut self, max: Option<NonZeroU32>) -> Self {
        self.max_connecting = max;
        self
    }

    /// Sets the balancing algorithm. The default is [`Balance::LeastConn`].
    pub const fn balance(mut self, balance: Balance) -> Self {
        self.balance = balance;
        self
    }

    /// Sets what happens to connections while no server is available. The default is
    /// [`PanicPolicy::Dial`].
    pub const fn panic(mut self, policy: PanicPolicy) -> Self {
        self.panic = policy;
        self
    }

    /// Sets how long a server takes to reach its whole share of new connections. Slow start begins
    /// when a server recovers from being down or ejected, when it leaves maintenance, and when it
    /// joins a running pool. It also begins when a drained server without connections becomes
    /// ready. With zero, which is the default, a server gets its whole share immediately. The first
    /// servers of a pool always do.
    ///
    /// At first, the server gets at most a tenth of its share by weight. This limit grows linearly
    /// up to the whole share. With least connections, a server that has fewer connections than its
    /// share implies may get more: up to 1.4 times its share, and even after this duration, until
    /// it has as many connections as its peers. After 60 times this duration, the limit doubles
    /// with each further period. Time is measured from the first pick that could have chosen the
    /// server. If all available servers are in slow start, connections are distributed according to
    /// their progress.
    pub const fn slow_start(mut self, duration: Duration) -> Self {
        self.slow_start = duration;
        self
    }

    /// Sets the pool's own zone. By default there is none, and the zones of servers are ignored.
    ///
    /// As long as at least half of the weight of the servers in this zone is available, connections
    /// are sent only to these servers. Otherwise the servers of all zones are used equally, so that
    /// the remaining servers in this zone are not overloaded. A connection also goes to another
    /// zone if all servers in this zone are at `max_conns` or have already been tried.
    ///
    /// The rule applies first to the servers that are not backups, then to the backups. It does not
    /// apply to servers that are dialled because no server is available.
    pub fn zone(mut self, zone: impl Into<Option<ZoneId>>) -> Self {
        self.zone = zone.into();
        self
    }

    /// Sets how many connections may wait while all servers are at `max_conns`. By default,
    /// connections do not wait.
    pub const fn queue(mut self, policy: QueuePolicy) -> Self {
        self.queue = policy;
        self
    }

    /// Sets the clock that is read when the end of a connection serves the queue. By default, there
    /// is none, and the latest time that was passed to a method of the pool is used. That time is
    /// too old after the process was paused, so that slots which have
    /// [expired](crate::SlotGrant::expiring) in the meantime would be used.
    pub const fn clock(mut self, clock: fn() -> Instant) -> Self {
        self.clock = Some(clock);
        self
    }

    /// Sets the seed for breaking ties and for random choices. With the same seed, the same
    /// sequence of operations picks the same servers. The default is 0 or, for a successor, a
    /// number from its predecessor's random sequence.
    pub const fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// Builds the pool.
    ///
    /// # Errors
    /// If there are no servers and [`Self::may_be_empty`] is not set, or if two servers have the
    /// same name. In both cases, the predecessor pool does not change.
    pub fn build(self) -> Result<Pool, PoolError> {
        let before = self.predecessor.map(|pool| pool.membership.load_full());
        let (queue, group) = match self.predecessor {
            Some(pool) => (Arc::clone(&pool.queue), Arc::clone(&pool.group)),
            None => {
                let queue = Arc::<Queue>::default();
                let slots = Arc::<Queue>::clone(&queue);
                (queue, Arc::new(ServerGroup::new(self.id.clone(), slots)))
            }
        };
        let rules = PickRules {
            upstream: self.id,
            balance: self.balance,
            panic: self.panic,
            ramp: Ramp::new(self.slow_start),
            seeds: Seeds::new(self.seed),
            zone: self.zone,
            max_connecting: self.max_connecting,
            counting: match self.max_connecting {
                Some(_) => Counting::DIAL,
                None => Counting::CONNECTION,
            },
            queue: self.queue,
            clock: self.clock,
        };
        let none = Candidates::new(Arc::new([]), 0, rules.balance, None, &rules.seeds);
        let pool = Pool {
            rules: Arc::new(rules),
            queue,
            membership: ArcSwap::from_pointee(Membership::empty(none)),
            updating: Mutex::new(()),
            may_be_empty: self.may_be_empty,
            group,
            active: self.active,
            passive: self.passive,
            slow_start: self.slow_start,
            #[cfg(feature = "tokio")]
            members: tokio::sync::watch::Sender::new(Arc::new([])),
        };
        let merge = Merge::new(&pool, self.servers, before.as_deref())?;
        // No step below can fail, so the servers shared with the predecessor may now be changed.
        if let (Some(predecessor), Some(before)) = (self.predecessor, &before)
            && predecessor.rules.ramp.is_none()
        {
            before.end_ramps();
        }
        pool.group.set_panic(pool.panic());
        let members = merge.commit(&pool, |_| {});
        let departed = before.map_or_else(Vec::new, |before| before.departed());
        pool.publish(Membership::new(&pool.rules, members, departed));
        Ok(pool)
    }
}
