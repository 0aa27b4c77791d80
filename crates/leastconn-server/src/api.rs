//! Types of the admin API, shared by the server and by clients such as `ctl` and `top`.
//!
//! Field names match the access log and the metrics. Unknown or unconfigured values are omitted.
//! Fields may be added, but not removed.

mod blocks;
mod changes;
pub mod client;
mod clients;
mod connections;
mod fleet;
pub mod history;
pub mod openapi;
pub mod outage;
mod page;
mod refusals;
mod servers;
mod status;
mod upstreams;

use std::{collections::BTreeMap, sync::Arc};

pub(crate) use blocks::target;
pub use blocks::{Block, BlockRemoved, BlockSet, Blocks, RemoveBlock, SetBlock};
pub use changes::{
    Kill, Killed, LogLevel, ServerState, SetLogLevel, SetState, SetWeight, StateSet, WeightSet,
};
pub use clients::{Client, ClientOrder, Clients, ClientsQuery, RateLimit};
pub use connections::{Connection, ConnectionOrder, Connections, ConnectionsQuery, Stage};
pub use fleet::{Fleet, FleetResult, FleetState, FleetSummary, Member, MemberState, SetFor, Store};
pub use history::{History, HistoryQuery, Latency, Sample, Samples, ServerHistory};
pub use outage::{Outage, UnhealthyServer};
pub use page::DEFAULT_LIMIT;
pub use refusals::{Refusals, RefusalsQuery};
pub use servers::{RemovedServer, Server, Servers, ServersQuery, SlowStart, Source};
pub use status::{
    BlockedFile, Certificate, CertificateKind, CertificateState, Changes, Configuration, Deviation,
    FailedUpgrade, ListenerStatus, LogStatus, Memory, OldProcess, Phase, Reload, ReloadOutcome,
    Status, Totals,
};
pub use upstreams::{OwnZone, UpstreamSummary, outage_lines};

use crate::{context::ServerContext, control::Control, reason_code::ReasonCode};

/// State that API requests read and change.
#[derive(Clone, Debug)]
pub struct ApiContext {
    pub context: Arc<ServerContext>,
    pub control: Arc<dyn Control>,
    pub history: Arc<History>,
}

/// Number of ended connections by reason code. Codes with a count of 0 are omitted.
pub type Outcomes = BTreeMap<String, u64>;

fn outcomes(counted: impl Iterator<Item = (ReasonCode, u64)>) -> Outcomes {
    counted
        .filter(|&(_, count)| count > 0)
        .map(|(reason, count)| (reason.as_str().to_owned(), count))
        .collect()
}

/// Formats a time as RFC 3339 with milliseconds, as in the access log.
fn time(at: jiff::Timestamp) -> String {
    format!("{at:.3}")
}

/// Clamps a gauge to 0, because a concurrent decrement can become visible before its increment.
fn count(gauge: i64) -> u64 {
    u64::try_from(gauge).unwrap_or(0)
}
