//! The simulated site: servers, balancers, their policies, and failures.

use std::{num::NonZeroU32, time::Duration};

use leastconn::{
    QueuePolicy, Weight,
    health::{ActivePolicy, PassivePolicy},
};

/// A group of servers behind one or several balancers.
#[derive(Clone, Debug)]
pub struct Site {
    pub servers: Vec<ServerSetup>,
    pub balancers: usize,
    /// For each balancer, the positions in `servers` of the servers that its clients may use.
    /// Empty: all clients may use all servers.
    pub allowed: Vec<Vec<usize>>,
    pub sharing: Sharing,
    pub policy: Policy,
    /// Changes to servers, in chronological order.
    pub changes: Vec<TimedChange>,
    /// The time that is simulated before measuring starts.
    pub warm_up: Duration,
    /// The end of the simulation, including `warm_up`.
    pub duration: Duration,
    /// The server whose return or arrival is measured.
    pub watched: Option<Watched>,
}

/// What each balancer knows about the connections of the other balancers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sharing {
    /// Each balancer counts only its own connections.
    OwnCounts,
    /// The balancers exchange their counts.
    Counts {
        /// The interval between a balancer's exchanges.
        every: Duration,
        /// Whether picks add an echo for connections of other balancers that are not known yet.
        has_echo: bool,
    },
}

/// A server and how it behaves while it is up.
#[derive(Clone, Debug)]
pub struct ServerSetup {
    pub name: String,
    pub weight: Weight,
    pub max_conns: Option<NonZeroU32>,
    /// Whether the server is used only while no other server is available.
    pub is_backup: bool,
    /// Factor by which connections last longer than on a normal server.
    pub slowness: f64,
    /// Whether the server is a member from the start.
    pub is_member: bool,
}

impl ServerSetup {
    /// A normal server of weight 1 that is a member from the start.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            weight: Weight::ONE,
            max_conns: None,
            is_backup: false,
            slowness: 1.0,
            is_member: true,
        }
    }
}

/// The settings of the upstream, the same on all balancers.
#[derive(Clone, Copy, Debug)]
pub struct Policy {
    pub slow_start: Duration,
    pub passive: PassivePolicy,
    pub check: Option<Check>,
    /// How many connections may wait for a server that is below its maximum, and for how long.
    pub queue: QueuePolicy,
    /// Further servers that are tried if connecting fails.
    pub retries: u32,
    /// How long a connection keeps retrying after all attempts have failed.
    pub retry_for: Duration,
    pub connect_timeout: Duration,
    /// How long a client waits for an answer from a server that does not respond.
    pub client_timeout: Duration,
}

impl Default for Policy {
    /// The defaults of `leastconn-lb`, but without health checks.
    fn default() -> Self {
        Self {
            slow_start: Duration::ZERO,
            passive: PassivePolicy::default(),
            check: None,
            queue: QueuePolicy::default(),
            retries: 2,
            retry_for: Duration::from_secs(3),
            connect_timeout: Duration::from_secs(5),
            client_timeout: Duration::from_secs(5),
        }
    }
}

/// An active health check.
#[derive(Clone, Copy, Debug)]
pub struct Check {
    pub interval: Duration,
    pub timeout: Duration,
    /// Whether the check expects an answer. Otherwise it only connects.
    pub expects_answer: bool,
    pub policy: ActivePolicy,
}

/// The condition of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    Up,
    /// The server's kernel refuses connections: the service is not running.
    Refusing,
    /// Connects time out: the machine is off or disconnected.
    Unreachable,
    /// The server accepts connections and closes them immediately.
    ClosingAtOnce,
    /// The server's kernel accepts connections, but the service never answers.
    Frozen,
}

/// A change to a server at a point in time.
#[derive(Clone, Copy, Debug)]
pub struct TimedChange {
    pub at: Duration,
    /// Position in [`Site::servers`].
    pub server: usize,
    pub change: Change,
}

#[derive(Clone, Copy, Debug)]
pub enum Change {
    /// The condition applies to new connections. Open connections stay open.
    Condition(Condition),
    /// The service exits: its connections end, their clients reconnect immediately, and new
    /// connections are refused.
    Crash,
    /// The server becomes a member.
    Join,
}

/// A server that is measured separately.
#[derive(Clone, Copy, Debug)]
pub struct Watched {
    pub server: usize,
    /// Measuring starts with the first connection to the server at or after this time.
    pub from: Duration,
}
