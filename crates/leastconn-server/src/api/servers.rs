//! `GET /api/v1/servers`

use std::{cmp::Reverse, collections::HashMap, num::NonZeroU32, time::Instant};

use leastconn::{AdminState, AgentState, Member, Pool, net};
use leastconn_config::text::escape;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    ApiContext, ServerHistory,
    outage::{FAILING, Outage, UNCHECKED, UP, health_name},
};
use crate::upstream::Upstream;

/// Servers of all upstreams.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Servers {
    /// In the order of the configuration.
    pub servers: Vec<Server>,
    /// Removed servers that still have connections.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub removed: Vec<RemovedServer>,
    /// The sources of discovered servers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sources: Vec<Source>,
}

/// A server that was removed from the configuration or by discovery.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RemovedServer {
    pub upstream: String,
    pub server: String,
    /// `HOST:PORT` or `unix:PATH`.
    pub address: String,
    /// Open connections.
    pub active: u32,
}

/// A source of servers: `dns`, `srv` or `file` in `servers`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Source {
    pub upstream: String,
    /// Key and value, such as `dns web:80`.
    pub source: String,
    /// Number of servers.
    pub servers: usize,
    /// Seconds since the last answer with servers or, if there was none, since the start.
    pub age_seconds: f64,
    /// Whether there has been an answer with servers.
    pub answered: bool,
    /// Why the last look-up found no servers, or not all of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// Limit of a list of servers.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ServersQuery {
    /// Maximum number of servers of each upstream; default: all. Servers that get no connections
    /// are preferred, then those in slow start, then those with the most connections.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<usize>,
    /// Adds the history of each server.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub history: bool,
}

/// One server.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Server {
    pub upstream: String,
    pub server: String,
    /// `HOST:PORT` or `unix:PATH`.
    pub address: String,
    /// Administrative state: `ready`, `drain` or `maint`.
    pub state: String,
    /// `up`, `down` (health checks fail) or `ejected` (connects failed, or the server closed
    /// connections immediately).
    pub health: String,
    /// Whether health checks or agent checks examine the server. Without them, `health` is `up`
    /// until connections fail.
    #[serde(default = "is_checked_by_default")]
    pub checked: bool,
    /// What the server's agent has reported.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<Agent>,
    /// While ejected or down: since when, and why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outage: Option<Outage>,
    /// For a server that fails but still gets connections, because `max_ejected` does not allow its
    /// ejection: since when, and the last error.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kept_in_use: Option<Outage>,
    /// Progress of a slow start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slow_start: Option<SlowStart>,
    /// The source of a discovered server, such as `dns web:80`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// Configured share of new connections, relative to other servers.
    pub weight: u16,
    /// Weight in effect, if it differs from `weight`. With 0, the server gets no new connections.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub effective_weight: Option<f64>,
    /// Maximum open connections.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_conns: Option<u32>,
    /// Only used while no other server is available.
    pub backup: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// Open connections, including those being opened.
    pub active: u32,
    /// In a fleet: open connections of other members.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub elsewhere: Option<u32>,
    /// Connections opened since the start.
    pub connections: u64,
    /// Failed connects since the start.
    pub connect_failures: u64,
    /// Connections since the start that failed early: the server ended them within a second
    /// without having sent a byte.
    #[serde(default)]
    pub early_failures: u64,
    /// With `history`: the last five minutes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub history: Option<ServerHistory>,
}

/// What a server's agent has reported, apart from the weight and the limit in effect.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Agent {
    /// `ready`, `drain` or `maint`, in addition to the administrative state.
    pub state: String,
    /// Why the server is down.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub down: Option<String>,
    /// Weight in percent of the configured weight. A weight set by an operator takes precedence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight_percent: Option<u16>,
    /// Maximum open connections; 0: no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_conns: Option<u32>,
}

/// Progress of a slow start.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SlowStart {
    /// Fraction of its normal share that the server gets at most, from 0.1 to less than 1.
    pub share: f64,
    /// Seconds until the server gets its full share, counted from the first connection that it
    /// could have got.
    pub remaining_seconds: f64,
}

impl Servers {
    pub fn of(cx: &ApiContext, query: &ServersQuery) -> Self {
        let state = cx.context.snapshot();
        let in_fleet = cx.context.fleet.get().is_some();
        let now = net::now();
        let servers = state
            .running_upstreams()
            .flat_map(|one| Server::all(one, query.limit, in_fleet, now));
        let mut servers: Vec<_> = servers.collect();
        if query.history {
            for server in &mut servers {
                server.history = cx.history.servers.of(&server.upstream, &server.server);
            }
        }
        let removed = state.departed_servers().into_iter();
        let removed = removed.map(|(upstream, server)| RemovedServer {
            upstream: upstream.to_string(),
            server: server.id().to_string(),
            address: server.address().to_string(),
            active: server.in_flight(),
        });
        Self {
            servers,
            removed: removed.collect(),
            sources: state.running_upstreams().flat_map(Source::all).collect(),
        }
    }
}

