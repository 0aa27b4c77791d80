//! The servers from which a pick chooses.

use super::Member;
use crate::{
    Lease,
    balance::{AnyPicker, Balance, Seeds, Weights},
    server::Server,
    spec::ZoneId,
    sync::Arc,
};

/// Members of a pool from which a connection is [picked](super::Pool::pick). The set is a snapshot:
/// it does not follow later changes to the membership.
///
/// Clones are cheap and share the state of the balancing algorithm. To follow changes to the
/// membership, use a [`Selector`](super::Selector).
#[derive(Clone, Debug)]
pub struct Candidates(Arc<Set>);

#[derive(Debug)]
struct Set {
    members: Arc<[Member]>,
    picker: AnyPicker,
    weights: Weights,
    /// The candidates in the pool's own zone, if only some of the candidates are in it.
    local: Option<Candidates>,
}

impl Candidates {
    pub(super) fn new(
        members: Arc<[Member]>,
        total_weight: u64,
        balance: Balance,
        zone: Option<&ZoneId>,
        seeds: &Seeds,
    ) -> Self {
        let local = zone.and_then(|zone| {
            let members_of_zone = members.iter().filter(|m| m.zone() == Some(zone));
            let local: Arc<[_]> = members_of_zone.cloned().collect();
            let is_part = !local.is_empty() && local.len() < members.len();
            is_part.then(|| {
                let total_weight = sum(local.iter());
                Self::new(local, total_weight, balance, None, seeds)
            })
        });
        let weights = members.iter().map(|member| member.weight);
        Self(Arc::new(Set {
            weights: Weights {
                total: total_weight,
                max: weights.clone().max().unwrap_or_default(),
            },
            picker: balance.picker(weights, seeds),
            members,
            local,
        }))
    }

    /// Returns the candidates, in the pool's order.
    pub fn members(&self) -> &[Member] {
        &self.0.members
    }

    /// Whether there are no candidates.
    pub fn is_empty(&self) -> bool {
        self.0.members.is_empty()
    }

    /// Returns the candidates in the pool's own zone, if only some of the candidates are in it.
    pub(super) fn local(&self) -> Option<&Self> {
        self.0.local.as_ref()
    }

    /// Whether at least half of the weight of the backups (if `backup` is set) or of the primaries
    /// is available. Returns `false` if none of these servers is available.
    pub(super) fn is_mostly_available(&self, backup: bool) -> bool {
        let (mut available, mut total) = (0, 0);
        for member in self.members().iter().filter(|m| m.backup == backup) {
            let capacity = member.capacity();
            total += capacity;
            if member.server.is_available() {
                available += capacity;
            }
        }
        available > 0 && 2 * available >= total
    }

    pub(super) fn to_shared(&self) -> Arc<[Member]> {
        Arc::clone(&self.0.members)
    }

    /// Returns the address of the shared state.
    pub(super) fn addr(&self) -> usize {
        Arc::as_ptr(&self.0).addr()
    }

    pub(super) fn picker(&self) -> &AnyPicker {
        &self.0.picker
    }

    pub(super) fn weights(&self) -> &Weights {
        &self.0.weights
    }
}

fn sum<'a>(members: impl Iterator<Item = &'a Member>) -> u64 {
    members.map(|member| u64::from(member.weight.get())).sum()
}

/// The servers that have already been tried for a connection. Picks exclude these servers.
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

    /// Whether no server has been tried.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn servers(&self) -> &[Arc<Server>] {
        &self.0
    }
}
