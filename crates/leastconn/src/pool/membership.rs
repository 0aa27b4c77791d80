//! The members of a pool at one moment, and how an update replaces them.

use std::{
    collections::{HashMap, HashSet},
    sync::Weak,
};

use super::{
    Candidates, Member, Pool, PoolError,
    pick::PickRules,
    weights::{self, Details},
};
use crate::{
    Address,
    server::Server,
    spec::{ServerId, ServerSpec},
    sync::Arc,
    weight::Hundredths,
};

/// The servers that joined or left a pool in [`Pool::update`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct MembershipChange {
    /// Servers that joined, in the order given in the update.
    pub added: Vec<ServerId>,
    /// Servers that left, in their previous order. A server whose address changed is in both lists.
    pub removed: Vec<ServerId>,
}

impl MembershipChange {
    /// Whether no server joined or left. Weights, limits and backup flags may have changed.
    pub fn is_empty(&self) -> bool {
        self.added.is_empty() && self.removed.is_empty()
    }
}

#[derive(Debug)]
pub(super) struct Membership {
    pub(super) all: Candidates,
    /// Servers that have left the pool. Leases keep them alive. A pick that began before a server
    /// left can still add a lease to it.
    departed: Vec<Weak<Server>>,
    total_weight: u64,
}

impl Membership {
    pub(super) const fn empty(all: Candidates) -> Self {
        Self {
            all,
            departed: Vec::new(),
            total_weight: 0,
        }
    }

    pub(super) fn new(
        rules: &PickRules,
        members: Arc<[Member]>,
        departed: Vec<Weak<Server>>,
    ) -> Self {
        let weights = members.iter().map(|member| u64::from(member.weight.get()));
        let total_weight = weights.sum();
        let is_member = |server: &Weak<Server>| {
            let mut members = members.iter();
            members.any(|member| std::ptr::eq(Arc::as_ptr(&member.server), server.as_ptr()))
        };
        Self {
            departed: departed.into_iter().filter(|s| !is_member(s)).collect(),
            all: Candidates::new(
                members,
                total_weight,
                rules.balance,
                rules.zone.as_ref(),
                &rules.seeds,
            ),
            total_weight,
        }
    }

    pub(super) fn subset(
        &self,
        rules: &PickRules,
        mut is_allowed: impl FnMut(&Server) -> bool,
    ) -> Candidates {
        let members = self.all.members().iter();
        let members = members.filter(|member| is_allowed(&member.server)).cloned();
        Candidates::new(
            members.collect(),
            self.total_weight,
            rules.balance,
            rules.zone.as_ref(),
            &rules.seeds,
        )
    }

    /// Returns the current members and the servers that left earlier and are still in use. The next
    /// membership removes its own members from this list.
    pub(super) fn departed(&self) -> Vec<Weak<Server>> {
        let members = self.all.members().iter();
        let members = members.map(|member| Arc::downgrade(&member.server));
        let departed = self.departed.iter().filter(|s| s.strong_count() > 0);
        members.chain(departed.cloned()).collect()
    }

    pub(super) fn departed_in_use(&self) -> Vec<Arc<Server>> {
        let departed = self.departed.iter().filter_map(Weak::upgrade);
        departed.filter(|server| server.in_flight() > 0).collect()
    }

    pub(super) fn is_same_as(&self, servers: &[ServerSpec]) -> bool {
        let members = self.all.members().iter();
        members.map(Member::spec).eq(servers)
    }

    /// Ends slow start for all members. In a pool without slow start, every server has its whole
    /// share, even before its first pick.
    pub(super) fn end_ramps(&self) {
        for member in self.all.members().iter() {
            member.server.end_ramp();
        }
    }
}

/// The next members of a pool: validated, but not yet in use.
pub(super) struct Merge {
    members: Vec<Member>,
    joined: Vec<Arc<Server>>,
    /// Servers that left the pool, still have connections, and are now rejoining.
    rejoined: Vec<Arc<Server>>,
    /// Whether the pool has had no servers so far.
    is_first: bool,
    /// Whether any current server remains a member. If none does, new servers are used immediately:
    /// otherwise the pool would have no available server until they are probed.
    some_stay: bool,
}

