//! Weights of servers set by an operator.

use std::{collections::BTreeMap, mem};

use jiff::Timestamp;
use leastconn::{Member, Pool, ServerId, UpstreamId, WeightOverride};
use serde::{Deserialize, Serialize};

use super::{
    CONFIGURED, Origin, Override, Overrides, ServerKey, SetServerError, parse_time, server_key,
};
use crate::snapshot::Snapshot;

/// The weights that differ from the configuration file.
#[derive(Debug, Default)]
pub(super) struct Weights(BTreeMap<ServerKey, SetWeight>);

#[derive(Clone, Copy, Debug)]
struct SetWeight {
    /// 100 % only if another weight is set for the fleet.
    weight: WeightOverride,
    since: Timestamp,
    origin: Origin,
}

impl SetWeight {
    /// The weight, if the configured weight is 1.
    fn relative(&self) -> f64 {
        match self.weight {
            WeightOverride::Absolute(weight) => weight.into(),
            WeightOverride::Percent(percent) => f64::from(percent) / 100.0,
        }
    }
}

/// A weight as sent to another process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct WeightHandover {
    upstream: String,
    server: String,
    weight: String,
    since: String,
    /// Whether it is set for the fleet.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    fleet: bool,
}

/// The result of [`Overrides::set_weight`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct WeightChange {
    /// The previous weight.
    pub was: f64,
    /// The weight in effect.
    pub weight: f64,
    /// The configured weight.
    pub configured: u16,
}

impl Overrides {
    /// The weight of a server, as a change from itself.
    ///
    /// # Errors
    /// If there is no such server, or a successor has replaced this process.
    pub fn server_weight(
        &self,
        (upstream, server): (&str, &str),
    ) -> Result<WeightChange, SetServerError> {
        let active = self.lock();
        active.ensure_active()?;
        let snapshot = self.snapshots.load();
        let pool = pool_of(&snapshot, upstream)?;
        if let Some(member) = member_of(pool, server) {
            let weight = member.effective_weight();
            return Ok(WeightChange {
                was: weight,
                weight,
                configured: member.configured_weight().get(),
            });
        }
        let key = server_key(upstream, server);
        let absent = active.weights.0.get(&key);
        let absent = absent.ok_or(SetServerError::NoSuchServer)?;
        Ok(WeightChange {
            was: absent.relative(),
            weight: absent.relative(),
            configured: 1,
        })
    }

    /// Sets the weight of a server on this balancer. 100 % resets it to the weight in the file. If
    /// the weight is that of the fleet, the server follows the fleet from now on.
    ///
    /// # Errors
    /// If there is no such server, or a successor has replaced this process.
    pub fn set_weight(
        &self,
        (upstream, server): (&str, &str),
        weight: WeightOverride,
    ) -> Result<WeightChange, SetServerError> {
        // Hold the lock until the override is stored, so that a reload is applied either before or
        // after this change.
        let mut active = self.lock();
        active.ensure_active()?;
        let snapshot = self.snapshots.load();
        let pool = pool_of(&snapshot, upstream)?;
        let Some(before) = member_of(pool, server) else {
            return active.weights.reset_absent(upstream, server, weight);
        };
        pool.set_weight(server, unless_configured(weight));
        let key = (UpstreamId::from(upstream), before.server.id().clone());
        let origin = match active.fleet.weight(&key) == weight {
            true => Origin::Fleet,
            false => Origin::Here,
        };
        active.weights.store(key, weight, origin);
        let after = member_of(pool, server).ok_or(SetServerError::NoSuchServer)?;
        Ok(WeightChange {
            was: before.effective_weight(),
            weight: after.effective_weight(),
            configured: after.configured_weight().get(),
        })
    }
}

fn pool_of<'a>(snapshot: &'a Snapshot, upstream: &str) -> Result<&'a Pool, SetServerError> {
    let upstream = snapshot.upstreams.get(upstream);
    let pool = upstream.map(|upstream| upstream.pool());
    pool.ok_or(SetServerError::NoSuchServer)
}

