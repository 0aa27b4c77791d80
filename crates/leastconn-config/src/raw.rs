//! The configuration file as it is written: every table and every key.
//!
//! The JSON schema is derived from these types: their doc comments are its
//! descriptions. A file is checked against the schema before it is deserialized
//! into them. Every field is optional here, because values that the check rejected
//! and required keys that are missing have been reported and removed by then.

mod admin;
mod client;
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
pub use health::{HealthCheckType, RawHealthCheck, RawPassive};
pub use listener::{ProxyProtocolIn, RawListener, RawRoute, RawSourceRateLimit};
pub use log::RawLog;
pub use process::{RawProcess, TlsRecords};
pub use tls::{ClientAuth, MinVersion, RawTls, RawUpstreamTls, Resumption};
pub use upstream::{Balance, Panic, ProxyProtocolOut, RawServer, RawUpstream, ServerEntry};
use value::{At, Opt};

/// The configuration of leastconn-lb.
///
/// Unknown keys are errors. Durations are strings such as "250ms", "10s" or
/// "1h". Relative paths are relative to the file. `${NAME}` and
/// `${NAME:-default}` in strings stand for environment variables; `$$` is a `$`.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "leastconn-lb configuration")]
pub struct Raw {
    /// What concerns the process as a whole.
    pub process: Option<RawProcess>,
    /// What is logged, how and where.
    pub log: Option<RawLog>,
    /// The admin side: dashboard, API, metrics, health, `ctl`. Without this table there is none.
    pub admin: Opt<RawAdmin>,
    /// An address that clients connect to.
    pub listener: Option<Vec<At<RawListener>>>,
    /// A group of servers that do the same work.
    pub upstream: Option<Vec<At<RawUpstream>>>,
    /// A client: who it is, what it may reach, and how much of it. Tried in the
    /// file's order, the first that matches decides; no match: refused.
    pub client: Option<Vec<At<RawClient>>>,
    /// What other tables leave out.
    pub defaults: Option<RawDefaults>,
}
