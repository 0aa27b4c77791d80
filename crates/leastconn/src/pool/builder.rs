//! Building a pool, the first one of an upstream or a successor.

use std::time::Duration;

use arc_swap::ArcSwap;

use super::{
    Candidates, Pool, PoolError,
    membership::{Membership, Merge},
};
use crate::{
    balance::{Balance, Seeds, slow_start::Ramp},
    health::{ActivePolicy, PassivePolicy},
    server::ServerGroup,
    spec::{PanicPolicy, ServerSpec, UpstreamId},
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
    balance: Balance,
    panic: PanicPolicy,
    slow_start: Duration,
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
            balance: Balance::default(),
            panic: PanicPolicy::default(),
            slow_start: Duration::ZERO,
            seed: 0,
            predecessor: None,
        }
    }
}

impl<'a> PoolBuilder<'a> {
    pub(super) fn succeeding(pool: &'a Pool) -> Self {
        let members = pool.members();
        Self {
            id: pool.id.clone(),
            servers: members.iter().map(|member| member.spec()).collect(),
            may_be_empty: pool.may_be_empty,
            active: pool.active,
            passive: pool.passive,
            balance: pool.balance,
            panic: pool.panic,
            slow_start: pool.slow_start,
            seed: pool.seeds.next(),
            predecessor: Some(pool),
        }
    }

    /// Adds a server.
    pub fn server(mut self, server: ServerSpec) -> Self {
        self.servers.push(server);
        self
    }

    /// Replaces all servers, including those of the predecessor.
    pub fn servers(mut self, servers: impl IntoIterator<Item = ServerSpec>) -> Self {
        self.servers = servers.into_iter().collect();
        self
    }

    /// Whether the pool may have no servers at all, for a membership that is not known yet.
    /// The default is `false`: [`Self::build`] and [`Pool::update`] fail without servers, so
    /// that a broken source of members does not take all of them out.
    pub const fn may_be_empty(mut self, may_be_empty: bool) -> Self {
        self.may_be_empty = may_be_empty;
        self
    }

    /// How many health checks change the state of a server. The default is `None`: outcomes of
    /// health checks are ignored.
    pub fn active(mut self, policy: impl Into<Option<ActivePolicy>>) -> Self {
        self.active = policy.into();
        self
    }

    /// When failed connects eject a server. The default: one failed connect, for ten seconds,
    /// at most half of the servers.
    pub const fn passive(mut self, policy: PassivePolicy) -> Self {
        self.passive = policy;
        self
    }

    /// The balancing algorithm. The default is [`Balance::LeastConn`].
    pub const fn balance(mut self, balance: Balance) -> Self {
        self.balance = balance;
        self
    }

    /// What happens to connections while no server is available. The default is
    /// [`PanicPolicy::Dial`].
    pub const fn panic(mut self, policy: PanicPolicy) -> Self {
        self.panic = policy;
        self
    }

    /// How long a server takes to get its whole share of new connections after it was down,
    /// ejected, in maintenance or drained of all connections, or when it joined a running
    /// pool. The default is zero: it gets its whole share at once, as the first servers of a
    /// pool always do.
    ///
    /// The server starts with a tenth of its share by weight, growing linearly. With least
    /// connections the bound goes on growing after that: to twice the share after the same
    /// time again, then four times, until the server has caught up with peers that hold
    /// long-lived connections. The time runs from the first pick that could have chosen the
    /// server. If all available servers are in slow start, they share the connections by
    /// progress.
    pub const fn slow_start(mut self, duration: Duration) -> Self {
        self.slow_start = duration;
        self
    }

    /// The seed of ties and random choices: with the same seed, the same sequence of
    /// operations picks the same servers. The default is 0, or comes from the predecessor.
    pub const fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// Builds the pool.
    ///
    /// # Errors
    /// Without servers, unless [`Self::may_be_empty`], or with two of the same name. The
    /// predecessor is unchanged then.
    pub fn build(self) -> Result<Pool, PoolError> {
        let before = self.predecessor.map(|pool| pool.membership.load_full());
        let group = self.predecessor.map_or_else(
            || Arc::new(ServerGroup::new(self.id.clone())),
            |pool| Arc::clone(&pool.group),
        );
        let seeds = Seeds::new(self.seed);
        let none = Candidates::new(Arc::new([]), 0, self.balance, &seeds);
        let pool = Pool {
            id: self.id,
            membership: ArcSwap::from_pointee(Membership::empty(none)),
            updating: Mutex::new(()),
            may_be_empty: self.may_be_empty,
            group,
            active: self.active,
            passive: self.passive,
            balance: self.balance,
            panic: self.panic,
            slow_start: self.slow_start,
            ramp: Ramp::new(self.slow_start),
            seeds,
            #[cfg(feature = "tokio")]
            members: tokio::sync::watch::Sender::new(Arc::new([])),
        };
        let merge = Merge::new(&pool, self.servers, before.as_deref())?;
        // From here on nothing fails; only now may shared servers change.
        if let (Some(predecessor), Some(before)) = (self.predecessor, &before)
            && predecessor.ramp.is_none()
        {
            before.end_ramps();
        }
        pool.group.set_panic(pool.panic);
        let members = merge.commit(&pool);
        let departed = before.map_or_else(Vec::new, |before| before.departed());
        pool.publish(Membership::new(&pool, members, departed));
        Ok(pool)
    }
}
