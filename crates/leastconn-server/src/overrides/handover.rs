//! Hands the overrides over to the successor process in an upgrade.

use std::{mem, time::Duration};

use jiff::Timestamp;
use leastconn::{AdminState, ServerId, UpstreamId};
use leastconn_config::Level;
use leastconn_fleet::{OperatorHistory, SavedHistory};
use serde::{Deserialize, Serialize};

use super::{
    ActiveOverrides, Origin, Overrides, PendingClose, ServerOverride, blocks::BlockHandover,
    close_connections, parse_time, weights::WeightHandover,
};
use crate::{logging, snapshot::Snapshot};

/// The overrides as sent to another process, which may be of another version.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OverrideHandover {
    #[serde(default)]
    servers: Vec<ServerHandover>,
    #[serde(default)]
    weights: Vec<WeightHandover>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    blocks: Vec<BlockHandover>,
    #[serde(default)]
    level: Option<(String, String)>,
    /// The name of the fleet that the predecessor is a member of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    fleet: Option<String>,
    /// What operators have set in this fleet, signed. Contained only in the overrides that the
    /// successor starts with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    history: Option<SavedHistory>,
}

impl OverrideHandover {
    pub(crate) fn with_history(self, history: &OperatorHistory) -> Self {
        let history = self.fleet.is_some().then(|| history.save());
        Self { history, ..self }
    }

    /// Without what changes with each exchange with the store.
    pub(crate) fn without_history(self) -> Self {
        Self {
            history: None,
            ..self
        }
    }

    /// What operators have set in the fleet of `snapshot`, if the predecessor is a member, too.
    pub(crate) fn history(&self, snapshot: &Snapshot) -> Option<OperatorHistory> {
        let history = self.history.as_ref()?;
        self.fleet.as_ref()?;
        self.is_of_fleet(snapshot)
            .then(|| OperatorHistory::restore(history))
    }