impl Merge {
    /// Matches the servers of `specs` with the servers of `before`. Does not change any server.
    pub(super) fn new(
        pool: &Pool,
        specs: impl IntoIterator<Item = ServerSpec>,
        before: Option<&Membership>,
    ) -> Result<Self, PoolError> {
        let (mut present, mut departed) = before.map_or_else(Default::default, |before| {
            let members = before.all.members().iter().map(|member| &member.server);
            (by_name(members), by_name(&before.departed_in_use()))
        });
        let mut merge = Self {
            members: Vec::new(),
            joined: Vec::new(),
            rejoined: Vec::new(),
            is_first: before.is_none_or(|before| before.all.is_empty()),
            some_stay: false,
        };
        let mut names = HashSet::new();
        for spec in specs {
            if !names.insert(spec.id.clone()) {
                return Err(PoolError::DuplicateServer(pool.id().clone(), spec.id));
            }
            let key = (spec.id.clone(), spec.address.clone());
            let server = if let Some(server) = present.remove(&key) {
                merge.some_stay = true;
                server
            } else if let Some(server) = departed.remove(&key) {
                merge.rejoined.push(Arc::clone(&server));
                server
            } else {
                let group = Arc::downgrade(&pool.group);
                let server = Server::new(key.0, key.1, pool.active, pool.passive, group);
                let server = Arc::new(server);
                merge.joined.push(Arc::clone(&server));
                server
            };
            merge.members.push(Member {
                server,
                weight: spec.weight,
                max_conns: spec.max_conns,
                backup: spec.backup,
                details: Arc::new(Details {
                    weight: Hundredths::new(spec.weight, None),
                    spec,
                }),
            });
        }
        if merge.members.is_empty() && !pool.may_be_empty {
            return Err(PoolError::Empty(pool.id().clone()));
        }
        Ok(merge)
    }

    pub(super) fn change(&self, before: &Membership) -> MembershipChange {
        let ids = |servers: &mut dyn Iterator<Item = &Arc<Server>>| {
            servers.map(|server| server.id().clone()).collect()
        };
        let is_member = |server: &Arc<Server>| {
            let mut members = self.members.iter();
            members.any(|member| Arc::ptr_eq(&member.server, server))
        };
        let was_member = |server: &Arc<Server>| {
            let mut members = before.all.members().iter();
            members.any(|member| Arc::ptr_eq(&member.server, server))
        };
        let (old, new) = (before.all.members().iter(), self.members.iter());
        MembershipChange {
            added: ids(&mut new.map(|m| &m.server).filter(|s| !was_member(s))),
            removed: ids(&mut old.map(|m| &m.server).filter(|s| !is_member(s))),
        }
    }

    /// Applies the policies and states to the servers and returns the new members. Calls `prepare`
    /// for each server that joins.
    pub(super) fn commit(mut self, pool: &Pool, prepare: impl Fn(&Server)) -> Arc<[Member]> {
        for server in &self.rejoined {
            server.revive(pool.active, pool.passive);
        }
        for member in &self.members {
            member.server.set_policies(pool.active, pool.passive);
            // Without a source of slots, the joined servers are not searched.
            if let Some(max) = member.max_conns
                && let Some(slots) = pool.group.first_slots(max)
                && self.joined.iter().any(|s| Arc::ptr_eq(s, &member.server))
            {
                member.server.set_first_slots(slots);
            }
        }
        for server in self.joined.iter().chain(&self.rejoined) {
            if !self.is_first {
                server.start_ramp();
            }
            if self.some_stay {
                server.require_probe();
            }
            prepare(server);
        }
        weights::apply(&mut self.members);
        for member in &self.members {
            let is_zero = member.details.weight.is_zero();
            member.server.set_zero_weight(is_zero);
        }
        let servers = self.members.iter().map(|m| Arc::clone(&m.server));
        pool.group.set_servers(servers.collect());
        self.members.into()
    }
}

type ByName = HashMap<(ServerId, Address), Arc<Server>>;

fn by_name<'a>(servers: impl IntoIterator<Item = &'a Arc<Server>>) -> ByName {
    let servers = servers.into_iter().map(Arc::clone);
    servers
        .map(|server| ((server.id().clone(), server.address().clone()), server))
        .collect()
}
