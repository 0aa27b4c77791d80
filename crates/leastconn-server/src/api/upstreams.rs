//! Summaries of upstreams, for `/api/v1/status`.

use leastconn::{AdminState, Pool, net};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::outage::{LISTED, Outage, UnhealthyServer, health_name, kept_line, line};
use crate::{snapshot::Snapshot, upstream::Upstream};

/// An upstream at a glance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct UpstreamSummary {
    pub name: String,
    /// Balancing algorithm, as configured by `balance`.
    #[serde(default)]
    pub balance: String,
    /// Number of servers.
    pub servers: usize,
    /// Number of servers that can get new connections: healthy, neither in drain nor in maint, and
    /// with a weight above 0.
    pub available: usize,
    /// Number of available servers that are at `max_conns`.
    #[serde(default)]
    pub at_max_conns: usize,
    /// Number of servers that are ejected or down, excluding those in maint.
    #[serde(default)]
    pub unhealthy: usize,
    /// The first five unhealthy servers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unhealthy_servers: Vec<UnhealthyServer>,
    /// Number of servers that fail, but still get connections because `max_ejected` allows no further
    /// ejection.
    #[serde(default)]
    pub failing: usize,
    /// The first five of the failing servers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub failing_servers: Vec<UnhealthyServer>,
    /// Open connections to the servers, including those being opened.
    pub active: u64,
    /// The balancer's own zone, if some but not all servers are in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<OwnZone>,
    /// Number of connections that wait in the queue, because all their servers are at `max_conns`.
    #[serde(default)]
    pub queued: usize,
    /// Maximum number of waiting connections; 0: connections do not wait.
    #[serde(default)]
    pub queue_size: usize,
    /// How long the oldest waiting connection has been waiting.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub longest_wait_ms: Option<u64>,
    /// Whether the balancer is not ready because no servers of this upstream were discovered yet.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub waits_for_servers: bool,
}

/// The balancer's own zone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct OwnZone {
    pub name: String,
    /// Whether new connections are sent only to servers in this zone. False while less than half of
    /// the weight of these servers is available.
    pub preferred: bool,
}

impl UpstreamSummary {
    pub(crate) fn all(snapshot: &Snapshot) -> Vec<Self> {
        let upstreams = snapshot.running_upstreams();
        let summary = |upstream: &Upstream| Self {
            waits_for_servers: upstream.is_waiting_for_servers(),
            ..Self::of(upstream.pool())
        };
        upstreams.map(summary).collect()
    }

    pub(crate) fn of(pool: &Pool) -> Self {
        let members = pool.members();
        let status: Vec<_> = members
            .iter()
            .map(|member| member.server.status())
            .collect();
        let available = status.iter().filter(|status| status.is_available());
        let at_max_conns = members.iter().zip(&status).filter(|(member, status)| {
            let max = member.max_conns;
            status.is_available() && max.is_some_and(|max| status.in_flight >= max.get())
        });
        let unhealthy = members
            .iter()
            .zip(&status)
            .filter(|(_, status)| !status.is_up() && status.admin != AdminState::Maint)
            .map(|(member, status)| (&*member.server, health_name(status)));
        let servers = members.iter().map(|member| &*member.server);
        let mut failing = UnhealthyServer::all_kept(servers.zip(&status));
        let failing_count = failing.len();
        failing.truncate(LISTED);
        let queue = pool.queue_status(net::now());
        let longest_wait = queue.longest_wait.map(|wait| wait.as_millis());
        Self {
            queued: queue.waiting,
            queue_size: pool.queue_policy().size,
            longest_wait_ms: longest_wait.map(|wait| u64::try_from(wait).unwrap_or(u64::MAX)),
            waits_for_servers: false,
            name: pool.id().to_string(),
            balance: pool.balance().as_str().to_owned(),
            servers: status.len(),
            available: available.count(),
            at_max_conns: at_max_conns.count(),
            unhealthy: unhealthy.clone().count(),
            unhealthy_servers: UnhealthyServer::first(unhealthy),
            failing: failing_count,
            failing_servers: failing,
            active: status
                .iter()
                .map(|status| u64::from(status.in_flight))
                .sum(),
            zone: pool.own_zone().map(|(zone, preferred)| OwnZone {
                name: zone.to_string(),
                preferred,
            }),
        }
    }
}

