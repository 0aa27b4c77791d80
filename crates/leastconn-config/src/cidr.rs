//! Networks in CIDR form, for `source` rules.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

/// An IPv4 or IPv6 network. A single address is a network of one.
///
/// IPv4-mapped IPv6 addresses (`::ffff:10.0.0.1`), which a dual-stack socket
/// shows for IPv4 clients, are IPv4 addresses here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IpNet {
    address: IpAddr,
    prefix: u8,
}

/// How long a prefix is that tells sources apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prefixes {
    /// Of IPv4, 32 at most.
    pub v4: u8,
    /// Of IPv6, 128 at most.
    pub v6: u8,
}

impl Default for Prefixes {
    /// Each IPv4 address, each IPv6 /64: within one, whoever has an address has all.
    fn default() -> Self {
        Self { v4: 32, v6: 64 }
    }
}

/// Why a text is not a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IpNetError {
    /// What stands before the `/` is not an address.
    #[error("not an IP address or network: write `10.0.0.7`, `10.0.0.0/8` or `2001:db8::/32`")]
    InvalidAddress,
    /// What stands after the `/` is not a length.
    #[error("the prefix length must be a number from 0 to {0}")]
    InvalidPrefix(u8),
    /// The address has bits beyond the prefix: a network and one of its hosts
    /// were mixed up, and only the author knows which was meant.
    #[error(
        "the address has bits set beyond its prefix: write `{0}` for the network, or `{1}` for the one address"
    )]
    HostBits(IpNet, IpAddr),
}

impl IpNet {
    /// Reads `ADDRESS` or `ADDRESS/LENGTH`.
    ///
    /// # Errors
    /// When it is neither, or has bits set beyond its prefix.
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

    /// The network that `address` belongs to, by the length of its family.
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

    /// `address` by itself.
    pub fn only(address: IpAddr) -> Self {
        Self::of(address, Prefixes { v4: 32, v6: 128 })
    }

    /// Whether it is a network of IPv4.
    pub const fn is_ipv4(&self) -> bool {
        self.address.is_ipv4()
    }

    /// Its first address.
    pub const fn address(&self) -> IpAddr {
        self.address
    }

    /// How many bits its addresses have in common.
    pub const fn prefix(&self) -> u8 {
        self.prefix
    }

    /// Whether `address` is one of the network's.
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        width(address) == width(self.address) && mask(address, self.prefix) == self.address
    }

    /// Whether all of `other` is within this one.
    pub fn covers(&self, other: &Self) -> bool {
        self.prefix <= other.prefix && self.contains(other.address)
    }

    /// `::ffff:10.0.0.0/104` is `10.0.0.0/8`.
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
    // `u8::from_str` takes a leading `+`.
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
    fn contains_what_is_in_it() {
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
    fn a_mapped_address_is_an_ipv4_address() {
        assert!(net("10.0.0.0/8").contains(ip("::ffff:10.1.2.3")));
        assert_eq!(net("::ffff:10.0.0.0/104"), net("10.0.0.0/8"));
        assert_eq!(net("::ffff:10.0.0.1"), net("10.0.0.1"));
    }

    #[test]
    fn says_what_is_wrong() {
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
    fn covers_what_is_narrower() {
        assert!(net("10.0.0.0/8").covers(&net("10.1.0.0/16")));
        assert!(!net("10.1.0.0/16").covers(&net("10.0.0.0/8")));
        assert!(net("10.0.0.0/8").covers(&net("10.0.0.0/8")));
    }
}