impl Agent {
    fn of(agent: &AgentState) -> Option<Self> {
        (*agent != AgentState::default()).then(|| Self {
            state: agent.admin.as_str().to_owned(),
            down: agent.down.clone(),
            weight_percent: agent.weight_percent,
            max_conns: agent.max_conns.map(|max| max.map_or(0, NonZeroU32::get)),
        })
    }
}

impl Source {
    fn all(upstream: &Upstream) -> impl Iterator<Item = Self> {
        let name = upstream.pool().id();
        let sources = upstream.sources().into_iter();
        sources.map(move |source| Self {
            upstream: name.to_string(),
            source: source.kind.to_string(),
            servers: source.servers.len(),
            age_seconds: thousandths(source.age.as_secs_f64()),
            answered: source.is_answered,
            error: source.error.as_deref().map(escape),
        })
    }
}

impl Server {
    /// The administrative state. It is marked if only the agent has set it.
    pub fn state_text(&self) -> String {
        let ready = AdminState::Ready.as_str();
        match &self.agent {
            Some(agent) if self.state == ready && agent.state != ready => {
                format!("{} (agent)", agent.state)
            }
            _ => self.state.clone(),
        }
    }

    /// The health in one word: as `health`, but [`UNCHECKED`] for a server without checks, and
    /// [`FAILING`] for one that fails and is still used.
    pub fn health_text(&self) -> &str {
        match &*self.health {
            UP if self.kept_in_use.is_some() => FAILING,
            UP if !self.checked => UNCHECKED,
            health => health,
        }
    }

    /// The weight in effect, and the configured weight if it differs: `0.5 of 1`.
    pub fn weight_text(&self) -> String {
        match self.effective_weight {
            Some(weight) => format!("{weight} of {}", self.weight),
            None => self.weight.to_string(),
        }
    }

    fn all(upstream: &Upstream, limit: Option<usize>, in_fleet: bool, now: Instant) -> Vec<Self> {
        let pool = upstream.pool();
        let checked = upstream.is_checked();
        let members = pool.members();
        let mut sources = HashMap::new();
        for source in upstream.sources() {
            let kind = source.kind.to_string();
            for server in source.servers {
                sources.entry(server).or_insert_with(|| kind.clone());
            }
        }
        let mut all: Vec<_> = members
            .iter()
            .map(|member| Self {
                source: sources.remove(member.server.id()),
                checked,
                ..Self::of(pool, member, in_fleet, now)
            })
            .enumerate()
            .collect();
        if let Some(limit) = limit.filter(|&limit| limit < all.len()) {
            all.sort_by_key(|(position, server)| (server.interest(), *position));
            all.truncate(limit);
            all.sort_by_key(|&(position, _)| position);
        }
        all.into_iter().map(|(_, server)| server).collect()
    }

    /// Sort key: unusual servers first.
    fn interest(&self) -> impl Ord + use<> {
        let is_ready = self.state_text() == AdminState::Ready.as_str();
        let is_well = is_ready
            && self.health == UP
            && self.kept_in_use.is_none()
            && self.effective_weight != Some(0.0);
        (is_well, self.slow_start.is_none(), Reverse(self.active))
    }

    fn of(pool: &Pool, member: &Member, in_fleet: bool, now: Instant) -> Self {
        let status = member.server.status();
        let (configured, weight) = (member.configured_weight().get(), member.effective_weight());
        let slow = pool.slow_start_of(&member.server, now);
        Self {
            upstream: pool.id().to_string(),
            server: member.server.id().to_string(),
            address: member.server.address().to_string(),
            state: status.admin.as_str().to_owned(),
            health: health_name(&status).to_owned(),
            checked: true,
            agent: Agent::of(&member.server.agent()),
            outage: Outage::of(&member.server),
            kept_in_use: Outage::of_kept(&member.server, &status),
            slow_start: slow.map(|slow| SlowStart {
                share: thousandths(slow.share),
                remaining_seconds: thousandths(slow.remaining.as_secs_f64()),
            }),
            source: None,
            weight: configured,
            effective_weight: Some(weight).filter(|&weight| weight != f64::from(configured)),
            max_conns: member.max_conns.map(NonZeroU32::get),
            backup: member.backup,
            zone: member.zone().map(ToString::to_string),
            active: status.in_flight,
            elsewhere: in_fleet.then_some(status.external_connections),
            connections: status.connections,
            connect_failures: status.connect_failures,
            early_failures: status.early_failures,
            history: None,
        }
    }
}

/// For answers of an older version, which always shows `up`.
const fn is_checked_by_default() -> bool {
    true
}

fn thousandths(number: f64) -> f64 {
    (number * 1e3).round() / 1e3
}
