//! What an upstream is made of: names, weights, and the states of a server.

use std::{borrow::Borrow, fmt, num::NonZeroU32, sync::Arc};

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
