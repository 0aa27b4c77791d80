//! What an upstream is made of: names, weights, and the states of a server.

use std::{borrow::Borrow, fmt, net::IpAddr, num::NonZeroU32, sync::Arc};

use crate::Address;

macro_rules! name {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(Arc<str>);

        impl $name {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl From<&str> for $name {
            fn from(name: &str) -> Self {
                Self(name.into())
            }
        }

        impl From<String> for $name {
            fn from(name: String) -> Self {
                Self(name.into())
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name! {
    /// The name of an upstream: a group of servers that do the same work.
    UpstreamId
}
name! {
    /// The name of a server, unique within its upstream.
    ServerId
}
name! {
    /// Who a client is, for its limits: two connections with the same identity
    /// share one token bucket and one count.
    ClientId
}

/// A server's share of connections relative to its peers', 1 to 65,535.
///
/// There is no weight 0: a server that is to get no new connections is drained.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Weight(u16);

impl Weight {
    /// The weight of a server that states none.
    pub const ONE: Self = Self(1);

    /// A weight, if it is 1 to 65,535.
    pub fn new(weight: u32) -> Option<Self> {
        u16::try_from(weight).ok().filter(|&w| w != 0).map(Self)
    }

    /// The weight as a number.
    pub const fn get(self) -> u16 {
        self.0
    }
}

impl Default for Weight {
    fn default() -> Self {
        Self::ONE
    }
}

/// How a server is chosen among those that are available.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Balance {
    /// The one with the fewest connections for its weight, exactly.
    #[default]
    LeastConn,
    /// The one with fewer connections for its weight, of two that are drawn by weight.
    P2c,
    /// Each in its turn, by weight and without bursts.
    RoundRobin,
    /// Drawn by weight.
    Random,
    /// The same one for the same [`Source`], as long as it is available; sources
    /// are spread by weight.
    SourceHash,
}

impl Balance {
    /// `least_conn`, `p2c`, `round_robin`, `random` or `source_hash`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::LeastConn => "least_conn",
            Self::P2c => "p2c",
            Self::RoundRobin => "round_robin",
            Self::Random => "random",
            Self::SourceHash => "source_hash",
        }
    }
}

/// What is done with connections while no server that they may use is available, but
/// some are ejected or down.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum PanicPolicy {
    /// Ejected servers are dialled, then those that are down: health may be wrong, and
    /// there is nothing to lose.
    #[default]
    Dial,
    /// They are refused.
    Refuse,
}

impl PanicPolicy {
    /// `dial` or `refuse`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Dial => "dial",
            Self::Refuse => "refuse",
        }
    }
}

/// Where a connection comes from, for [`Balance::SourceHash`].
///
/// The hash has no secret in it: balancers side by side, and one that was started
/// again, send a source to the same server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Source(u64);

impl Source {
    /// A source that is told from others by some bytes.
    pub const fn of(bytes: &[u8]) -> Self {
        Self(hash(bytes))
    }

    pub(crate) const fn key(self) -> u64 {
        self.0
    }
}

/// Each address is a source; an IPv4 address is the same one when it is written as
/// an IPv6 address.
impl From<IpAddr> for Source {
    fn from(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(v4) => Self::of(&v4.octets()),
            IpAddr::V6(v6) => Self::of(&v6.octets()),
        }
    }
}

/// FNV-1a. Not `std`'s hasher, which may be another one in the next release.
pub(crate) const fn hash(bytes: &[u8]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325;
    let mut at = 0;
    while at < bytes.len() {
        hash = (hash ^ bytes[at] as u64).wrapping_mul(0x0100_0000_01b3);
        at += 1;
    }
    hash
}

/// What an operator wants of a server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum AdminState {
    /// It gets connections.
    #[default]
    Ready,
    /// It gets no new connections and keeps those it has.
    Drain,
    /// It gets none, and is not expected to work: probes say nothing about it.
    Maint,
}

impl AdminState {
    /// `ready`, `drain` or `maint`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Drain => "drain",
            Self::Maint => "maint",
        }
    }
}

/// A server as configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerSpec {
    /// Its name.
    pub id: ServerId,
    /// Where it listens.
    pub address: Address,
    /// Its share relative to its peers'.
    pub weight: Weight,
    /// Connections it takes at once; `None`: as many as come.
    pub max_conns: Option<NonZeroU32>,
    /// Used only while no server that is not a backup is available.
    pub backup: bool,
}

impl ServerSpec {
    /// A server of weight 1, without a limit, that is not a backup.
    pub fn new(id: impl Into<ServerId>, address: impl Into<Address>) -> Self {
        Self {
            id: id.into(),
            address: address.into(),
            weight: Weight::ONE,
            max_conns: None,
            backup: false,
        }
    }
}
