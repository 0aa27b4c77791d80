//! The state of a fleet, as operators see it.

use std::time::Duration;

use jiff::Timestamp;
use leastconn_fleet::{Facts, MemberStatus};

/// The fleet as seen by this member.
#[derive(Clone, Debug, PartialEq)]
pub struct FleetStatus {
    /// The name of the fleet.
    pub name: String,
    pub state: FleetState,
    /// When `state` was entered.
    pub since: Timestamp,
    /// This member first, then the others that are alive, by name. While the store cannot be
    /// reached, the others are those of the last answer.
    pub members: Vec<MemberState>,
    pub store: StoreStatus,
}

/// Whether a member takes part in the fleet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FleetState {
    /// The store has not been reached since the start, which was less than a second ago.
    Joining,
    /// Exchanges succeed.
    Joined,
    /// No exchange has succeeded for a second. Each limit is divided by the number of members.
    CutOff,
}

impl FleetState {
    pub const ALL: [Self; 3] = [Self::Joining, Self::Joined, Self::CutOff];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Joining => "joining",
            Self::Joined => "joined",
            Self::CutOff => "cut_off",
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct MemberState {
    /// The name in the configuration.
    pub name: String,
    /// Whether this is the process that reports the status.
    pub is_self: bool,
    pub status: MemberStatus,
    /// `None`: not received yet.
    pub facts: Option<Facts>,
    /// Time since its last exchange.
    pub last_heard: Duration,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct StoreStatus {
    /// The address in use, or the configured store while there is no connection.
    pub address: String,
    /// The duration of the last successful exchange. `None`: there was none.
    pub round_trip: Option<Duration>,
    /// Exchanges that failed since the start.
    pub failures: u64,
    /// Why the last exchange failed. `None`: it succeeded.
    pub error: Option<String>,
}
