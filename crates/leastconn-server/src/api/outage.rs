//! Servers that are ejected or down, and upstreams without an available server.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{UpstreamSummary, time};
use crate::text;

/// Servers of an upstream that its summary lists.
const LISTED: usize = 5;

/// Since when a server has been ejected or down, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Outage {
    /// When it stopped to be `up`; later failures do not change it.
    pub since: String,
    /// `down`: the error of the last failed health check; `ejected`: the error of the
    /// connect that ejected it. At most 1 KiB.
    pub reason: String,
}

/// A server that is ejected or down.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct UnhealthyServer {
    /// Its name.
    pub server: String,
    /// `down` or `ejected`.
    pub health: String,
    /// When it stopped to be `up`; later failures do not change it.
    pub since: String,
    /// As `reason` of `outage` in `/servers`.
    pub reason: String,
}

impl Outage {
    pub(super) fn of(server: &leastconn::Server) -> Option<Self> {
        let outage = server.outage()?;
        Some(Self {
            since: Timestamp::try_from(outage.since).map_or_else(|_| String::new(), time),
            reason: text::escape(&outage.reason),
        })
    }
}

impl UnhealthyServer {
    /// The first of these servers and their health.
    pub(super) fn first<'a>(
        unhealthy: impl Iterator<Item = (&'a leastconn::Server, &'static str)>,
    ) -> Vec<Self> {
        let listed = unhealthy.filter_map(|(server, health)| {
            let outage = Outage::of(server)?;
            Some(Self {
                server: server.id().to_string(),
                health: health.to_owned(),
                since: outage.since,
                reason: outage.reason,
            })
        });
        listed.take(LISTED).collect()
    }
}

/// `web/web1 is down since 2026-11-24T03:12:09.123Z: Connection refused (os error 111)`
pub fn line(upstream: &str, server: &str, health: &str, outage: &Outage) -> String {
    let Outage { since, reason } = outage;
    format!("{upstream}/{server} is {health} since {since}: {reason}")
}

/// Upstreams without an available server, and servers that are ejected or down: `most`
/// lines, and one more with the number of servers that are not listed.
pub fn lines(upstreams: &[UpstreamSummary], most: usize) -> Vec<String> {
    let mut lines: Vec<_> = upstreams
        .iter()
        .filter(|upstream| upstream.available == 0)
        .map(|upstream| format!("upstream {}: NO server is available", upstream.name))
        .collect();
    lines.truncate(most);
    let unhealthy: usize = upstreams.iter().map(|upstream| upstream.unhealthy).sum();
    let servers = upstreams.iter().flat_map(|upstream| {
        let servers = upstream.unhealthy_servers.iter();
        servers.map(|one| {
            let outage = Outage {
                since: one.since.clone(),
                reason: one.reason.clone(),
            };
            line(&upstream.name, &one.server, &one.health, &outage)
        })
    });
    let servers: Vec<_> = servers.take(most - lines.len()).collect();
    let more = unhealthy.saturating_sub(servers.len());
    lines.extend(servers);
    if more > 0 {
        lines.push(format!("{more} more servers are ejected or down"));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn upstream(name: &str, available: usize, unhealthy: usize) -> UpstreamSummary {
        let listed = (0..unhealthy.min(LISTED)).map(|n| UnhealthyServer {
            server: format!("s{n}"),
            health: "down".to_owned(),
            since: "2026-11-24T03:12:09.123Z".to_owned(),
            reason: "HTTP status 503".to_owned(),
        });
        UpstreamSummary {
            name: name.to_owned(),
            balance: String::new(),
            servers: available + unhealthy,
            available,
            unhealthy,
            unhealthy_servers: listed.collect(),
            active: 0,
        }
    }

    #[test]
    fn upstreams_without_a_server_come_first() {
        assert_eq!(lines(&[upstream("web", 3, 0)], 4), [""; 0]);
        let down = "is down since 2026-11-24T03:12:09.123Z: HTTP status 503";
        assert_eq!(
            lines(&[upstream("web", 3, 1), upstream("db", 0, 2)], 4),
            [
                "upstream db: NO server is available".to_owned(),
                format!("web/s0 {down}"),
                format!("db/s0 {down}"),
                format!("db/s1 {down}"),
            ]
        );
    }

    #[test]
    fn the_number_of_lines_is_bounded() {
        let many: Vec<_> = (0..100).map(|_| upstream("web", 0, 9)).collect();
        assert_eq!(lines(&many, 4).len(), 5);
        let last = lines(&[upstream("web", 1, 9)], 6).pop();
        assert_eq!(last.as_deref(), Some("4 more servers are ejected or down"));
    }
}
