//! What the admin side says of a running balancer, as JSON: one type for each
//! answer, which programs that ask read back.
//!
//! Names are those of the access log and the metrics. What is not known or not
//! configured is left out. Fields may be added; those that are there stay.

mod changes;
pub mod client;
mod clients;
mod connections;
pub mod history;
pub mod openapi;
pub mod outage;
mod refusals;
mod servers;
mod status;

use std::{collections::BTreeMap, sync::Arc};

use leastconn::Reason;

pub use changes::{Kill, Killed, LogLevel, ServerState, SetLogLevel, SetState, StateSet};
pub use clients::{Client, ClientOrder, Clients, ClientsQuery, RateLimit};
pub use connections::{Connection, Connections, ConnectionsQuery, Stage};
pub use history::{History, HistoryQuery, Sample, Samples};
pub use outage::{Outage, UnhealthyServer};
pub use refusals::{Refusals, RefusalsQuery};
pub use servers::{Server, Servers, ServersQuery, SlowStart, UpstreamSummary};
pub use status::{
    BlockedFile, Certificate, CertificateKind, CertificateState, Changes, Configuration, Deviation,
    FailedUpgrade, ListenerStatus, LogStatus, Memory, OldProcess, Phase, Reload, ReloadOutcome,
    Status, Totals,
};

pub(crate) use crate::telemetry::refusals::is_refusal;

use crate::{context::ServerContext, control::Control};

/// What is looked at.
#[derive(Clone, Debug)]
pub struct Sight {
    /// The running balancer.
    pub context: Arc<ServerContext>,
    /// What it may be asked to do.
    pub control: Arc<dyn Control>,
    /// The last minutes.
    pub history: Arc<History>,
}

/// How many connections ended for which reason, without those of which there is none.
pub type Outcomes = BTreeMap<String, u64>;

/// How many entries an answer has unless more or less are asked for, where there may be
/// very many.
pub const LIMIT: usize = 1000;

/// How many it has at most, whatever is asked for: some 5 MB, which are held until a slow
/// reader has taken them.
const MOST: usize = 10_000;

fn at_most(asked: Option<usize>) -> usize {
    asked.unwrap_or(LIMIT).min(MOST)
}

fn outcomes(counted: impl Iterator<Item = (Reason, u64)>) -> Outcomes {
    counted
        .filter(|&(_, count)| count > 0)
        .map(|(reason, count)| (reason.as_str().to_owned(), count))
        .collect()
}

/// RFC 3339, to the millisecond, as in the access log.
fn time(at: jiff::Timestamp) -> String {
    format!("{at:.3}")
}

/// A gauge is never read between two changes that belong together, but may be read
/// while something is given back: not less than nothing.
fn count(gauge: i64) -> u64 {
    u64::try_from(gauge).unwrap_or(0)
}
