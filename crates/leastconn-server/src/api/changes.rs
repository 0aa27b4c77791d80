//! What `POST` under `/api/v1` takes and answers.

use leastconn::AdminState;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::Level;

/// What is wanted of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ServerState {
    /// It gets connections.
    Ready,
    /// It gets no new ones and keeps those it has.
    Drain,
    /// It gets none, and those it has are ended after a grace. Probes say nothing
    /// about it.
    Maint,
}

/// `POST /api/v1/servers/UPSTREAM/SERVER/state`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SetState {
    /// The state to be in.
    pub state: ServerState,
    /// With `maint`: how long open connections may go on, as in the configuration;
    /// 10s unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grace: Option<String>,
}

/// A server is in that state from now on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct StateSet {
    /// The upstream that it belongs to.
    pub upstream: String,
    /// Its name.
    pub server: String,
    /// How it is.
    pub state: ServerState,
    /// How it was.
    pub was: ServerState,
    /// Connections to it, being opened or open.
    pub active: u32,
    /// How many servers of the upstream may be given connections now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub available: Option<usize>,
    /// In `maint`: when those that are open are ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ends_after_seconds: Option<f64>,
}

/// `POST /api/v1/connections/kill`: which to end. All that is given must hold, and
/// something must be.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Kill {
    /// Those under the rule of this name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client: Option<String>,
    /// Those of this identity, as `connections` shows it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub identity: Option<String>,
    /// Those to this server, as `web/webapp2`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server: Option<String>,
    /// The one of this ID.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connection: Option<u64>,
}

/// They are being ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Killed {
    /// So many.
    pub killed: usize,
}

/// `POST /api/v1/log-level`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SetLogLevel {
    /// The least important messages to be written; none: what the file says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub level: Option<Level>,
}

/// So much is logged from now on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LogLevel {
    /// The least important messages that are written.
    pub level: Level,
    /// What the file says.
    pub configured: Level,
}

impl From<ServerState> for AdminState {
    fn from(state: ServerState) -> Self {
        match state {
            ServerState::Ready => Self::Ready,
            ServerState::Drain => Self::Drain,
            ServerState::Maint => Self::Maint,
        }
    }
}

impl From<AdminState> for ServerState {
    fn from(state: AdminState) -> Self {
        match state {
            AdminState::Ready => Self::Ready,
            AdminState::Drain => Self::Drain,
            AdminState::Maint => Self::Maint,
        }
    }
}
