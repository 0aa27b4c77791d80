//! Weights of servers set by an operator.

use std::{collections::BTreeMap, mem};

use jiff::Timestamp;
use leastconn::{Pool, ServerId, UpstreamId, WeightOverride};
use serde::{Deserialize, Serialize};

use super::{Override, Overrides, Replaced, SetServerError, parse_time};
use crate::snapshot::Snapshot;

/// The weights that differ from the configuration file.
#[derive(Debug, Default)]
pub(super) struct Weights(BTreeMap<(UpstreamId, ServerId), SetWeight>);

#[derive(Clone, Copy, Debug)]
struct SetWeight {
    weight: WeightOverride,
    since: Timestamp,
}

/// A weight as sent to another process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct WeightHandover {
    upstream: String,
    server: String,
    weight: String,
    since: String,
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
    /// Sets the weight of a server. 100 % resets it to the weight in the file.
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
        active
            .ensure_active()
            .map_err(|Replaced| SetServerError::Replaced)?;
        let snapshot = self.snapshots.load();
        let pool = snapshot.upstreams.get(upstream).map(|up| up.pool());
        let pool = pool.ok_or(SetServerError::NoSuchServer)?;
        let member = || {
            let members = pool.members();
            let mut members = members.iter();
            members.find(|m| m.server.id().as_str() == server).cloned()
        };
        let Some(before) = member() else {
            return active.weights.reset_absent(upstream, server, weight);
        };
        let weight = Some(weight).filter(|&weight| weight != WeightOverride::Percent(100));
        pool.set_weight(server, weight);
        let key = (UpstreamId::from(upstream), before.server.id().clone());
        let previous = active.weights.0.remove(&key);
        if let Some(weight) = weight {
            let since = previous
                .filter(|previous| previous.weight == weight)
                .map_or_else(Timestamp::now, |previous| previous.since);
            active.weights.0.insert(key, SetWeight { weight, since });
        }
        let after = member().ok_or(SetServerError::NoSuchServer)?;
        Ok(WeightChange {
            was: before.effective_weight(),
            weight: after.effective_weight(),
            configured: after.configured_weight().get(),
        })
    }
}

impl Weights {
    /// Resets the weight of a discovered server that is absent. Such a server keeps its override
    /// until it is set to 100 %. Its configured weight is unknown, so that both weights in the
    /// result are shown relative to 1.
    fn reset_absent(
        &mut self,
        upstream: &str,
        server: &str,
        weight: WeightOverride,
    ) -> Result<WeightChange, SetServerError> {
        let key = (UpstreamId::from(upstream), ServerId::from(server));
        if weight != WeightOverride::Percent(100) {
            return Err(SetServerError::NoSuchServer);
        }
        let previous = self.0.remove(&key).ok_or(SetServerError::NoSuchServer)?;
        Ok(WeightChange {
            was: match previous.weight {
                WeightOverride::Absolute(weight) => weight.into(),
                WeightOverride::Percent(percent) => f64::from(percent) / 100.0,
            },
            weight: 1.0,
            configured: 1,
        })
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = &(UpstreamId, ServerId)> {
        self.0.keys()
    }

    /// Forgets the weight of an absent server.
    pub(super) fn remove(&mut self, server: &(UpstreamId, ServerId)) -> Option<WeightOverride> {
        self.0.remove(server).map(|set| set.weight)
    }

    #[cfg(test)]
    pub(super) fn insert(&mut self, server: (UpstreamId, ServerId), weight: WeightOverride) {
        let since = Timestamp::UNIX_EPOCH;
        self.0.insert(server, SetWeight { weight, since });
    }

    pub(super) fn active(&self) -> impl Iterator<Item = Override> {
        self.0.iter().map(|((upstream, server), set)| {
            Override::Weight(upstream.clone(), server.clone(), set.weight, set.since)
        })
    }

    /// Sets the weights of servers that have joined `pool`.
    pub(super) fn apply_to_joined(&self, pool: &Pool, joined: &[ServerId]) {
        for server in joined {
            let key = (pool.id().clone(), server.clone());
            if let Some(set) = self.0.get(&key) {
                pool.set_weight(server.as_str(), Some(set.weight));
            }
        }
    }

    /// Applies the weights to `next`. Drops the weights of servers that are no longer configured.
    pub(super) fn apply(&mut self, next: &Snapshot) {
        self.0.retain(|(upstream, server), set| {
            let found = set_in(next, upstream.as_str(), server.as_str(), Some(set.weight))
                || next.discovers_servers(upstream);
            if !found {
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
        });
        export.collect()
    }

    pub(super) fn import(&mut self, handover: &[WeightHandover], snapshot: &Snapshot) {
        for ((upstream, server), _) in mem::take(&mut self.0) {
            set_in(snapshot, upstream.as_str(), server.as_str(), None);
        }
        for imported in handover {
            let (upstream, server) = (&*imported.upstream, &*imported.server);
            let weight = imported.weight.parse().ok();
            let is_known = || {
                let discovers = snapshot.discovers_servers(&UpstreamId::from(upstream));
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
                let key = (UpstreamId::from(upstream), ServerId::from(server));
                let since = parse_time(&imported.since);
                self.0.insert(key, SetWeight { weight, since });
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
