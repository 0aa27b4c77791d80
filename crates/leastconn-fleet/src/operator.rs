//! What operators set for the whole fleet.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The ID of a command, assigned by the member that sends it: 128 random bits, in hexadecimal.
pub type CommandId = String;

/// A command of an operator, for all members. The store implementation signs commands with
/// the secret of the fleet, and ignores commands whose signature is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Sets the state of a server: `ready`, `drain` or `maint`.
    State {
        upstream: String,
        server: String,
        state: String,
        /// In `maint`: time until its connections are closed.
        grace: Duration,
    },
    /// Sets the weight of a server: a number, or a percentage. `100%` removes the override.
    Weight {
        upstream: String,
        server: String,
        weight: String,
    },
    Block {
        target: BlockTarget,
        /// `None`: until it is unblocked.
        duration: Option<Duration>,
    },
    Unblock {
        target: BlockTarget,
    },
    /// Closes connections. `filter` is JSON with the keys of `POST /api/v1/connections/kill`.
    Kill {
        id: CommandId,
        filter: String,
    },
}

/// Which clients are blocked. Entries of the store contain it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BlockTarget {
    /// An identity as in logs: `cn:web1`, `source:192.0.2.7`.
    Identity(String),
    /// The serial number of a certificate, in lower-case hexadecimal without leading zeros.
    Serial(String),
}

/// A kill of another member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommandRecord {
    pub id: CommandId,
    pub filter: String,
}

/// A member has carried out a kill.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Acknowledgement {
    pub id: CommandId,
    /// How many connections were closed.
    pub killed: u64,
}

/// Everything that operators have set and not reset.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OperatorState {
    /// Changes with each command.
    pub version: u64,
    pub states: Vec<ServerState>,
    pub weights: Vec<ServerWeight>,
    pub blocks: Vec<Block>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerState {
    pub upstream: String,
    pub server: String,
    /// `drain` or `maint`.
    pub state: String,
    pub grace: Duration,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerWeight {
    pub upstream: String,
    pub server: String,
    pub weight: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    pub target: BlockTarget,
    /// Time left, by the clock of the store. `None`: until it is unblocked.
    pub remaining: Option<Duration>,
}
