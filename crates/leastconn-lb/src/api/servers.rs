//! `GET /api/v1/servers`

use leastconn::{Member, Pool, health::Availability};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Sight;
use crate::state::State;

/// All servers of all upstreams.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Servers {
    /// In the configuration's order.
    pub servers: Vec<Server>,
}

/// One server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
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
    /// Connections to them, being opened or open.
    pub active: u64,
}

impl Servers {
    /// As they are now.
    pub fn of(sight: &Sight) -> Self {
        let state = sight.shared.state();
        let servers = pools(&state).flat_map(|pool| {
            let members = pool.members().iter();
            members.map(|member| Server::of(pool.id().as_str(), member))
        });
        Self {
            servers: servers.collect(),
        }
    }
}

fn pools(state: &State) -> impl Iterator<Item = &Pool> {
    let upstreams = state.config.upstreams.iter();
    upstreams
        .filter_map(|upstream| state.upstreams.get(&upstream.id))
        .map(|upstream| upstream.pool())
}

impl Server {
    fn of(upstream: &str, member: &Member) -> Self {
        let status = member.server.status();
        Self {
            upstream: upstream.to_owned(),
            server: member.server.id().to_string(),
            address: member.server.address().to_string(),
            state: status.admin.as_str().to_owned(),
            health: match status.availability {
                Availability::Up => "up",
                Availability::Ejected(_) => "ejected",
                Availability::Down => "down",
            }
            .to_owned(),
            weight: member.weight.get(),
            max_conns: member.max_conns.map(std::num::NonZero::get),
            backup: member.backup,
            active: status.in_flight,
            connections: status.connections,
            connect_failures: status.connect_failures,
        }
    }
}

impl UpstreamSummary {
    pub(super) fn all(state: &State) -> Vec<Self> {
        pools(state).map(Self::of).collect()
    }

    pub(crate) fn of(pool: &Pool) -> Self {
        let members = pool.members().iter();
        let status: Vec<_> = members.map(|member| member.server.status()).collect();
        let ready = leastconn::AdminState::Ready;
        let available = status.iter().filter(|s| s.is_up() && s.admin == ready);
        Self {
            name: pool.id().to_string(),
            balance: pool.balance().as_str().to_owned(),
            servers: status.len(),
            available: available.count(),
            active: status
                .iter()
                .map(|status| u64::from(status.in_flight))
                .sum(),
        }
    }
}
