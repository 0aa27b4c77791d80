//! Request and response bodies of `POST` under `/api/v1`.

use leastconn::AdminState;
use leastconn_config::Level;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::FleetResult;

/// Administrative state of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ServerState {
    /// It gets new connections.
    Ready,
    /// It gets no new connections, but keeps open ones.
    Drain,
    /// It gets no new connections, its open connections are closed after a grace period, and its
    /// health is not checked.
    Maint,
}

/// `POST /api/v1/servers/UPSTREAM/SERVER/state`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SetState {
    pub state: ServerState,
    /// With `maint`: time until open connections are closed, such as `30s`; default: `10s`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grace: Option<String>,
    /// In a fleet: applies only to this balancer.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub here: bool,
}

/// Result of setting a server's state.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct StateSet {
    pub upstream: String,
    pub server: String,
    /// New state.
    pub state: ServerState,
    /// Previous state.
    pub was: ServerState,
    /// Open connections, including those being opened.
    pub active: u32,
    /// Servers of the upstream that can now get new connections.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub available: Option<usize>,
    /// With `maint`: seconds until open connections are closed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ends_after_seconds: Option<f64>,
    /// Result in the fleet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fleet: Option<FleetResult>,
}

/// `POST /api/v1/servers/UPSTREAM/SERVER/weight`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SetWeight {
    /// A weight, such as `5`, or a percentage of the configured weight, such as `50%`. 0 stops
    /// new connections, and `100%` resets the weight.
    pub weight: String,
    /// In a fleet: applies only to this balancer.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub here: bool,
}

/// Result of setting a server's weight.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct WeightSet {
    pub upstream: String,
    pub server: String,
    /// Weight in effect.
    pub weight: f64,
    /// Previous weight.
    pub was: f64,
    /// Weight in the configuration file.
    pub configured: u16,
    /// Servers of the upstream that can now get new connections.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub available: Option<usize>,
    /// Result in the fleet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fleet: Option<FleetResult>,
}

/// `POST /api/v1/connections/kill`: closes connections that match all given criteria. At least one
/// criterion is required.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Kill {
    /// Client rule.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client: Option<String>,
    /// Identity as listed by `/connections`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub identity: Option<String>,
    /// Server, such as `web/webapp2`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server: Option<String>,
    /// Connection ID.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connection: Option<u64>,
    /// In a fleet: applies only to this balancer. A connection ID always refers to a connection of
    /// this balancer.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub here: bool,
}

/// Result of closing connections.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Killed {
    /// Number of connections being closed on this balancer.
    pub killed: usize,
    /// Why no connection was closed, if no client can have the given identity while the current rules
    /// are in force.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// Result in the fleet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fleet: Option<FleetResult>,
}

/// `POST /api/v1/log-level`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SetLogLevel {
    /// Lowest level that is logged; default: the configured level.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub level: Option<Level>,
}

/// The log level in effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LogLevel {
    /// Lowest level that is logged.
    pub level: Level,
    /// Level in the configuration file.
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
