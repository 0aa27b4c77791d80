//! What a member sends in an exchange.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{
    keys::{ClientKey, ServerKey},
    member::{MemberId, MemberStatus},
    operator::{Acknowledgement, Command},
};

#[derive(Clone, Debug)]
pub struct Report {
    pub member: MemberId,
    pub status: MemberStatus,
    /// The connections to servers. The store implementation sends them only if their version
    /// differs from the version that was last acknowledged.
    pub counts: Arc<Counts>,
    /// Sent about once a second. The store implementation repeats the last facts if the store
    /// has lost them.
    pub facts: Option<Facts>,
    /// Limited clients that changed. After a failed exchange, the same batch is sent again, with
    /// its number, until it is acknowledged: the store subtracts the tokens only once.
    pub batch: Option<Arc<Batch>>,
    /// Servers with `max_conns`, whose slots are divided among the members.
    pub slots: Vec<SlotReport>,
    /// Commands of operators on this member. After a failed exchange, the same commands are sent
    /// again; a kill keeps its ID. When the exchange succeeds, all commands have been applied but
    /// those in [`View::refused`](crate::View::refused).
    pub commands: Vec<Command>,
    /// Kills of other members that this member has carried out. Sent again after a failed
    /// exchange.
    pub acknowledgements: Vec<Acknowledgement>,
}

impl Report {
    /// A report without numbers and commands.
    pub fn new(member: MemberId, status: MemberStatus) -> Self {
        Self {
            member,
            status,
            counts: Arc::default(),
            facts: None,
            batch: None,
            slots: Vec::new(),
            commands: Vec::new(),
            acknowledgements: Vec::new(),
        }
    }
}

/// Connections to each server.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Counts {
    /// Grows with each change.
    pub version: u64,
    pub servers: Vec<ServerCount>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ServerCount {
    pub server: ServerKey,
    pub open: u32,
    /// Dials per second, averaged over about a second.
    pub dials_per_second: f32,
}

/// What people see in `ctl fleet`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    pub version: String,
    pub host: String,
    /// Digest of the running configuration.
    pub config_digest: String,
    /// When the running configuration was applied, in seconds since 1970.
    pub config_since: i64,
    /// Connections of clients in progress.
    pub connections: u64,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Batch {
    /// Grows by one with each batch of the member. Starts at 1.
    pub number: u64,
    pub clients: Vec<ClientReport>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ClientReport {
    pub client: ClientKey,
    /// Connections that were admitted here without asking, since the last batch.
    pub admitted: u32,
    /// Connections that wait for the answer.
    pub ask: u32,
    /// New connections per second. Zero: unlimited.
    pub rate: f64,
    pub burst: u32,
    /// Zero: unlimited.
    pub max_conns: u32,
    /// Open connections of this member, including `admitted`, without `ask`.
    pub open: u32,
    /// Tokens in use now, according to the last answer. `None`: there was none. For a store that
    /// has lost them.
    pub used: Option<f64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotReport {
    pub server: ServerKey,
    /// `max_conns` of the server.
    pub max: u32,
    /// Slots that this member would like to hold, at least `open`.
    pub want: u32,
    /// Connections in flight.
    pub open: u32,
}
