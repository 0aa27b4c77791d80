//! Operations on a pool.

use leastconn::AdminState;

/// An operation on a pool. Indices are taken modulo the number of servers or leases.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Op {
    /// A client that may use the servers in `allowed` connects.
    Pick {
        /// One bit per server.
        allowed: u8,
        /// One bit per server that has already been tried.
        tried: u8,
    },
    /// A connection ends.
    Drop(u8),
    /// Dialling a server fails, and another server is tried.
    Retry(u8),
    /// A connect to a server fails. It began this many seconds ago.
    Failed(u8, u8),
    /// A connect to a server succeeds.
    Succeeded(u8),
    /// A connection that was being dialled is established.
    Connected(u8),
    /// A server ends a connection early. It was established this many seconds ago.
    FailedEarly(u8, u8),
    /// A server has served a connection that was established this many seconds ago.
    Served(u8, u8),
    /// A probe of a server succeeds or fails.
    Probed(u8, bool),
    /// The operator sets a server's state.
    Admin(u8, AdminState),
    /// Other balancers report this many connections to a server, with an echo in quarters of a
    /// connection.
    ExternalLoad(u8, u8, u8),
    /// The balancer is granted this many slots of a server. 0: slots do not limit the connections.
    Slots(u8, u8),
    /// Time passes: this many seconds.
    Wait(u8),
    /// Replaces the members with the servers in the mask. The policies stay the same.
    Update {
        /// One bit per server. 0: all servers.
        members: u8,
        /// Determines weights, limits and backups.
        seed: u8,
    },
    /// Replaces the pool with a successor that has the servers in the mask.
    Succeed {
        /// One bit per server. 0: all servers.
        members: u8,
        /// Determines weights, limits and backups.
        seed: u8,
    },
}

impl Op {
    /// Decodes an operation. Every operation has an encoding.
    pub(crate) fn from_bytes([kind, a, b, c]: [u8; 4]) -> Self {
        match kind % 21 {
            // Picks are the most frequent operation, so that servers have connections. The masks
            // are combinations of random bytes: on average, 7/8 of the servers are allowed, and 1/4
            // have already been tried.
            0..=5 => Self::Pick {
                allowed: a | b | c,
                tried: b & c,
            },
            6 | 7 => Self::Drop(a),
            8 => Self::Retry(a),
            9 | 10 => Self::Failed(a, b % 16),
            11 => Self::Succeeded(a),
            12 => Self::Probed(a, b % 2 == 0),
            13 => Self::Admin(
                a,
                [AdminState::Ready, AdminState::Drain, AdminState::Maint][usize::from(b) % 3],
            ),
            14 => Self::Wait(a % 16),
            15 => Self::Connected(a),
            16 => Self::FailedEarly(a, b % 16),
            17 => Self::Served(a, b % 16),
            18 => Self::ExternalLoad(a, b % 8, c % 40),
            19 => Self::Slots(a, b % 5),
            _ if c % 2 == 0 => Self::Update {
                members: a,
                seed: b,
            },
            _ => Self::Succeed {
                members: a,
                seed: b,
            },
        }
    }
}
