//! The servers from which a pick chooses.

use super::Member;
use crate::{
    Lease,
    balance::{AnyPicker, Balance, Seeds, Weights},
    server::Server,
    sync::Arc,
};

/// Members of a pool from which a connection is [picked](super::Pool::pick). The set is a
/// snapshot: it does not follow later changes of the membership.
///
/// Clones are cheap and share the state of the balancing algorithm. A
/// [`Selector`](super::Selector) follows changes of the membership.
#[derive(Clone, Debug)]
pub struct Candidates(Arc<Set>);

#[derive(Debug)]
struct Set {
    members: Arc<[Member]>,
    picker: AnyPicker,
    weights: Weights,
}

impl Candidates {
    pub(super) fn new(
        members: Arc<[Member]>,
        total_weight: u64,
        balance: Balance,
        seeds: &Seeds,
    ) -> Self {
        let weights = members.iter().map(|member| member.weight);
        Self(Arc::new(Set {
            weights: Weights {
                total: total_weight,
                max: weights.clone().max().unwrap_or_default(),
            },
            picker: balance.picker(weights, seeds),
            members,
        }))
    }

    /// Returns the candidates, in the order of the pool.
    pub fn members(&self) -> &[Member] {
        &self.0.members
    }

    /// Whether the set contains no server.
    pub fn is_empty(&self) -> bool {
        self.0.members.is_empty()
    }

    pub(super) fn to_shared(&self) -> Arc<[Member]> {
        Arc::clone(&self.0.members)
    }

    pub(super) fn picker(&self) -> &AnyPicker {
        &self.0.picker
    }

    pub(super) fn weights(&self) -> &Weights {
        &self.0.weights
    }
}

/// The servers that were already tried for a connection. Picks exclude these servers.
#[derive(Clone, Debug, Default)]
pub struct Tried(Vec<Arc<Server>>);

impl Tried {
    pub(super) const NONE: &'static Self = &Self(Vec::new());

    /// Excludes the server of `lease` from further picks, and drops the lease.
    pub fn add(&mut self, lease: Lease) {
        self.0.push(lease.into_server());
    }

    /// Returns the number of servers that were tried.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether no server was tried.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn servers(&self) -> &[Arc<Server>] {
        &self.0
    }
}
