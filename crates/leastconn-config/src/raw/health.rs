//! `health_check` and `passive` of an upstream.

use schemars::JsonSchema;
use serde::Deserialize;

use super::value::{DurationText, Opt, StatusCodes};
use crate::defaults::{self, text};

/// Probes that tell whether a server works.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "health_check")]
pub struct RawHealthCheck {
    /// What a probe does.
    #[serde(rename = "type")]
    #[schemars(extend("default" = "tcp"))]
    pub kind: Opt<HealthCheckType>,
    /// Time between two probes of a server.
    #[schemars(extend("default" = text(defaults::HEALTH_INTERVAL)))]
    pub interval: Opt<DurationText>,
    /// How long a probe may take.
    #[schemars(extend("default" = text(defaults::HEALTH_TIMEOUT)))]
    pub timeout: Opt<DurationText>,
    /// Good probes in a row that bring a server up.
    #[schemars(range(min = 1, max = 1000), extend("default" = defaults::RISE))]
    pub rise: Opt<u32>,
    /// Failed probes in a row that take a server down.
    #[schemars(range(min = 1, max = 1000), extend("default" = defaults::FALL))]
    pub fall: Opt<u32>,
    /// The port that is probed. Default: the server's own.
    #[schemars(range(min = 1))]
    pub port: Opt<u16>,
    /// For "tcp": what is sent once connected.
    pub send: Opt<String>,
    /// For "tcp": what must occur in the answer.
    pub expect: Opt<String>,
    /// For "http": what is asked for, beginning with `/`.
    #[schemars(extend("default" = defaults::HEALTH_PATH))]
    pub path: Opt<String>,
    /// For "http": the status or statuses of a good answer. Default: 200 to 399.
    pub status: Opt<StatusCodes>,
    /// For "mysql" and "postgres": the user that logs in, without a password. It need
    /// not exist.
    #[schemars(extend("default" = defaults::HEALTH_USER))]
    pub user: Opt<String>,
}

/// What a probe does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "health_check_type")]
pub enum HealthCheckType {
    /// There are no probes.
    None,
    /// It connects, and may exchange some bytes.
    Tcp,
    /// It makes an HTTP GET request.
    Http,
    /// It logs in to MySQL or MariaDB, which count a connection that ends before as an
    /// error, and then block this host.
    Mysql,
    /// It begins a PostgreSQL session, and ends it.
    Postgres,
    /// It sends `PING` to Redis or Valkey.
    Redis,
}

/// What failing connects do to a server.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "passive")]
pub struct RawPassive {
    /// Failed connects within `fail_timeout` that take a server out; 0: never.
    #[schemars(range(min = 0), extend("default" = defaults::MAX_FAILS))]
    pub max_fails: Opt<u32>,
    /// The time in which failures add up, and how long a first ejection lasts. The second
    /// in a row lasts twice as long, and so on, up to five minutes.
    #[schemars(extend("default" = text(defaults::FAIL_TIMEOUT)))]
    pub fail_timeout: Opt<DurationText>,
    /// The part of the upstream's servers that may be ejected at once, 0 to 1; at least one
    /// of two or more, unless it is 0.
    #[schemars(range(min = 0.0, max = 1.0), extend("default" = defaults::MAX_EJECTED))]
    pub max_ejected: Opt<f64>,
}
