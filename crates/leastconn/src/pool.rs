//! The servers of one upstream, and picking among them in one step.
//!
//! With least connections, picking scans the candidates and then counts the new connection on the best
//! one by compare-and-swap against the word that the scan saw; when another
//! thread changed it meanwhile, the scan starts again. With picks alone
//! running, counts only grow, so a server that was least when it was seen, and
//! still has the same count, is still least: n connections at once on m equal
//! servers never differ by more than one, for any number of threads. No lock is
//! taken (but for a server on trial), and some pick always gets through.
//!
//! Cost: one cache line a candidate, some nanoseconds each and microseconds for
//! 1,000 servers (`benches/core.rs`): nothing beside a handshake, and exact where
//! a heap would need a lock and "power of two choices" would be approximate
//! (Envoy issue 4481). How the others choose is in `pool/choose.rs`; they count in the
//! same way, so that `max_conns` and states hold for all of them alike.

mod choose;

use std::{
    collections::{HashMap, HashSet},
    num::NonZeroU32,
    time::{Duration, Instant},
};

use crate::balance::wrr::Turns;
use crate::{
    Address, Weight,
    balance::least_conn::draw,
    balance::slow_start::Pace,
    health::{ActivePolicy, PassivePolicy},
    lease::Lease,
    server::{Membership, Server, SlowStart},
    spec::{Balance, PanicPolicy, ServerId, ServerSpec, Source, UpstreamId},
    sync::{Arc, AtomicU64, Ordering},
};

/// The servers of one upstream.
///
/// Its membership is fixed. For a changed one, build another pool with
/// [`Pool::succeed`]: servers that are in both are shared, with their counts,
/// their health and their leases.
#[derive(Debug)]
pub struct Pool {
    id: UpstreamId,
    all: Candidates,
    /// Servers that are gone and still have connections: they may come back.
    departed: Vec<Arc<Server>>,
    /// Shared with the pools before and after.
    membership: Arc<Membership>,
    panic: PanicPolicy,
    /// Of all members.
    total_weight: u64,
    balance: Balance,
    pace: Pace,
    slow_start: Duration,
    seed: AtomicU64,
}

/// Why a pool cannot be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PoolError {
    /// A pool needs a server.
    #[error("upstream `{0}` has no servers")]
    Empty(UpstreamId),
    /// Two servers have the same name.
    #[error("upstream `{0}` has two servers named `{1}`")]
    DuplicateServer(UpstreamId, ServerId),
}

/// A server's part in a pool: what the configuration says of it, beside the
/// [`Server`], which is what the pool learns of it.
#[derive(Clone, Debug)]
pub struct Member {
    /// The server.
    pub server: Arc<Server>,
    /// Its share relative to its peers'.
    pub weight: Weight,
    /// Connections it takes at once.
    pub max_conns: Option<NonZeroU32>,
    /// Used only while no server that is not a backup is available.
    pub backup: bool,
}

/// The servers that one client may be given: all of a pool, or some.
///
/// Make them once for a client, not for each connection: with
/// [`Balance::RoundRobin`], each such set has turns of its own, which its clones share.
#[derive(Clone, Debug)]
pub struct Candidates {
    members: Arc<[Member]>,
    /// The largest weight among them.
    heaviest: Weight,
    /// With [`Balance::RoundRobin`].
    turns: Option<Arc<Turns>>,
    source: Option<Source>,
}

impl Candidates {
    fn new(members: Arc<[Member]>) -> Self {
        let weights = members.iter().map(|member| member.weight);
        Self {
            heaviest: weights.max().unwrap_or_default(),
            members,
            turns: None,
            source: None,
        }
    }

    /// The members, in the pool's order.
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// Whether there is none at all.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// The same, for a connection from `source`: what [`Balance::SourceHash`] goes by.
    /// Without one, it draws by weight.
    #[must_use]
    pub fn from_source(&self, source: impl Into<Source>) -> Self {
        Self {
            source: Some(source.into()),
            ..self.clone()
        }
    }
}

/// The servers that one connection was tried on, not to be tried again.
#[derive(Clone, Debug, Default)]
pub struct Tried(Vec<Arc<Server>>);

impl Tried {
    /// Leaves a lease's server out of further picks, and ends the lease.
    pub fn add(&mut self, lease: Lease) {
        self.0.push(lease.into_server());
    }

    /// How many servers were tried.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether none was tried yet.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn contains(&self, server: &Arc<Server>) -> bool {
        self.0.iter().any(|tried| Arc::ptr_eq(tried, server))
    }
}

impl Pool {
    /// A pool of `servers`. `seed` decides ties: with the same seed, the same
    /// sequence of operations picks the same servers.
    ///
    /// # Errors
    /// Without servers, or with two of the same name.
    pub fn new(
        id: impl Into<UpstreamId>,
        servers: impl IntoIterator<Item = ServerSpec>,
        active: Option<ActivePolicy>,
        passive: PassivePolicy,
        seed: u64,
    ) -> Result<Self, PoolError> {
        Self::build(id.into(), servers, active, passive, seed, None)
    }

