//! The configuration file as it is written: every table and every key.
//!
//! The JSON schema is derived from these types, with their doc comments as descriptions. A
//! file is checked against the schema before it is deserialized into these types. The check
//! reports and removes invalid values. Every field is optional, because its value may have
//! been removed, or because a required key may be missing.

mod admin;
mod client;
mod discovery;
mod fleet;
mod health;
mod listener;
mod log;
mod process;
mod tls;
mod upstream;
pub mod value;

use schemars::JsonSchema;
use serde::Deserialize;

pub use admin::RawAdmin;
pub use client::{RawClient, RawClientDefaults, RawDefaults, RawMatch, RawRateLimit};
pub use discovery::RawDiscovery;
pub use fleet::{RawFleet, RawStore, StoreEntry};
pub use health::{HealthCheckType, RawAgentCheck, RawHealthCheck, RawPassive};
pub use listener::{ProxyProtocolIn, RawListener, RawRoute, RawSourceRateLimit};
pub use log::RawLog;
pub use process::{RawProcess, TlsRecords};
pub use tls::{ClientAuth, MinVersion, RawTls, RawUpstreamTls, Resumption};
pub use upstream::{
    Balance, Panic, ProxyProtocolOut, RawRebalance, RawServer, RawUpstream, ServerEntry,
};
use value::{At, Opt};

/// The configuration of leastconn-lb.
///
/// Unknown keys are errors. Durations are strings such as "250ms", "10s" or
/// "1h". Relative paths start at the directory of the file. `${NAME}` and
/// `${NAME:-default}` in strings are replaced by environment variables; `$$` is a `$`.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "leastconn-lb configuration")]
pub struct Raw {
    /// Settings of the whole process.
    pub process: Option<RawProcess>,
    /// Logging and the access log.
    pub log: Option<RawLog>,
    /// The admin interface: dashboard, API, metrics, health checks and `ctl`. Off without this table.
    pub admin: Opt<RawAdmin>,
    /// An address that clients connect to.
    pub listener: Option<Vec<At<RawListener>>>,
    /// A group of interchangeable servers.
    pub upstream: Option<Vec<At<RawUpstream>>>,
    /// A rule for clients: whom it matches, what they may reach, and their limits. Rules are
    /// tried in the order of the file and the first match decides. Clients that match no
    /// rule are refused.
    pub client: Option<Vec<At<RawClient>>>,
    /// Several balancers that act as one through Valkey or Redis. Off without this table.
    pub fleet: Opt<RawFleet>,
    /// Defaults for keys that other tables omit.
    pub defaults: Option<RawDefaults>,
}