fn member_of(pool: &Pool, server: &str) -> Option<Member> {
    let members = pool.members();
    let mut members = members.iter();
    members.find(|m| m.server.id().as_str() == server).cloned()
}

/// `None` for [`CONFIGURED`].
fn unless_configured(weight: WeightOverride) -> Option<WeightOverride> {
    Some(weight).filter(|&weight| weight != CONFIGURED)
}

impl Weights {
    fn store(&mut self, key: ServerKey, weight: WeightOverride, origin: Origin) {
        let previous = self.0.remove(&key);
        if weight == CONFIGURED && origin == Origin::Fleet {
            return;
        }
        let since = previous
            .filter(|previous| previous.weight == weight)
            .map_or_else(Timestamp::now, |previous| previous.since);
        let set = SetWeight {
            weight,
            since,
            origin,
        };
        self.0.insert(key, set);
    }

    /// Turns the weights of the fleet into weights of this balancer.
    pub(super) fn keep_fleet(&mut self) {
        for set in self.0.values_mut() {
            set.origin = Origin::Here;
        }
    }

    /// Lets a server follow the fleet at the next [`Self::reconcile`].
    pub(super) fn follow_fleet(&mut self, key: &ServerKey) {
        if let Some(set) = self.0.get_mut(key) {
            set.origin = Origin::Fleet;
        }
    }

    /// Gives each server the weight of the fleet, unless it has a weight of this balancer.
    pub(super) fn reconcile(
        &mut self,
        of_fleet: &BTreeMap<ServerKey, WeightOverride>,
        snapshot: &Snapshot,
    ) {
        let earlier = self.0.iter();
        let earlier = earlier.filter(|(_, set)| set.origin == Origin::Fleet);
        let mut keys: Vec<_> = earlier.map(|(key, _)| key.clone()).collect();
        keys.extend(of_fleet.keys().cloned());
        for key in keys {
            let current = self.0.get(&key);
            if current.is_some_and(|set| set.origin == Origin::Here) {
                continue;
            }
            let weight = of_fleet.get(&key).copied().unwrap_or(CONFIGURED);
            if current.map_or(CONFIGURED, |set| set.weight) == weight {
                continue;
            }
            let (upstream, server) = &key;
            let found = set_in(
                snapshot,
                upstream.as_str(),
                server.as_str(),
                unless_configured(weight),
            );
            if !found && !snapshot.discovers_servers(upstream) {
                self.0.remove(&key);
                continue;
            }
            tracing::info!(%upstream, %server, %weight, "weight of the fleet applied");
            self.store(key, weight, Origin::Fleet);
        }
    }

    /// Resets the weight of a discovered server that is absent. Such a server keeps its override
    /// until it is set to 100 %. Its configured weight is unknown, so that both weights in the
    /// result are shown relative to 1.
    fn reset_absent(
        &mut self,
        upstream: &str,
        server: &str,
        weight: WeightOverride,
    ) -> Result<WeightChange, SetServerError> {
        let key = server_key(upstream, server);
        if weight != CONFIGURED {
            return Err(SetServerError::NoSuchServer);
        }
        let previous = self.0.remove(&key).ok_or(SetServerError::NoSuchServer)?;
        Ok(WeightChange {
            was: previous.relative(),
            weight: 1.0,
            configured: 1,
        })
    }

    /// The servers with a weight of this balancer.
    pub(super) fn set_here(&self) -> impl Iterator<Item = &ServerKey> {
        let here = self.0.iter();
        let here = here.filter(|(_, set)| set.origin == Origin::Here);
        here.map(|(server, _)| server)
    }

    /// Forgets the weight of an absent server.
    pub(super) fn remove(&mut self, server: &ServerKey) -> Option<WeightOverride> {
        self.0.remove(server).map(|set| set.weight)
    }

    #[cfg(test)]
    pub(super) fn insert(&mut self, server: ServerKey, weight: WeightOverride) {
        self.store(server, weight, Origin::Here);
    }

    pub(super) fn active(&self) -> impl Iterator<Item = Override> {
        self.0.iter().map(|((upstream, server), set)| {
            let (upstream, server) = (upstream.clone(), server.clone());
            Override::Weight(upstream, server, set.weight, set.since, set.origin)
        })
    }