    /// Whether settings of the predecessor's fleet are settings of the fleet of `snapshot`.
    /// Otherwise, this process keeps them as its own.
    fn is_of_fleet(&self, snapshot: &Snapshot) -> bool {
        let fleet = snapshot.config.fleet.as_ref();
        fleet.is_some_and(|fleet| self.fleet.as_ref().is_none_or(|name| **name == *fleet.name))
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct ServerHandover {
    upstream: String,
    server: String,
    state: String,
    since: String,
    /// In `maint`: when connections to the server are closed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ends: Option<String>,
    /// Whether it is set for the fleet.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    fleet: bool,
}

impl Overrides {
    /// The current overrides, for the successor. This process remains active.
    pub fn export(&self) -> OverrideHandover {
        self.export_of(&self.lock())
    }

    fn export_of(&self, active: &ActiveOverrides) -> OverrideHandover {
        let snapshot = self.snapshots.load();
        let fleet = snapshot.config.fleet.as_ref();
        OverrideHandover {
            fleet: fleet.map(|fleet| fleet.name.to_string()),
            ..active.export()
        }
    }

    /// The final overrides, for the successor. Later changes in this process fail with
    /// [`Replaced`].
    ///
    /// [`Replaced`]: super::Replaced
    pub fn hand_over(&self) -> OverrideHandover {
        let mut active = self.lock();
        active.is_replaced = true;
        let handover = self.export_of(&active);
        let now = Timestamp::now();
        for value in active.servers.values_mut() {
            // The successor decides when to close the connections, because an operator may change
            // the state there. It then forwards a kill to this process.
            value.pending_close.take_if(|pending| pending.at > now);
        }
        handover
    }

    /// Replaces the overrides with those of the predecessor. Unknown servers and states are
    /// ignored. The predecessor closes connections to servers in `maint` until this process is
    /// [activated](Self::activate).
    ///
    /// What this process has received from the fleet stays: the predecessor may have been cut off,
    /// or in another fleet or none.
    ///
    /// # Panics
    /// Outside a Tokio runtime, if the fleet has set a server to `maint`.
    pub fn import(&self, handover: &OverrideHandover) {
        let mut active = self.lock();
        let snapshot = &*self.snapshots.load();
        active.import(handover, snapshot);
        if active.fleet.is_known {
            self.reconcile(&mut active, snapshot);
        }
        self.publish_blocks(&active.blocks);
        logging::change(&active.with_level(&snapshot.config.log));
    }

    /// Schedules the closes that were imported: the predecessor no longer carries them out.
    pub(crate) fn activate(&self) {
        let mut active = self.lock();
        for (key, value) in &mut active.servers {
            let pending = value.pending_close.as_mut();
            let Some(pending) = pending.filter(|pending| pending.task.is_none()) else {
                continue;
            };
            let grace = Timestamp::now().duration_until(pending.at);
            let grace = Duration::try_from(grace).unwrap_or_default();
            let close = close_connections(self.clone(), key.clone(), grace);
            pending.task = Some(tokio::spawn(close).abort_handle());
        }
    }
}

impl ActiveOverrides {
    fn export(&self) -> OverrideHandover {
        let servers = self.servers.iter().map(|(key, value)| ServerHandover {
            upstream: key.0.to_string(),
            server: key.1.to_string(),
            state: value.state.as_str().to_owned(),
            since: value.since.to_string(),
            // Send this even after the grace period: the successor may have opened connections.
            ends: value
                .pending_close
                .as_ref()
                .map(|pending| pending.at.to_string()),
            fleet: value.origin == Origin::Fleet,
        });
        OverrideHandover {
            servers: servers.collect(),
            weights: self.weights.export(),
            blocks: self.blocks.export(),
            level: self
                .level
                .map(|(level, since)| (level.as_str().to_owned(), since.to_string())),
            fleet: None,
            history: None,
        }
    }

    fn import(&mut self, handover: &OverrideHandover, snapshot: &Snapshot) {
        let in_fleet = handover.is_of_fleet(snapshot);
        for (key, _) in mem::take(&mut self.servers) {
            if let Some(server) = snapshot.server(key.0.as_str(), key.1.as_str()) {
                server.set_admin(AdminState::Ready);
            }
        }
        for imported in &handover.servers {
            let states = [AdminState::Ready, AdminState::Drain, AdminState::Maint];
            let state = states
                .into_iter()
                .find(|known| known.as_str() == imported.state);
            let found = snapshot.server(&imported.upstream, &imported.server);
            let upstream = UpstreamId::from(imported.upstream.as_str());
            let is_known = found.is_some() || snapshot.discovers_servers(&upstream);
            let Some(state) = state.filter(|_| is_known) else {
                tracing::info!(
                    upstream = imported.upstream,
                    server = imported.server,
                    state = imported.state,
                    "override dropped: server not configured or state unknown"
                );
                continue;
            };
            if let Some(server) = found {
                server.set_admin(state);
            }
            let key = (upstream, ServerId::from(imported.server.as_str()));
            let close_at = imported.ends.as_ref();
            let close_at = close_at.filter(|_| state == AdminState::Maint);
            let value = ServerOverride {
                state,
                since: parse_time(&imported.since),
                origin: Origin::imported(imported.fleet && in_fleet),
                pending_close: close_at.map(|at| PendingClose {
                    at: parse_time(at),
                    task: None,
                }),
            };
            self.servers.insert(key, value);
        }
        self.weights.import(&handover.weights, snapshot, in_fleet);
        self.blocks
            .import(&handover.blocks, in_fleet, self.fleet.is_known);
        let log = &snapshot.config.log;
        self.level = handover.level.as_ref().and_then(|(name, since)| {
            let level = Level::ALL
                .into_iter()
                .find(|level| level.as_str() == name)?;
            (level != log.level).then(|| (level, parse_time(since)))
        });
    }
}
