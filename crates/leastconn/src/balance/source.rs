//! The source of a connection.

use std::net::IpAddr;

/// The origin of a connection, usually the client's address or user name.
/// [`Balance::SourceHash`](crate::Balance::SourceHash) sends connections from the same source to
/// the same server.
///
/// The hash has no secret key, so that all balancers send a source to the same server, even after a
/// restart. As a consequence, a client that controls many addresses can choose its server.
///
/// ```
/// use std::net::IpAddr;
///
/// use leastconn::Source;
///
/// let v4: IpAddr = "192.0.2.7".parse()?;
/// let mapped: IpAddr = "::ffff:192.0.2.7".parse()?;
/// assert_eq!(Source::from(v4), Source::from(mapped));
/// # Ok::<(), std::net::AddrParseError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Source(u64);

impl Source {
    /// Creates a source from bytes that identify it, for example a user name.
    pub const fn of(bytes: &[u8]) -> Self {
        Self(fnv1a(bytes))
    }

    pub(super) const fn key(self) -> u64 {
        self.0
    }
}

/// An IPv4 address and its IPv4-mapped IPv6 address are the same source.
impl From<IpAddr> for Source {
    fn from(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(v4) => Self::of(&v4.octets()),
            IpAddr::V6(v6) => Self::of(&v6.octets()),
        }
    }
}

/// FNV-1a. The hasher in `std` may change with any Rust release, and sources would then move to
/// other servers.
pub(crate) const fn fnv1a(bytes: &[u8]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325;
    let mut at = 0;
    while at < bytes.len() {
        hash = (hash ^ bytes[at] as u64).wrapping_mul(0x0100_0000_01b3);
        at += 1;
    }
    hash
}
