//! Networks in CIDR notation.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

/// An IPv4 or IPv6 network. A single address is stored as a network that contains only this
/// address.
///
/// IPv4-mapped IPv6 addresses (`::ffff:10.0.0.1`), which dual-stack sockets report for
/// IPv4 clients, are treated as IPv4 addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IpNet {
    address: IpAddr,
    prefix: u8,
}

/// Prefix lengths that define a source: all addresses in a network of this size count as the same
/// source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prefixes {
    /// Prefix length for IPv4 addresses, at most 32.
    pub v4: u8,
    /// Prefix length for IPv6 addresses, at most 128.
    pub v6: u8,
}

impl Default for Prefixes {
    /// Each IPv4 address and each IPv6 /64 is a source, because an IPv6 host can usually
    /// use all addresses of its /64.
    fn default() -> Self {
        Self { v4: 32, v6: 64 }
    }
}

/// Reason why a text is not a valid network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IpNetError {
    #[error("not an IP address or network: write `10.0.0.7`, `10.0.0.0/8` or `2001:db8::/32`")]
    InvalidAddress,
    /// The field is the maximum prefix length of the address family.
    #[error("the prefix length must be a number from 0 to {0}")]
    InvalidPrefix(u8),
    /// The address has bits set beyond the prefix. The text is rejected, because it could mean
    /// either the network or the single host.
    #[error(
        "the address has bits set beyond its prefix: write `{0}` for the network, or `{1}` for the one address"
    )]
    HostBits(IpNet, IpAddr),
}

impl IpNet {
    /// Parses `ADDRESS` or `ADDRESS/LENGTH`.
    ///
    /// # Errors
    /// Returns an error if the text has neither form, or if the address has bits set beyond
    /// the prefix.
    pub fn parse(text: &str) -> Result<Self, IpNetError> {
        let (address, prefix) = match text.split_once('/') {
            None => (text, None),
            Some((address, prefix)) => (address, Some(prefix)),
        };
        let address: IpAddr = address.parse().map_err(|_| IpNetError::InvalidAddress)?;
        let width = width(address);
        let prefix = match prefix {
            None => width,
            Some(text) => parse_prefix(text)
                .filter(|&prefix| prefix <= width)
                .ok_or(IpNetError::InvalidPrefix(width))?,
        };
        let network = Self {
            address: mask(address, prefix),
            prefix,
        };
        if network.address != address {
            return Err(IpNetError::HostBits(network, address));
        }
        Ok(network.unmapped())
    }

    /// The network that contains `address` and has the prefix length that `prefixes`
    /// defines for its address family.
    pub fn of(address: IpAddr, prefixes: Prefixes) -> Self {
        let address = address.to_canonical();
        let prefix = match address {
            IpAddr::V4(_) => prefixes.v4,
            IpAddr::V6(_) => prefixes.v6,
        };
        let prefix = prefix.min(width(address));
        Self {
            address: mask(address, prefix),
            prefix,
        }
    }

    /// The network that contains only `address`.
    pub fn only(address: IpAddr) -> Self {
        Self::of(address, Prefixes { v4: 32, v6: 128 })
    }

    pub const fn is_ipv4(&self) -> bool {
        self.address.is_ipv4()
    }

    /// The first address of the network.
    pub const fn address(&self) -> IpAddr {
        self.address
    }

    /// The prefix length in bits.
    pub const fn prefix(&self) -> u8 {
        self.prefix
    }

    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        width(address) == width(self.address) && mask(address, self.prefix) == self.address
    }

    /// Whether the network contains all addresses of `other`.
    pub fn covers(&self, other: &Self) -> bool {
        self.prefix <= other.prefix && self.contains(other.address)
    }

    /// Converts a network of IPv4-mapped addresses to an IPv4 network:
    /// `::ffff:10.0.0.0/104` to `10.0.0.0/8`.
    fn unmapped(self) -> Self {
        match (self.address.to_canonical(), self.address) {
            (IpAddr::V4(v4), IpAddr::V6(_)) if self.prefix >= 96 => Self {
                address: IpAddr::V4(v4),
                prefix: self.prefix - 96,
            },
            _ => self,
        }
    }
}

impl fmt::Display for IpNet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.prefix == width(self.address) {
            self.address.fmt(f)
        } else {
            write!(f, "{}/{}", self.address, self.prefix)
        }
    }
}

fn parse_prefix(text: &str) -> Option<u8> {
    // Check the digits first, because `u8::from_str` accepts a leading `+`.
    text.bytes()
        .all(|b| b.is_ascii_digit())
        .then(|| text.parse().ok())
        .flatten()
}

const fn width(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => 32,
        IpAddr::V6(_) => 128,
    }
}

fn mask(address: IpAddr, prefix: u8) -> IpAddr {
    let prefix = u32::from(prefix);
    match address {
        IpAddr::V4(v4) => {
            let mask = u32::MAX.checked_shl(32 - prefix.min(32)).unwrap_or(0);
            IpAddr::V4(Ipv4Addr::from_bits(v4.to_bits() & mask))
        }
        IpAddr::V6(v6) => {
            let mask = u128::MAX.checked_shl(128 - prefix.min(128)).unwrap_or(0);
            IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & mask))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> IpNet {
        IpNet::parse(text).unwrap()
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn network_contains_its_addresses() {
        assert!(net("10.0.0.0/8").contains(ip("10.255.0.1")));
        assert!(!net("10.0.0.0/8").contains(ip("11.0.0.1")));
        assert!(net("127.0.0.1").contains(ip("127.0.0.1")));
        assert!(!net("127.0.0.1").contains(ip("127.0.0.2")));
        assert!(net("0.0.0.0/0").contains(ip("1.2.3.4")));
        assert!(!net("0.0.0.0/0").contains(ip("2001:db8::1")));
        assert!(net("2001:db8::/32").contains(ip("2001:db8:1::1")));
        assert!(!net("::/0").contains(ip("1.2.3.4")));
    }

    #[test]
    fn mapped_address_is_an_ipv4_address() {
        assert!(net("10.0.0.0/8").contains(ip("::ffff:10.1.2.3")));
        assert_eq!(net("::ffff:10.0.0.0/104"), net("10.0.0.0/8"));
        assert_eq!(net("::ffff:10.0.0.1"), net("10.0.0.1"));
    }

    #[test]
    fn errors_explain_what_is_wrong() {
        assert_eq!(
            IpNet::parse("10.0.0.1/8").unwrap_err().to_string(),
            "the address has bits set beyond its prefix: write `10.0.0.0/8` for the network, \
             or `10.0.0.1` for the one address"
        );
        for text in ["10.0.0.0/33", "10.0.0.0/", "10.0.0.0/+8", "10.0.0.0/-1"] {
            assert_eq!(IpNet::parse(text), Err(IpNetError::InvalidPrefix(32)));
        }
        for text in ["", "10.0.0", "localhost", "10.0.0.0-10.0.0.9", "[::1]"] {
            assert_eq!(IpNet::parse(text), Err(IpNetError::InvalidAddress));
        }
    }

    #[test]
    fn network_covers_narrower_networks() {
        assert!(net("10.0.0.0/8").covers(&net("10.1.0.0/16")));
        assert!(!net("10.1.0.0/16").covers(&net("10.0.0.0/8")));
        assert!(net("10.0.0.0/8").covers(&net("10.0.0.0/8")));
    }
}