    /// The same pool, choosing in another way than by [`Balance::LeastConn`].
    /// Candidates that were made before know nothing of it.
    #[must_use]
    pub fn with_balance(mut self, balance: Balance) -> Self {
        self.balance = balance;
        self.all = self.candidates(Arc::clone(&self.all.members));
        self
    }

    /// The same pool, with another answer to connections for which no server is available
    /// than [`PanicPolicy::Dial`].
    #[must_use]
    pub fn with_panic(mut self, panic: PanicPolicy) -> Self {
        self.panic = panic;
        self.membership.set_panic(panic);
        self
    }

    /// The same pool, in which a server takes so long to get its whole share after it
    /// was down, ejected, in maintenance or drained of all connections, or if it is new
    /// in a pool that succeeds another. Zero, the default: it has it at once. The
    /// servers that a first pool begins with are all new alike, and start at once.
    ///
    /// At first a server may get a tenth of its share by weight of the connections that
    /// come, which grows in a line to the whole. Least connections goes on from there:
    /// a server that has fewer than its peers still, since connections live for long,
    /// may get up to twice its share at the end of the next such time, then four times,
    /// until it has caught up. The time runs from the first pick that it could have
    /// been in.
    ///
    /// Servers that begin while no other is available share what comes, by how far each
    /// has got.
    #[must_use]
    pub fn with_slow_start(mut self, duration: Duration) -> Self {
        self.slow_start = duration;
        self.pace = Pace::new(duration);
        self
    }

    /// The pool that follows this one when the configuration changes. A server
    /// with the same name and address is the same server: it goes on with its
    /// count, its health and its administrative state. Leases of servers that
    /// are gone stay valid; one that comes back while it has some goes on with its
    /// count, and is new otherwise. It balances and starts servers as this one does,
    /// unless it is told otherwise.
    ///
    /// # Errors
    /// As [`Pool::new`]; then nothing has changed.
    pub fn succeed(
        &self,
        servers: impl IntoIterator<Item = ServerSpec>,
        active: Option<ActivePolicy>,
        passive: PassivePolicy,
    ) -> Result<Self, PoolError> {
        Self::build(
            self.id.clone(),
            servers,
            active,
            passive,
            self.next_seed(),
            Some(self),
        )
    }

    fn build(
        id: UpstreamId,
        servers: impl IntoIterator<Item = ServerSpec>,
        active: Option<ActivePolicy>,
        passive: PassivePolicy,
        seed: u64,
        earlier: Option<&Self>,
    ) -> Result<Self, PoolError> {
        let (mut known, mut departed) = earlier.map_or_else(Default::default, |earlier| {
            let members = earlier.members().iter().map(|member| &member.server);
            (by_name(members), by_name(&earlier.departed))
        });
        let membership = earlier.map_or_else(
            || Arc::new(Membership::new(id.clone())),
            |earlier| Arc::clone(&earlier.membership),
        );
        let mut new = Vec::new();
        let mut returned = Vec::new();
        let mut names = HashSet::new();
        let mut members = Vec::new();
        for spec in servers {
            if !names.insert(spec.id.clone()) {
                return Err(PoolError::DuplicateServer(id, spec.id));
            }
            let key = (spec.id, spec.address);
            let server = if let Some(server) = known.remove(&key) {
                server
            } else if let Some(server) = departed.remove(&key) {
                returned.push(Arc::clone(&server));
                server
            } else {
                let membership = Arc::downgrade(&membership);
                let server = Arc::new(Server::new(key.0, key.1, active, passive, membership));
                new.push(Arc::clone(&server));
                server
            };
            members.push(Member {
                server,
                weight: spec.weight,
                max_conns: spec.max_conns,
                backup: spec.backup,
            });
        }
        if members.is_empty() {
            return Err(PoolError::Empty(id));
        }
        // Only now: an error above must leave the shared servers as they were.
        if let Some(earlier) = earlier.filter(|earlier| earlier.pace.is_none()) {
            // Whoever came back has had its whole share since, whether a pick saw it
            // or not.
            for member in earlier.members() {
                member.server.end_beginning();
            }
        }
        for server in returned {
            server.come_back(active, passive);
        }
        for member in &members {
            member.server.set_policies(active, passive);
        }
        let left = known.into_values().chain(departed.into_values());
        let departed = left.filter(|server| server.in_flight() > 0);
        if earlier.is_some() {
            for server in new {
                server.begin_slowly();
            }
        }
        let servers = members.iter().map(|member| Arc::clone(&member.server));
        membership.set_servers(servers.collect());
        let pool = Self {
            id,
            membership,
            panic: PanicPolicy::default(),
            total_weight: members.iter().map(|m| u64::from(m.weight.get())).sum(),
            all: Candidates::new(members.into()),
            departed: departed.collect(),
            balance: Balance::default(),
            pace: Pace::new(Duration::ZERO),
            slow_start: Duration::ZERO,
            seed: AtomicU64::new(seed),
        };
        Ok(match earlier {
            None => pool,
            Some(earlier) => pool
                .with_balance(earlier.balance)
                .with_panic(earlier.panic)
                .with_slow_start(earlier.slow_start),
        })
    }

