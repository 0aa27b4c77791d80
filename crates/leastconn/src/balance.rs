//! Balancing algorithms: which of the available servers gets the next connection.
//!
//! Each algorithm is a type that implements [`Picker`], in its own file. A new algorithm needs a
//! file, a variant in [`Balance`] and a variant in [`AnyPicker`]. The compiler reports every
//! `match` below that lacks the new variant.
//!
//! Algorithms do not depend on servers, locks or clocks: an algorithm sees [`Open`] servers through
//! a [`PickContext`] and counts the connection with [`PickContext::try_acquire`]. The algorithm is
//! selected by a `match` on an enum, and each algorithm's code is monomorphised. A pick allocates
//! memory only while servers are in slow start.

mod least_conn;
mod p2c;
mod picker;
mod random;
mod round_robin;
mod sample;
pub(crate) mod slow_start;
mod source;
mod source_hash;

use std::fmt;

use crate::spec::Weight;

use least_conn::LeastConn;
use p2c::P2c;
pub(crate) use picker::{
    Acquired, Load, Open, PickContext, Picker, Seeds, Servers, Steady, Weights,
};
use random::Random;
use round_robin::RoundRobin;
pub use source::Source;
pub(crate) use source::fnv1a;
use source_hash::SourceHash;

/// The balancing algorithm of a [`Pool`](crate::Pool).
///
/// All algorithms respect weights, `max_conns`, backups, health, draining and the set of servers
/// that a client may use.
///
/// ```
/// use leastconn::Balance;
///
/// assert_eq!(Balance::default(), Balance::LeastConn);
/// assert_eq!(Balance::SourceHash.to_string(), "source_hash");
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Balance {
    /// The server with the fewest connections relative to its weight. Exact for any number of
    /// threads.
    #[default]
    LeastConn,
    /// Draws two servers at random by weight and picks the one with fewer connections relative to
    /// its weight ("power of two choices").
    P2c,
    /// Weighted round robin. Servers with a large weight do not get connections in bursts.
    RoundRobin,
    /// A random server. The probability of each server is proportional to its weight.
    Random,
    /// Rendezvous hashing of the [`Source`]: a source keeps its server as long as that server is
    /// available. Connections without a source go to a random server.
    SourceHash,
}

impl Balance {
    /// All algorithms, in declaration order.
    pub const ALL: &'static [Self] = &[
        Self::LeastConn,
        Self::P2c,
        Self::RoundRobin,
        Self::Random,
        Self::SourceHash,
    ];

    /// Returns the name: `least_conn`, `p2c`, `round_robin`, `random` or `source_hash`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::LeastConn => "least_conn",
            Self::P2c => "p2c",
            Self::RoundRobin => "round_robin",
            Self::Random => "random",
            Self::SourceHash => "source_hash",
        }
    }

    /// Creates the picker for servers with the given weights, in the given order.
    pub(crate) fn picker(self, weights: impl Iterator<Item = Weight>, seeds: &Seeds) -> AnyPicker {
        match self {
            Self::LeastConn => AnyPicker::LeastConn(LeastConn::new()),
            Self::P2c => AnyPicker::P2c(P2c),
            Self::RoundRobin => AnyPicker::RoundRobin(RoundRobin::new(weights, seeds.next())),
            Self::Random => AnyPicker::Random(Random),
            Self::SourceHash => AnyPicker::SourceHash(SourceHash),
        }
    }
}

impl fmt::Display for Balance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A balancing algorithm together with the state that it keeps between picks.
#[derive(Debug)]
pub(crate) enum AnyPicker {
    LeastConn(LeastConn),
    P2c(P2c),
    RoundRobin(RoundRobin),
    Random(Random),
    SourceHash(SourceHash),
}

impl Picker for AnyPicker {
    fn pick<S: Servers>(&self, context: &PickContext<'_, S>) -> Option<Acquired> {
        match self {
            Self::LeastConn(picker) => picker.pick(context),
            Self::P2c(picker) => picker.pick(context),
            Self::RoundRobin(picker) => picker.pick(context),
            Self::Random(picker) => picker.pick(context),
            Self::SourceHash(picker) => picker.pick(context),
        }
    }
}