impl UpstreamSummary {
    /// Whether all available servers are at `max_conns`.
    pub const fn is_full(&self) -> bool {
        self.available > 0 && self.at_max_conns == self.available
    }

    /// If no connection waits; otherwise [`Self::queue_line`] says the same.
    fn full_line(&self) -> Option<String> {
        let servers = match self.available {
            1 => "the available server is".to_owned(),
            count => format!("all {count} available servers are"),
        };
        let effect = match self.queue_size {
            0 => "refused",
            _ => "queued",
        };
        (self.is_full() && self.queued == 0).then(|| {
            format!(
                "upstream {}: {servers} at max_conns, new connections are {effect}",
                self.name
            )
        })
    }

    fn queue_line(&self) -> Option<String> {
        let (connections, wait) = match self.queued {
            0 => return None,
            1 => ("connection", "waits"),
            _ => ("connections", "wait"),
        };
        Some(format!(
            "upstream {}: {} {connections} {wait} for a server below max_conns, the longest for {} ms",
            self.name,
            self.queued,
            self.longest_wait_ms.unwrap_or_default()
        ))
    }
}

/// Text lines for upstreams without an available server or with all of them at `max_conns`, for
/// upstreams with waiting connections, for failing servers that are still used, and for unhealthy
/// servers: at most `max_lines`, plus one line with the numbers of what is left out.
pub fn outage_lines(upstreams: &[UpstreamSummary], max_lines: usize) -> Vec<String> {
    let mut lines: Vec<_> = upstreams
        .iter()
        .filter(|upstream| upstream.available == 0)
        .map(|upstream| {
            let why = if upstream.waits_for_servers {
                ", because none was discovered yet"
            } else {
                ""
            };
            format!("upstream {}: NO server is available{why}", upstream.name)
        })
        .collect();
    lines.extend(upstreams.iter().filter_map(UpstreamSummary::full_line));
    lines.extend(upstreams.iter().filter_map(UpstreamSummary::queue_line));
    let mut left_out = Vec::new();
    let more = lines.len().saturating_sub(max_lines);
    if more > 0 {
        let messages = if more == 1 { "message" } else { "messages" };
        left_out.push(format!("{more} more {messages} about upstreams"));
    }
    lines.truncate(max_lines);
    let failing = upstreams.iter().flat_map(|upstream| {
        let servers = upstream.failing_servers.iter();
        servers.map(|one| kept_line(&upstream.name, &one.server, &Outage::from(one)))
    });
    let count = upstreams.iter().map(|upstream| upstream.failing).sum();
    left_out.extend(add_servers(
        &mut lines, max_lines, failing, count, "failing",
    ));
    let unhealthy = upstreams.iter().flat_map(|upstream| {
        let servers = upstream.unhealthy_servers.iter();
        servers.map(|one| line(&upstream.name, &one.server, &one.health, &Outage::from(one)))
    });
    let count = upstreams.iter().map(|upstream| upstream.unhealthy).sum();
    left_out.extend(add_servers(
        &mut lines,
        max_lines,
        unhealthy,
        count,
        "ejected or down",
    ));
    if !left_out.is_empty() {
        lines.push(left_out.join(", "));
    }
    lines
}

