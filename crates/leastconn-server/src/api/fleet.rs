//! `GET /api/v1/fleet`

use jiff::Timestamp;
use leastconn_fleet::MemberStatus;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{ApiContext, time};
use crate::{
    fleet::{self, FleetStatus, KillReport, NotSent},
    overrides::Origin,
};

/// The fleet, as this balancer sees it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Fleet {
    /// Name of the fleet.
    pub name: String,
    pub state: FleetState,
    /// Time at which this state was entered.
    pub since: String,
    pub store: Store,
    /// This balancer first, then the other members by name.
    pub members: Vec<Member>,
}

/// A summary of the fleet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct FleetSummary {
    /// Name of the fleet.
    pub name: String,
    pub state: FleetState,
    /// Time at which this state was entered.
    pub since: String,
    /// Number of members, including this balancer.
    pub members: usize,
    /// Number of members that accept connections.
    pub serving: usize,
    /// Number of members whose configuration differs from that of this balancer.
    pub other_configurations: usize,
    /// Why the store cannot be used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// Whether this balancer takes part in the fleet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum FleetState {
    /// Within the first second, before the store is reached.
    Joining,
    /// Limits and counts are shared.
    Joined,
    /// The store does not answer: each limit is divided by the number of members.
    CutOff,
}

impl FleetState {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Joining => "joining",
            Self::Joined => "joined",
            Self::CutOff => "cut off",
        }
    }
}

/// The store of a fleet.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Store {
    /// Address in use, or the configured address.
    pub address: String,
    /// Duration of the last exchange.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub round_trip_ms: Option<f64>,
    /// Failed exchanges since the start.
    pub failures: u64,
    /// Why the last exchange failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// A member of a fleet.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Member {
    /// Name of the member. During an upgrade, two processes have the same name.
    pub member: String,
    /// Whether this member is the process that answers this request.
    pub this: bool,
    pub status: MemberState,
    /// Version of the program.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Host name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// Digest of the running configuration file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub configuration: Option<String>,
    /// Time at which the running configuration was applied.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub configuration_since: Option<String>,
    /// Whether its configuration file differs from that of the process that answers this request.
    pub other_configuration: bool,
    /// Open connections.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connections: Option<u64>,
    /// Seconds since its last exchange with the store.
    pub last_heard_seconds: f64,
}

/// What a member does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum MemberState {
    /// It accepts connections.
    Serving,
    /// It serves open connections only.
    Leaving,
}

/// The balancers that a setting applies to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SetFor {
    /// This balancer.
    Here,
    /// All members of the fleet.
    Fleet,
}

/// Outcome of a command that was sent to the fleet.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct FleetResult {
    /// Why the command did not reach the fleet. In that case, it was carried out on this balancer
    /// only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Number of connections that other members closed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub killed: Option<u64>,
    /// Members that did not confirm in time that they closed their connections.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub missing: Vec<String>,
}

impl FleetResult {
    /// Whether all members have carried out the command, or will do so.
    pub fn is_complete(&self) -> bool {
        self.error.is_none() && self.missing.is_empty()
    }

    pub(crate) fn sent(sent: Result<(), NotSent>) -> Self {
        Self {
            error: sent.err().map(|error| error.to_string()),
            ..Self::default()
        }
    }

    pub(crate) fn killed(report: Result<KillReport, NotSent>) -> Self {
        match report {
            Ok(report) => Self {
                error: None,
                killed: Some(report.killed.iter().map(|(_, killed)| killed).sum()),
                missing: report.missing,
            },
            Err(error) => Self::sent(Err(error)),
        }
    }
}

impl Fleet {
    /// Returns `None` if this balancer is not a member of a fleet.
    pub fn of(cx: &ApiContext) -> Option<Self> {
        let status = cx.context.fleet.get()?.status();
        Some(Self {
            members: members(&status),
            name: status.name,
            state: status.state.into(),
            since: time(status.since),
            store: Store {
                address: status.store.address,
                round_trip_ms: status
                    .store
                    .round_trip
                    .map(|round_trip| round_trip.as_secs_f64() * 1000.0),
                failures: status.store.failures,
                error: status.store.error,
            },
        })
    }
}

impl FleetSummary {
    pub(super) fn of(cx: &ApiContext) -> Option<Self> {
        let fleet = Fleet::of(cx)?;
        let is_serving = |member: &&Member| member.status == MemberState::Serving;
        let differs = |member: &&Member| member.other_configuration;
        Some(Self {
            members: fleet.members.len(),
            serving: fleet.members.iter().filter(is_serving).count(),
            other_configurations: fleet.members.iter().filter(differs).count(),
            name: fleet.name,
            state: fleet.state,
            since: fleet.since,
            error: fleet.store.error,
        })
    }
}

fn members(status: &FleetStatus) -> Vec<Member> {
    let own = status.members.iter().find(|member| member.is_self);
    let own = own.and_then(|own| own.facts.as_ref());
    let own = own.map(|facts| &*facts.config_digest);
    let members = status.members.iter();
    members.map(|member| Member::of(member, own)).collect()
}

impl Member {
    fn of(member: &fleet::MemberState, own_digest: Option<&str>) -> Self {
        let facts = member.facts.as_ref();
        let digest = facts.map(|facts| &*facts.config_digest);
        let since = facts.and_then(|facts| Timestamp::from_second(facts.config_since).ok());
        Self {
            member: member.name.clone(),
            this: member.is_self,
            status: match member.status {
                MemberStatus::Serving => MemberState::Serving,
                MemberStatus::Leaving => MemberState::Leaving,
            },
            other_configuration: digest
                .zip(own_digest)
                .is_some_and(|(digest, own)| digest != own),
            version: facts.map(|facts| facts.version.clone()),
            host: facts.map(|facts| facts.host.clone()),
            configuration: digest.map(str::to_owned),
            configuration_since: since.map(time),
            connections: facts.map(|facts| facts.connections),
            last_heard_seconds: member.last_heard.as_secs_f64(),
        }
    }
}

impl From<fleet::FleetState> for FleetState {
    fn from(state: fleet::FleetState) -> Self {
        match state {
            fleet::FleetState::Joining => Self::Joining,
            fleet::FleetState::Joined => Self::Joined,
            fleet::FleetState::CutOff => Self::CutOff,
        }
    }
}

impl From<Origin> for SetFor {
    fn from(origin: Origin) -> Self {
        match origin {
            Origin::Here => Self::Here,
            Origin::Fleet => Self::Fleet,
        }
    }
}
