//! Passing overrides to a successor.

use std::mem;

use jiff::Timestamp;
use leastconn::{AdminState, UpstreamId};
use serde::{Deserialize, Serialize};

use super::{Ending, ServerOverride, State};
use crate::{config::Level, snapshot::Snapshot};

/// Overrides, as sent to a successor, which may be of another version.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Carried {
    #[serde(default)]
    servers: Vec<CarriedServer>,
    #[serde(default)]
    level: Option<(String, String)>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct CarriedServer {
    upstream: String,
    server: String,
    state: String,
    since: String,
    /// In `maint`: when its connections end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ends: Option<String>,
}

fn since(text: &str) -> Timestamp {
    text.parse().unwrap_or_else(|_| Timestamp::now())
}

impl State {
    pub(super) fn carried(&self) -> Carried {
        let servers = self.servers.iter().map(|(key, setting)| CarriedServer {
            upstream: key.0.to_string(),
            server: key.1.to_string(),
            state: setting.state.as_str().to_owned(),
            since: setting.since.to_string(),
            // Also if it has passed: the successor may have accepted others meanwhile.
            ends: setting.ending.as_ref().map(|ending| ending.at.to_string()),
        });
        Carried {
            servers: servers.collect(),
            level: self
                .level
                .map(|(level, since)| (level.as_str().to_owned(), since.to_string())),
        }
    }

    pub(super) fn take_over(&mut self, carried: &Carried, snapshot: &Snapshot) {
        for (key, _) in mem::take(&mut self.servers) {
            if let Some(server) = snapshot.server(key.0.as_str(), key.1.as_str()) {
                server.set_admin(AdminState::Ready);
            }
        }
        for set in &carried.servers {
            let states = [AdminState::Drain, AdminState::Maint];
            let wanted = states.into_iter().find(|known| known.as_str() == set.state);
            let found = snapshot.server(&set.upstream, &set.server);
            let (Some(wanted), Some(server)) = (wanted, found) else {
                tracing::info!(
                    upstream = set.upstream,
                    server = set.server,
                    state = set.state,
                    "the server is gone, and with it the state that was set by hand"
                );
                continue;
            };
            server.set_admin(wanted);
            let key = (UpstreamId::from(set.upstream.as_str()), server.id().clone());
            let setting = ServerOverride {
                state: wanted,
                since: since(&set.since),
                ending: set
                    .ends
                    .as_ref()
                    .filter(|_| wanted == AdminState::Maint)
                    .map(|ends| Ending {
                        at: since(ends),
                        task: None,
                    }),
            };
            self.servers.insert(key, setting);
        }
        let log = &snapshot.config.log;
        self.level = carried.level.as_ref().and_then(|(word, at)| {
            let level = Level::ALL
                .into_iter()
                .find(|level| level.as_str() == word)?;
            (level != log.level).then(|| (level, since(at)))
        });
    }
}