/// Adds lines up to `max_lines`. Returns how many of `count` servers are left out, if any are.
fn add_servers(
    lines: &mut Vec<String>,
    max_lines: usize,
    servers: impl Iterator<Item = String>,
    count: usize,
    condition: &str,
) -> Option<String> {
    let before = lines.len();
    lines.extend(servers.take(max_lines.saturating_sub(before)));
    let more = count.saturating_sub(lines.len() - before);
    let (servers, are) = match more {
        0 => return None,
        1 => ("server", "is"),
        _ => ("servers", "are"),
    };
    Some(format!("{more} more {servers} {are} {condition}"))
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
            at_max_conns: 0,
            unhealthy,
            unhealthy_servers: listed.collect(),
            failing: 0,
            failing_servers: Vec::new(),
            active: 0,
            zone: None,
            queued: 0,
            queue_size: 0,
            longest_wait_ms: None,
            waits_for_servers: false,
        }
    }

    #[test]
    fn upstreams_without_server_come_first() {
        assert_eq!(outage_lines(&[upstream("web", 3, 0)], 4), [""; 0]);
        let mut waiting = upstream("mq", 0, 0);
        waiting.waits_for_servers = true;
        assert_eq!(
            outage_lines(&[waiting], 4),
            ["upstream mq: NO server is available, because none was discovered yet"]
        );
        let down = "is down since 2026-11-24T03:12:09.123Z: HTTP status 503";
        assert_eq!(
            outage_lines(&[upstream("web", 3, 1), upstream("db", 0, 2)], 4),
            [
                "upstream db: NO server is available".to_owned(),
                format!("web/s0 {down}"),
                format!("db/s0 {down}"),
                format!("db/s1 {down}"),
            ]
        );
    }

    #[test]
    fn full_upstreams_are_listed() {
        let full = |name, available, at_max_conns, queue_size| UpstreamSummary {
            at_max_conns,
            queue_size,
            ..upstream(name, available, 0)
        };
        assert_eq!(
            outage_lines(
                &[
                    full("web", 2, 2, 0),
                    full("db", 1, 1, 9),
                    full("mq", 2, 1, 0)
                ],
                4
            ),
            [
                "upstream web: all 2 available servers are at max_conns, new connections are refused",
                "upstream db: the available server is at max_conns, new connections are queued",
            ]
        );
    }

    #[test]
    fn queues_are_listed() {
        let waiting = |queued| UpstreamSummary {
            queued,
            longest_wait_ms: Some(250),
            ..upstream("web", 2, 0)
        };
        assert_eq!(
            outage_lines(&[waiting(0), waiting(1), waiting(7)], 4),
            [
                "upstream web: 1 connection waits for a server below max_conns, the longest for 250 ms",
                "upstream web: 7 connections wait for a server below max_conns, the longest for 250 ms",
            ]
        );
    }

    fn failing_server() -> UnhealthyServer {
        UnhealthyServer {
            server: "web1".to_owned(),
            health: "up".to_owned(),
            since: "2026-11-24T03:12:09.123Z".to_owned(),
            reason: "Connection refused".to_owned(),
        }
    }

    #[test]
    fn failing_servers_that_are_still_used_say_why() {
        let mut web = upstream("web", 1, 0);
        web.failing = 1;
        web.failing_servers = vec![failing_server()];
        assert_eq!(
            outage_lines(&[web], 4),
            [
                "web/web1 is failing since 2026-11-24T03:12:09.123Z: Connection refused; it is still \
                 used, because max_ejected allows no further ejection"
            ]
        );
    }

    #[test]
    fn number_of_lines_is_bounded() {
        let many: Vec<_> = (0..100).map(|_| upstream("web", 0, 9)).collect();
        assert_eq!(outage_lines(&many, 4).len(), 5);
        let last = outage_lines(&[upstream("web", 1, 9)], 6).pop();
        assert_eq!(last.as_deref(), Some("4 more servers are ejected or down"));
    }

    #[test]
    fn omitted_lines_are_counted() {
        let mut many: Vec<_> = (0..3).map(|_| upstream("web", 0, 9)).collect();
        many[0].failing = 7;
        many[0].failing_servers = vec![failing_server(); LISTED];
        let last = |max_lines| outage_lines(&many, max_lines).pop().unwrap();
        assert_eq!(
            last(2),
            "1 more message about upstreams, 7 more servers are failing, 27 more servers are ejected \
             or down"
        );
        assert_eq!(
            last(9),
            "2 more servers are failing, 26 more servers are ejected or down"
        );
        let mut one = upstream("web", 1, 0);
        one.failing = 1;
        one.failing_servers = vec![failing_server()];
        assert_eq!(outage_lines(&[one], 0), ["1 more server is failing"]);
    }
}
