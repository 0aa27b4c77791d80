//! `health_check` and `passive` of an upstream.

use schemars::JsonSchema;
use serde::Deserialize;

use super::value::{DurationText, Opt, StatusCodes};
use crate::defaults::{self, text};

/// Active health checks.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "health_check")]
pub struct RawHealthCheck {
    /// The protocol of the probe.
    #[serde(rename = "type")]
    #[schemars(extend("default" = "tcp"))]
    pub kind: Opt<HealthCheckType>,
    /// Interval between two probes of a server.
    #[schemars(extend("default" = text(defaults::HEALTH_INTERVAL)))]
    pub interval: Opt<DurationText>,
    /// Timeout of a probe.
    #[schemars(extend("default" = text(defaults::HEALTH_TIMEOUT)))]
    pub timeout: Opt<DurationText>,
    /// Consecutive successful probes after which a server is up.
    #[schemars(range(min = 1, max = 1000), extend("default" = defaults::RISE))]
    pub rise: Opt<u32>,
    /// Consecutive failed probes after which a server is down.
    #[schemars(range(min = 1, max = 1000), extend("default" = defaults::FALL))]
    pub fall: Opt<u32>,
    /// The port to probe. Default: the port of the server's address. Required for "agent".
    #[schemars(range(min = 1))]
    pub port: Opt<u16>,
    /// For "tcp" and "agent": text that is sent after connecting.
    pub send: Opt<String>,
    /// For "tcp": text that the answer must contain.
    pub expect: Opt<String>,
    /// For "http": the path of the request, starting with `/`.
    #[schemars(extend("default" = defaults::HEALTH_PATH))]
    pub path: Opt<String>,
    /// For "http": the accepted status or list of statuses. Default: 200 to 399.
    pub status: Opt<StatusCodes>,
    /// For "mysql" and "postgres": the user name for the login, which sends no password. The
    /// user need not exist.
    #[schemars(extend("default" = defaults::HEALTH_USER))]
    pub user: Opt<String>,
}

/// The protocol of the probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "health_check_type")]
pub enum HealthCheckType {
    /// No probes.
    None,
    /// A TCP connect, optionally followed by `send` and `expect`.
    Tcp,
    /// An HTTP GET request.
    Http,
    /// A login to MySQL or MariaDB. These servers count a connection that ends before the login as
    /// an error, and block a host after too many errors.
    Mysql,
    /// The start of a PostgreSQL session, which is then closed.
    Postgres,
    /// A `PING` to Redis or Valkey.
    Redis,
    /// No probes. Short for `agent_check` with the same keys and `health_check = { type =
    /// "none" }`.
    Agent,
}

/// Agent checks: a process on the server reports the weight, the connection limit and the state
/// of the server, in the syntax of HAProxy's `agent-check`.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "agent_check")]
pub struct RawAgentCheck {
    /// The port of the agent, at the address of the server.
    #[schemars(required, range(min = 1))]
    pub port: Opt<u16>,
    /// Interval between two checks of a server.
    #[schemars(extend("default" = text(defaults::HEALTH_INTERVAL)))]
    pub interval: Opt<DurationText>,
    /// Timeout of a check.
    #[schemars(extend("default" = text(defaults::HEALTH_TIMEOUT)))]
    pub timeout: Opt<DurationText>,
    /// Text that is sent after connecting.
    pub send: Opt<String>,
}

/// Passive health checks: ejection of servers after failed connects, and of servers that close
/// connections immediately.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "passive")]
pub struct RawPassive {
    /// Failed connects within `fail_timeout` after which a server is ejected. 0: never.
    #[schemars(range(min = 0), extend("default" = defaults::MAX_FAILS))]
    pub max_fails: Opt<u32>,
    /// Number of consecutive early failures after which a server is ejected. A connection fails
    /// early if the server ends it within a second without having sent a byte. 0: never, which is
    /// also the default if `max_fails` is 0.
    #[schemars(range(min = 0), extend("default" = defaults::MAX_EARLY))]
    pub max_early: Opt<u32>,
    /// The period in which failed connects are counted, and the duration of the first
    /// ejection. The second ejection in a row lasts twice as long, the third three times as
    /// long, up to five minutes.
    #[schemars(extend("default" = text(defaults::FAIL_TIMEOUT)))]
    pub fail_timeout: Opt<DurationText>,
    /// Maximum fraction of the upstream's servers that may be ejected at the same time, from 0 to
    /// 1. Unless it is 0, at least one server may be ejected if there are two or more.
    #[schemars(range(min = 0.0, max = 1.0), extend("default" = defaults::MAX_EJECTED))]
    pub max_ejected: Opt<f64>,
}