    /// Its name.
    pub const fn id(&self) -> &UpstreamId {
        &self.id
    }

    /// How it chooses.
    pub const fn balance(&self) -> Balance {
        self.balance
    }

    /// What is done while no server is available.
    pub const fn panic(&self) -> PanicPolicy {
        self.panic
    }

    /// Whether no server is available, but at least one that is ejected or down would be
    /// dialled with [`PanicPolicy::Dial`]. `max_conns` does not matter here, and servers
    /// that are drained or in maintenance count as if they were not there.
    pub fn is_panicking(&self) -> bool {
        self.membership.is_panicking()
    }

    /// Tells when a server has become available or stopped to be: whether the pool is in
    /// panic since.
    #[cfg(feature = "tokio")]
    pub(crate) fn changes(&self) -> tokio::sync::watch::Receiver<bool> {
        self.membership.changes()
    }

    /// Whether waiting may bring a candidate that is not available now: one is ejected or
    /// down, or has become available and has room. Not so where the operator took all of
    /// them out, or they are at `max_conns`.
    #[cfg(feature = "tokio")]
    pub(crate) fn may_recover(&self, candidates: &Candidates) -> bool {
        candidates.members.iter().any(|member| {
            let server = &member.server;
            let full = member.max_conns;
            let full = full.is_some_and(|max| server.in_flight() >= max.get());
            server.is_unhealthy() || (server.is_available() && !full)
        })
    }

    /// How long a server takes to get its whole share.
    pub const fn slow_start(&self) -> Duration {
        self.slow_start
    }

    /// How far `server`, one of this pool's, has come at `now` if it is starting slowly
    /// ([`Pool::with_slow_start`]). `None`: it may have its whole share, or cannot be
    /// picked. Looking changes nothing.
    pub fn slow_start_of(&self, server: &Server, now: Instant) -> Option<SlowStart> {
        server.slow_start(now, self.pace)
    }

    /// All members, in the order they were given.
    pub fn members(&self) -> &[Member] {
        self.all.members()
    }

    /// The server of that name.
    pub fn server(&self, name: &str) -> Option<&Arc<Server>> {
        self.members()
            .iter()
            .map(|member| &member.server)
            .find(|server| server.id().as_str() == name)
    }

    /// All members as candidates.
    pub fn all(&self) -> Candidates {
        self.all.clone()
    }

    /// Those for which `allowed` holds, as candidates.
    pub fn subset(&self, mut allowed: impl FnMut(&Server) -> bool) -> Candidates {
        self.candidates(
            self.members()
                .iter()
                .filter(|member| allowed(&member.server))
                .cloned()
                .collect(),
        )
    }

    fn candidates(&self, members: Arc<[Member]>) -> Candidates {
        let turns = (self.balance == Balance::RoundRobin).then(|| {
            Arc::new(Turns::new(
                members.iter().map(|member| member.weight),
                self.next_seed(),
            ))
        });
        Candidates {
            turns,
            ..Candidates::new(members)
        }
    }

    /// Picks a candidate, as the pool's [`Balance`] has it, that is available at `now`
    /// and not in `tried`, and counts the connection on it. Backups are looked at only
    /// while no other candidate is available.
    ///
    /// Where none is available, with [`PanicPolicy::Dial`], an ejected candidate is
    /// picked in the same way, and one that is down only if all candidates are. Those that
    /// are drained or in maintenance never are.
    ///
    /// `None`: no candidate may be picked.
    pub fn pick(&self, candidates: &Candidates, tried: &Tried, now: Instant) -> Option<Lease> {
        let pick = |backup| match self.balance {
            Balance::LeastConn => self.pick_least(candidates, tried, now, backup),
            _ => self.pick_otherwise(candidates, tried, now, backup),
        };
        pick(false)
            .or_else(|| pick(true))
            .or_else(|| self.pick_last_resort(candidates, tried, now))
    }

    fn next_seed(&self) -> u64 {
        draw(self.seed.fetch_add(1, Ordering::Relaxed), 0)
    }
}

type ByName = HashMap<(ServerId, Address), Arc<Server>>;

fn by_name<'a>(servers: impl IntoIterator<Item = &'a Arc<Server>>) -> ByName {
    let servers = servers.into_iter().map(Arc::clone);
    servers
        .map(|server| ((server.id().clone(), server.address().clone()), server))
        .collect()
}

#[cfg(test)]
mod tests;
