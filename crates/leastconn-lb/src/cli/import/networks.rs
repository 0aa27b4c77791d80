//! IP networks in the notations of the source programs.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A network. All bits of the address after the prefix are zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Network {
    address: IpAddr,
    prefix: u32,
}

impl Network {
    /// Parses `ADDRESS`, `ADDRESS/PREFIX` or `ADDRESS/NETMASK`. Bits after the prefix are
    /// cleared.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (address, prefix) = match text.split_once('/') {
            None => (text, None),
            Some((address, prefix)) => (address, Some(prefix)),
        };
        let address: IpAddr = address.parse().ok()?;
        let longest = if address.is_ipv4() { 32 } else { 128 };
        let prefix = match prefix {
            None => longest,
            Some(prefix) => match prefix.parse::<u32>() {
                Ok(prefix) => prefix,
                Err(_) => netmask(prefix)?,
            },
        };
        (prefix <= longest).then(|| Self {
            address: masked(address, prefix),
            prefix,
        })
    }

    pub(crate) fn contains(self, other: Self) -> bool {
        self.address.is_ipv4() == other.address.is_ipv4()
            && self.prefix <= other.prefix
            && masked(other.address, self.prefix) == self.address
    }
}

impl std::fmt::Display for Network {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let longest = if self.address.is_ipv4() { 32 } else { 128 };
        if self.prefix == longest {
            write!(f, "{}", self.address)
        } else {
            write!(f, "{}/{}", self.address, self.prefix)
        }
    }
}

/// Returns the prefix length of an IPv4 netmask.
fn netmask(text: &str) -> Option<u32> {
    let bits = u32::from(text.parse::<Ipv4Addr>().ok()?);
    let prefix = bits.leading_ones();
    (prefix == bits.count_ones()).then_some(prefix)
}

fn masked(address: IpAddr, prefix: u32) -> IpAddr {
    match address {
        IpAddr::V4(address) => {
            let mask = u32::MAX.checked_shl(32 - prefix).unwrap_or(0);
            Ipv4Addr::from(u32::from(address) & mask).into()
        }
        IpAddr::V6(address) => {
            let mask = u128::MAX.checked_shl(128 - prefix).unwrap_or(0);
            Ipv6Addr::from(u128::from(address) & mask).into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Network;

    #[test]
    fn notations_are_normalized() {
        for (text, expected) in [
            ("10.0.0.7", "10.0.0.7"),
            ("10.1.2.3/8", "10.0.0.0/8"),
            ("10.1.2.3/255.255.0.0", "10.1.0.0/16"),
            ("0.0.0.0/0", "0.0.0.0/0"),
            ("2001:db8::1/32", "2001:db8::/32"),
        ] {
            assert_eq!(Network::parse(text).unwrap().to_string(), expected);
        }
        for text in ["example.com", "10.0.0.0/33", "10.0.0.0/255.0.255.0", ""] {
            assert_eq!(Network::parse(text), None, "{text}");
        }
    }
}
