//! The description of an upstream: names, weights, servers and their administrative states.

use std::{borrow::Borrow, fmt, num::NonZeroU32, sync::Arc};

use crate::Address;

macro_rules! name {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Returns the name as text.
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
    /// The name of an upstream: a group of servers that provide the same service.
    UpstreamId
}
name! {
    /// The name of a server, unique within its upstream.
    ServerId
}
name! {
    /// The name of a zone, for example a data centre or an availability zone. A pool prefers
    /// servers in its own zone.
    ZoneId
}
name! {
    /// The identity to which a client's limits apply. Connections with the same identity share one
    /// token bucket and one count of open connections.
    ClientId
}

/// A server's share of connections relative to the other servers, from 1 to 65,535.
///
/// A weight of 0 is not possible. To stop new connections to a server, set its state to
/// [drain](AdminState::Drain) or [override](crate::WeightOverride) its weight with 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Weight(u16);

impl Weight {
    /// Weight 1, the default.
    pub const ONE: Self = Self(1);

    /// Creates a weight. Returns `None` unless `weight` is from 1 to 65,535.
    pub fn new(weight: u32) -> Option<Self> {
        u16::try_from(weight).ok().filter(|&w| w != 0).map(Self)
    }

    /// Returns the weight as a number from 1 to 65,535.
    pub const fn get(self) -> u16 {
        self.0
    }
}

impl Default for Weight {
    fn default() -> Self {
        Self::ONE
    }
}

/// What happens to a connection if none of the servers that the client may use is available, but at
/// least one of them is ejected or down.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum PanicPolicy {
    /// Dial ejected servers first, then servers that are down. The health information may be wrong,
    /// and the alternative would be to refuse the connections.
    #[default]
    Dial,
    /// Refuse the connections.
    Refuse,
}

impl PanicPolicy {
    /// Returns the policy's name: `dial` or `refuse`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Dial => "dial",
            Self::Refuse => "refuse",
        }
    }
}

/// The administrative state of a server, set by an operator.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum AdminState {
    /// The server gets connections if it is healthy.
    #[default]
    Ready,
    /// The server gets no new connections. Open connections continue.
    Drain,
    /// The server is not expected to work, so it gets no connections and is not probed.
    Maint,
}

impl AdminState {
    /// Returns the state's name: `ready`, `drain` or `maint`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Drain => "drain",
            Self::Maint => "maint",
        }
    }
}

/// The description of a server.
///
/// ```
/// use std::num::NonZeroU32;
///
/// use leastconn::{Address, ServerSpec, Weight};
///
/// let spec = ServerSpec::new("web1", "10.0.0.1:80".parse::<Address>()?)
///     .weight(Weight::new(5).expect("not zero"))
///     .max_conns(NonZeroU32::new(1_000));
/// # Ok::<(), leastconn::AddressError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ServerSpec {
    /// The server's name, unique within the upstream.
    pub id: ServerId,
    /// The address to which connections are opened.
    pub address: Address,
    /// Share of connections relative to the other servers.
    pub weight: Weight,
    /// Maximum number of concurrent connections. `None`: unlimited.
    pub max_conns: Option<NonZeroU32>,
    /// Whether the server is used only while no other server is available.
    pub backup: bool,
    /// The zone of the server; see [`PoolBuilder::zone`](crate::PoolBuilder::zone).
    pub zone: Option<ZoneId>,
}

impl ServerSpec {
    /// Creates a server with weight 1 and without a connection limit. It is not a backup.
    pub fn new(id: impl Into<ServerId>, address: impl Into<Address>) -> Self {
        Self {
            id: id.into(),
            address: address.into(),
            weight: Weight::ONE,
            max_conns: None,
            backup: false,
            zone: None,
        }
    }

    /// Sets the share of connections relative to the other servers.
    #[must_use]
    pub const fn weight(mut self, weight: Weight) -> Self {
        self.weight = weight;
        self
    }

    /// Sets the maximum number of concurrent connections.
    #[must_use]
    pub fn max_conns(mut self, max_conns: impl Into<Option<NonZeroU32>>) -> Self {
        self.max_conns = max_conns.into();
        self
    }

    /// Sets whether the server is used only while no other server is available.
    #[must_use]
    pub const fn backup(mut self, backup: bool) -> Self {
        self.backup = backup;
        self
    }

    /// Sets the zone of the server. By default, there is none.
    #[must_use]
    pub fn zone(mut self, zone: impl Into<Option<ZoneId>>) -> Self {
        self.zone = zone.into();
        self
    }
}
