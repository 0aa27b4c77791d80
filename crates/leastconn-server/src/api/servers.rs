//! `GET /api/v1/servers`

use std::{cmp::Reverse, time::Instant};

use leastconn::{AdminState, Member, Pool, ServerStatus, health::Availability, net};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Outage, Sight, UnhealthyServer};
use crate::snapshot::Snapshot;

/// The word for a server that health checks found nothing wrong with.
const UP: &str = "up";

/// Servers of all upstreams.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Servers {
    /// In the configuration's order.
    pub servers: Vec<Server>,
}

/// How many of them.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ServersQuery {
    /// Of each upstream so many at most, all unless given: those first that get no
    /// connections, then those that are starting slowly, then those with the most.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<usize>,
}

/// One server.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Server {
    /// The upstream that it belongs to.
    pub upstream: String,
    /// Its name.
    pub server: String,
    /// Where it listens.
    pub address: String,
    /// What the operator wants: `ready`, `drain` or `maint`.
    pub state: String,
    /// What is known of its health: `up`, `down` (probes fail), or `ejected`
    /// (connections to it failed).
    pub health: String,
    /// While it is ejected or down: since when, and why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outage: Option<Outage>,
    /// While it is starting slowly: how far it has come.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slow_start: Option<SlowStart>,
    /// Its share relative to its peers'.
    pub weight: u16,
    /// Connections that it takes at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_conns: Option<u32>,
    /// Used only while no other is available.
    pub backup: bool,
    /// Connections to it, being opened or open.
    pub active: u32,
    /// Connections opened to it since the start.
    pub connections: u64,
    /// Connects to it that failed since the start.
    pub connect_failures: u64,
}

/// How far a server has come that is starting slowly.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SlowStart {
    /// What it may get of its share of new connections, at most: from 0.1 to less
    /// than 1.
    pub share: f64,
    /// Seconds until it may have its whole share; they begin with the first connection
    /// that could have gone to it.
    pub remaining_seconds: f64,
}

/// An upstream at a glance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct UpstreamSummary {
    /// Its name.
    pub name: String,
    /// How one of its servers is chosen, as `balance` of the configuration has it.
    #[serde(default)]
    pub balance: String,
    /// How many servers it has.
    pub servers: usize,
    /// How many of them may be given connections: healthy, and neither in drain nor
    /// in maint.
    pub available: usize,
    /// How many are ejected or down; those in maint do not count.
    #[serde(default)]
    pub unhealthy: usize,
    /// The first five of these.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unhealthy_servers: Vec<UnhealthyServer>,
    /// Connections to them, being opened or open.
    pub active: u64,
}

impl Servers {
    /// As they are now.
    pub fn of(sight: &Sight, query: &ServersQuery) -> Self {
        let state = sight.context.snapshot();
        let now = net::now();
        let servers = pools(&state).flat_map(|pool| Server::all(pool, query.limit, now));
        Self {
            servers: servers.collect(),
        }
    }
}

fn pools(snapshot: &Snapshot) -> impl Iterator<Item = &Pool> {
    let upstreams = snapshot.config.upstreams.iter();
    upstreams
        .filter_map(|upstream| snapshot.upstreams.get(&upstream.id))
        .map(|upstream| upstream.pool())
}

impl Server {
    fn all(pool: &Pool, limit: Option<usize>, now: Instant) -> Vec<Self> {
        let members = pool.members();
        let mut all: Vec<_> = members
            .iter()
            .map(|member| Self::of(pool, member, now))
            .enumerate()
            .collect();
        if let Some(limit) = limit.filter(|&limit| limit < all.len()) {
            all.sort_by_key(|(position, server)| (server.interest(), *position));
            all.truncate(limit);
            all.sort_by_key(|&(position, _)| position);
        }
        all.into_iter().map(|(_, server)| server).collect()
    }

    /// What is looked for comes first.
    fn interest(&self) -> impl Ord + use<> {
        let is_well = self.state == AdminState::Ready.as_str() && self.health == UP;
        (is_well, self.slow_start.is_none(), Reverse(self.active))
    }

    fn of(pool: &Pool, member: &Member, now: Instant) -> Self {
        let status = member.server.status();
        let slow = pool.slow_start_of(&member.server, now);
        Self {
            upstream: pool.id().to_string(),
            server: member.server.id().to_string(),
            address: member.server.address().to_string(),
            state: status.admin.as_str().to_owned(),
            health: health(&status).to_owned(),
            outage: Outage::of(&member.server),
            slow_start: slow.map(|slow| SlowStart {
                share: thousandths(slow.share),
                remaining_seconds: thousandths(slow.remaining.as_secs_f64()),
            }),
            weight: member.weight.get(),
            max_conns: member.max_conns.map(std::num::NonZero::get),
            backup: member.backup,
            active: status.in_flight,
            connections: status.connections,
            connect_failures: status.connect_failures,
        }
    }
}

const fn health(status: &ServerStatus) -> &'static str {
    match status.availability {
        Availability::Up => UP,
        Availability::Ejected(_) => "ejected",
        Availability::Down => "down",
    }
}

/// More digits would say nothing more.
fn thousandths(number: f64) -> f64 {
    (number * 1e3).round() / 1e3
}

impl UpstreamSummary {
    pub(crate) fn all(snapshot: &Snapshot) -> Vec<Self> {
        pools(snapshot).map(Self::of).collect()
    }

    pub(crate) fn of(pool: &Pool) -> Self {
        let members = pool.members();
        let status: Vec<_> = members
            .iter()
            .map(|member| member.server.status())
            .collect();
        let ready = AdminState::Ready;
        let available = status.iter().filter(|s| s.is_up() && s.admin == ready);
        let unhealthy = members
            .iter()
            .zip(&status)
            .filter(|(_, status)| !status.is_up() && status.admin != AdminState::Maint)
            .map(|(member, status)| (&*member.server, health(status)));
        Self {
            name: pool.id().to_string(),
            balance: pool.balance().as_str().to_owned(),
            servers: status.len(),
            available: available.count(),
            unhealthy: unhealthy.clone().count(),
            unhealthy_servers: UnhealthyServer::first(unhealthy),
            active: status
                .iter()
                .map(|status| u64::from(status.in_flight))
                .sum(),
        }
    }
}
