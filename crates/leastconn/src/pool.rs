//! The servers of one upstream, and picking among them in one step.
//!
//! Picking scans the candidates and then counts the new connection on the best
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
//! (Envoy issue 4481).

use std::{collections::HashSet, num::NonZeroU32, time::Instant};

use crate::{
    Weight,
    health::{ActivePolicy, PassivePolicy},
    lease::Lease,
    pick::{Load, draw, least},
    server::Server,
    sync::{Arc, AtomicU64, Ordering},
    upstream::{ServerId, ServerSpec, UpstreamId},
};

/// The servers of one upstream.
///
/// Its membership is fixed. For a changed one, build another pool with
/// [`Pool::succeed`]: servers that are in both are shared, with their counts,
/// their health and their leases.
#[derive(Debug)]
pub struct Pool {
    id: UpstreamId,
    members: Arc<[Member]>,
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
#[derive(Clone, Debug)]
pub struct Candidates(Arc<[Member]>);

impl Candidates {
    /// The members, in the pool's order.
    pub fn members(&self) -> &[Member] {
        &self.0
    }

    /// Whether there is none at all.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
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
        Self::build(id.into(), servers, active, passive, seed, &[])
    }

    /// The pool that follows this one when the configuration changes. A server
    /// with the same name and address is the same server: it goes on with its
    /// count, its health and its administrative state. Leases of servers that
    /// are gone stay valid.
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
            &self.members,
        )
    }

    fn build(
        id: UpstreamId,
        servers: impl IntoIterator<Item = ServerSpec>,
        active: Option<ActivePolicy>,
        passive: PassivePolicy,
        seed: u64,
        earlier: &[Member],
    ) -> Result<Self, PoolError> {
        let mut names = HashSet::new();
        let mut members = Vec::new();
        for spec in servers {
            if !names.insert(spec.id.clone()) {
                return Err(PoolError::DuplicateServer(id, spec.id));
            }
            let known = earlier.iter().find(|member| {
                *member.server.id() == spec.id && *member.server.address() == spec.address
            });
            let server = known.map_or_else(
                || Arc::new(Server::new(spec.id, spec.address, active, passive)),
                |member| Arc::clone(&member.server),
            );
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
        for member in &members {
            member.server.set_policies(active, passive);
        }
        Ok(Self {
            id,
            members: members.into(),
            seed: AtomicU64::new(seed),
        })
    }

    /// Its name.
    pub const fn id(&self) -> &UpstreamId {
        &self.id
    }

    /// All members, in the order they were given.
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// The server of that name.
    pub fn server(&self, name: &str) -> Option<&Arc<Server>> {
        self.members
            .iter()
            .map(|member| &member.server)
            .find(|server| server.id().as_str() == name)
    }

    /// All members as candidates.
    pub fn all(&self) -> Candidates {
        Candidates(Arc::clone(&self.members))
    }

    /// Those for which `allowed` holds, as candidates.
    pub fn subset(&self, mut allowed: impl FnMut(&Server) -> bool) -> Candidates {
        Candidates(
            self.members
                .iter()
                .filter(|member| allowed(&member.server))
                .cloned()
                .collect(),
        )
    }

    /// Picks the candidate with the least connections per weight that is
    /// available at `now` and not in `tried`, and counts the connection on it.
    /// Backups are looked at only while no other candidate is available.
    ///
    /// `None`: no candidate is available.
    pub fn pick(&self, candidates: &Candidates, tried: &Tried, now: Instant) -> Option<Lease> {
        self.pick_tier(candidates, tried, now, false)
            .or_else(|| self.pick_tier(candidates, tried, now, true))
    }

    fn pick_tier(
        &self,
        candidates: &Candidates,
        tried: &Tried,
        now: Instant,
        backup: bool,
    ) -> Option<Lease> {
        loop {
            let seen = candidates.0.iter().map(|member| {
                if member.backup != backup || tried.contains(&member.server) {
                    return None;
                }
                let (word, in_flight) = member.server.candidate(now)?;
                let full = member.max_conns.is_some_and(|max| in_flight >= max.get());
                let weight = member.weight;
                (!full).then_some((Load { in_flight, weight }, word))
            });
            let (position, word) = least(seen, self.next_seed())?;
            let server = &candidates.0[position].server;
            if server.try_acquire(word, now) {
                return Some(Lease::of_acquired(Arc::clone(server)));
            }
        }
    }

    fn next_seed(&self) -> u64 {
        draw(self.seed.fetch_add(1, Ordering::Relaxed), 0)
    }
}

#[cfg(test)]
mod tests;