    /// Sets the weights of servers that have joined `pool`.
    pub(super) fn apply_to_joined(&self, pool: &Pool, joined: &[ServerId]) {
        for server in joined {
            let key = (pool.id().clone(), server.clone());
            if let Some(set) = self.0.get(&key) {
                pool.set_weight(server.as_str(), unless_configured(set.weight));
            }
        }
    }

    /// Applies the weights to `next`. Drops the weights of servers that are no longer configured.
    pub(super) fn apply(&mut self, next: &Snapshot) {
        self.0.retain(|(upstream, server), set| {
            let weight = unless_configured(set.weight);
            let found = set_in(next, upstream.as_str(), server.as_str(), weight)
                || next.discovers_servers(upstream);
            // The fleet remembers its weights.
            if !found && set.origin == Origin::Here {
                tracing::info!(
                    %upstream,
                    %server,
                    weight = %set.weight,
                    "override dropped: server no longer configured"
                );
            }
            found
        });
    }

    pub(super) fn export(&self) -> Vec<WeightHandover> {
        let weights = self.0.iter();
        let export = weights.map(|((upstream, server), set)| WeightHandover {
            upstream: upstream.to_string(),
            server: server.to_string(),
            weight: set.weight.to_string(),
            since: set.since.to_string(),
            fleet: set.origin == Origin::Fleet,
        });
        export.collect()
    }

    /// `in_fleet`: this process is a member of the same fleet as the predecessor.
    pub(super) fn import(
        &mut self,
        handover: &[WeightHandover],
        snapshot: &Snapshot,
        in_fleet: bool,
    ) {
        for ((upstream, server), _) in mem::take(&mut self.0) {
            set_in(snapshot, upstream.as_str(), server.as_str(), None);
        }
        for imported in handover {
            let (upstream, server) = (&*imported.upstream, &*imported.server);
            let weight = imported.weight.parse().ok();
            let is_known = || {
                let discovers = snapshot.discovers_servers(&UpstreamId::from(upstream));
                let weight = weight.and_then(unless_configured);
                set_in(snapshot, upstream, server, weight) || discovers
            };
            if weight.is_none() || !is_known() {
                tracing::info!(
                    upstream,
                    server,
                    weight = imported.weight,
                    "override dropped: server not configured or weight unknown"
                );
                continue;
            }
            if let Some(weight) = weight {
                let key = server_key(upstream, server);
                let set = SetWeight {
                    weight,
                    since: parse_time(&imported.since),
                    origin: Origin::imported(imported.fleet && in_fleet),
                };
                self.0.insert(key, set);
            }
        }
    }
}

/// Sets the weight of a server. Returns `false` if there is no such server.
fn set_in(
    snapshot: &Snapshot,
    upstream: &str,
    server: &str,
    weight: Option<WeightOverride>,
) -> bool {
    let upstream = snapshot.upstreams.get(upstream);
    upstream.is_some_and(|upstream| upstream.pool().set_weight(server, weight))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weight_of_an_absent_server_can_only_be_reset() {
        let set = SetWeight {
            weight: WeightOverride::Percent(50),
            since: Timestamp::UNIX_EPOCH,
            origin: Origin::Here,
        };
        let mut weights = Weights::default();
        weights.0.insert(("web".into(), "web-0".into()), set);
        let mut change = |server, weight| weights.reset_absent("web", server, weight);
        let (half, whole) = (WeightOverride::Percent(50), WeightOverride::Percent(100));
        assert_eq!(change("web-0", half), Err(SetServerError::NoSuchServer));
        assert_eq!(change("web-1", whole), Err(SetServerError::NoSuchServer));
        let expected = WeightChange {
            was: 0.5,
            weight: 1.0,
            configured: 1,
        };
        assert_eq!(change("web-0", whole), Ok(expected));
        assert_eq!(change("web-0", whole), Err(SetServerError::NoSuchServer));
        assert_eq!(weights.active().count(), 0);
    }
}
