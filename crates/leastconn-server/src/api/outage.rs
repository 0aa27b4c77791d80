//! Servers that are ejected or down.

use std::time::Instant;

use jiff::Timestamp;
use leastconn::{ServerStatus, health::Availability, net};
use leastconn_config::text;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::time;

/// Maximum number of servers in the summary of an upstream.
pub(super) const LISTED: usize = 5;

/// When and why a server became ejected or down.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Outage {
    /// When the server stopped being `up`; later failures do not change it.
    pub since: String,
    /// While ejected: when a trial connection is allowed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<String>,
    /// Error of the last failed health check (`down`), or of the connection that ejected the
    /// server. At most 1 KiB.
    pub reason: String,
}

/// A server that is ejected or down.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct UnhealthyServer {
    pub server: String,
    /// `down` or `ejected`; in `failing_servers`, `up`.
    pub health: String,
    /// When the server stopped being `up`; later failures do not change it.
    pub since: String,
    /// The same text as `outage.reason` in `/servers`.
    pub reason: String,
}

/// Health of a server without failures.
pub const UP: &str = "up";

/// Shown instead of [`UP`] if neither health checks nor agent checks examine the server.
pub const UNCHECKED: &str = "unchecked";

/// Shown instead of [`UP`] if the server fails, but stays in use because of `max_ejected`.
pub const FAILING: &str = "failing";

pub(super) const fn health_name(status: &ServerStatus) -> &'static str {
    match status.availability {
        Availability::Up => UP,
        Availability::Ejected(_) => "ejected",
        Availability::Down => "down",
    }
}

impl Outage {
    /// The failure of a server that stays in use because of `max_ejected`. Returns `None` for a
    /// server that gets no connections for another reason, such as drain or maintenance.
    pub(super) fn of_kept(server: &leastconn::Server, status: &ServerStatus) -> Option<Self> {
        let failure = server.kept_in_use().filter(|_| status.is_available())?;
        Some(Self::new(&failure, None))
    }

    pub(super) fn of(server: &leastconn::Server) -> Option<Self> {
        let outage = server.outage()?;
        let until = match server.status().availability {
            Availability::Ejected(until) => wall_clock(until).map(time),
            Availability::Up | Availability::Down => None,
        };
        Some(Self::new(&outage, until))
    }

    fn new(outage: &leastconn::Outage, until: Option<String>) -> Self {
        Self {
            since: Timestamp::try_from(outage.since).map_or_else(|_| String::new(), time),
            until,
            reason: text::escape(&outage.reason),
        }
    }
}

impl UnhealthyServer {
    /// Returns up to [`LISTED`] servers with their health.
    pub(super) fn first<'a>(
        unhealthy: impl Iterator<Item = (&'a leastconn::Server, &'static str)>,
    ) -> Vec<Self> {
        let listed = unhealthy
            .filter_map(|(server, health)| Some(Self::new(server, health, Outage::of(server)?)));
        listed.take(LISTED).collect()
    }

    /// Returns all servers that fail and stay in use because of `max_ejected`.
    pub(super) fn all_kept<'a>(
        servers: impl Iterator<Item = (&'a leastconn::Server, &'a ServerStatus)>,
    ) -> Vec<Self> {
        let kept = servers.filter_map(|(server, status)| {
            Some(Self::new(server, UP, Outage::of_kept(server, status)?))
        });
        kept.collect()
    }

    fn new(server: &leastconn::Server, health: &str, outage: Outage) -> Self {
        Self {
            server: server.id().to_string(),
            health: health.to_owned(),
            since: outage.since,
            reason: outage.reason,
        }
    }
}

impl From<&UnhealthyServer> for Outage {
    fn from(server: &UnhealthyServer) -> Self {
        Self {
            since: server.since.clone(),
            until: None,
            reason: server.reason.clone(),
        }
    }
}

/// The time of day at `instant`. Returns `None` if the time is out of range.
fn wall_clock(instant: Instant) -> Option<Timestamp> {
    let left = instant.saturating_duration_since(net::now());
    Timestamp::now().checked_add(left).ok()
}

/// `web/web1 is down since 2026-11-24T03:12:09.123Z: Connection refused (os error 111)`
pub fn line(upstream: &str, server: &str, health: &str, outage: &Outage) -> String {
    let Outage {
        since,
        until,
        reason,
    } = outage;
    let until = until.as_ref();
    let until = until.map_or_else(String::new, |until| format!(" until {until}"));
    format!("{upstream}/{server} is {health} since {since}{until}: {reason}")
}

/// `web/web1 is failing since 2026-11-24T03:12:09.123Z: Connection refused (os error 111); it is still
/// used, because max_ejected allows no further ejection`
pub fn kept_line(upstream: &str, server: &str, outage: &Outage) -> String {
    let line = line(upstream, server, FAILING, outage);
    format!("{line}; it is still used, because max_ejected allows no further ejection")
}
