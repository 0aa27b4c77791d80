//! States and weights of servers, and blocks, that operators set for a whole fleet.
//!
//! What is set with `--here` on this balancer takes precedence over what is set for the fleet,
//! until it is reset: by a setting with `--here` that equals the fleet's, or by a command for the
//! fleet on this balancer. Settings for servers that do not exist here are remembered, and apply
//! when a reload or discovery adds the server.

use std::{collections::BTreeMap, time::Duration};

use leastconn::{AdminState, WeightOverride};
use leastconn_fleet::OperatorState;
use tokio::runtime::Handle;

use super::{ActiveOverrides, CONFIGURED, Overrides, ServerKey, SetServerError, server_key};
use crate::snapshot::Snapshot;

/// Where a setting was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Origin {
    /// On this balancer.
    #[default]
    Here,
    /// For the whole fleet.
    Fleet,
}

impl Origin {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Here => "here",
            Self::Fleet => "fleet",
        }
    }

    /// The origin of a setting that the predecessor has handed over. `fleet`: it is set for the
    /// fleet that this process is a member of.
    pub(super) const fn imported(fleet: bool) -> Self {
        match fleet {
            true => Self::Fleet,
            false => Self::Here,
        }
    }
}

/// States and weights that are set for the fleet, including those of servers that do not exist
/// here. Empty without a fleet.
#[derive(Debug, Default)]
pub(super) struct FleetSettings {
    /// Whether the store has answered.
    pub(super) is_known: bool,
    states: BTreeMap<ServerKey, (AdminState, Duration)>,
    weights: BTreeMap<ServerKey, WeightOverride>,
}

impl FleetSettings {
    fn of(state: &OperatorState) -> Self {
        let mut settings = Self {
            is_known: true,
            ..Self::default()
        };
        for set in &state.states {
            let known = [AdminState::Drain, AdminState::Maint];
            let known = known.into_iter().find(|known| known.as_str() == set.state);
            match known {
                Some(state) => {
                    let key = server_key(&set.upstream, &set.server);
                    settings.states.insert(key, (state, set.grace));
                }
                None => tracing::warn!(
                    upstream = set.upstream,
                    server = set.server,
                    state = set.state,
                    "state of the fleet ignored: unknown to this version"
                ),
            }
        }
        for set in &state.weights {
            match set.weight.parse() {
                Ok(weight) => {
                    let key = server_key(&set.upstream, &set.server);
                    settings.weights.insert(key, weight);
                }
                Err(_) => tracing::warn!(
                    upstream = set.upstream,
                    server = set.server,
                    weight = set.weight,
                    "weight of the fleet ignored: unknown to this version"
                ),
            }
        }
        settings
    }

    pub(super) fn state(&self, key: &ServerKey) -> AdminState {
        let set = self.states.get(key);
        set.map_or(AdminState::Ready, |(state, _)| *state)
    }

    pub(super) fn weight(&self, key: &ServerKey) -> WeightOverride {
        let set = self.weights.get(key).copied();
        set.unwrap_or(CONFIGURED)
    }

    pub(super) fn grace(&self, key: &ServerKey) -> Duration {
        self.states
            .get(key)
            .map_or(super::DEFAULT_GRACE, |(_, grace)| *grace)
    }
}

impl Overrides {
    /// Applies what operators have set for the fleet. What it sets replaces what an earlier call
    /// has set; what was set on this balancer alone stays. `runtime` serves the connections.
    pub fn apply_fleet(&self, runtime: &Handle, state: &OperatorState) {
        let _entered = runtime.enter();
        let mut active = self.lock();
        if active.is_replaced {
            // The successor is a member itself.
            return;
        }
        active.fleet = FleetSettings::of(state);
        let snapshot = self.snapshots.load();
        self.reconcile(&mut active, &snapshot);
        if active.blocks.set_fleet(state) {
            let killed = self.publish_blocks(&active.blocks);
            if killed > 0 {
                tracing::info!(
                    killed,
                    "connections of clients closed that the fleet has blocked"
                );
            }
        }
    }

    /// Keeps everything that was set for the fleet as settings of this balancer, which has left
    /// the fleet: a server that is being repaired must not get connections.
    pub fn leave_fleet(&self) {
        let mut active = self.lock();
        active.fleet = FleetSettings::default();
        for value in active.servers.values_mut() {
            value.origin = Origin::Here;
        }
        active.weights.keep_fleet();
        active.blocks.keep_fleet();
        self.publish_blocks(&active.blocks);
    }

    /// Removes the state and weight that were set for a server on this balancer alone, so that it
    /// follows the fleet. `runtime` serves the connections. Returns the number of connections to
    /// the server.
    ///
    /// # Errors
    /// If a successor has replaced this process.
    pub fn follow_fleet(
        &self,
        runtime: &Handle,
        (upstream, server): (&str, &str),
    ) -> Result<u32, SetServerError> {
        let _entered = runtime.enter();
        let mut active = self.lock();
        active.ensure_active()?;
        let key = server_key(upstream, server);
        if let Some(value) = active.servers.get_mut(&key) {
            value.origin = Origin::Fleet;
        }
        active.weights.follow_fleet(&key);
        let snapshot = self.snapshots.load();
        self.reconcile(&mut active, &snapshot);
        let found = snapshot.server(upstream, server);
        Ok(found.map_or(0, |server| server.status().in_flight))
    }

    /// Gives each server the state and weight of the fleet, unless it has a setting of this
    /// balancer.
    pub(super) fn reconcile(&self, active: &mut ActiveOverrides, snapshot: &Snapshot) {
        let of_fleet = active.servers.iter();
        let of_fleet = of_fleet.filter(|(_, value)| value.origin == Origin::Fleet);
        let mut keys: Vec<_> = of_fleet.map(|(key, _)| key.clone()).collect();
        keys.extend(active.fleet.states.keys().cloned());
        for key in keys {
            let current = active.servers.get(&key);
            if current.is_some_and(|value| value.origin == Origin::Here) {
                continue;
            }
            let state = active.fleet.state(&key);
            if current.map_or(AdminState::Ready, |value| value.state) == state {
                continue;
            }
            let found = snapshot.server(key.0.as_str(), key.1.as_str());
            if found.is_none() && !snapshot.discovers_servers(&key.0) {
                active.servers.remove(&key);
                continue;
            }
            if let Some(server) = found {
                server.set_admin(state);
            }
            let grace = active.fleet.grace(&key);
            let (upstream, server) = &key;
            tracing::info!(%upstream, %server, state = state.as_str(), "state of the fleet applied");
            self.store_state(active, key, state, grace, Origin::Fleet);
        }
        let ActiveOverrides { weights, fleet, .. } = active;
        weights.reconcile(&fleet.weights, snapshot);
    }
}

#[cfg(test)]
mod tests;
