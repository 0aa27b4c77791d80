//! IP networks in the notations of the source programs.

use std::net::Ipv4Addr;

use leastconn_config::cidr::{IpNet, IpNetError};

/// Parses `ADDRESS`, `ADDRESS/PREFIX` or `ADDRESS/NETMASK`. Bits after the prefix are cleared.
pub(crate) fn network(text: &str) -> Option<IpNet> {
    let with_prefix = text.split_once('/').and_then(|(address, mask)| {
        let prefix = netmask(mask)?;
        Some(format!("{address}/{prefix}"))
    });
    match IpNet::parse(with_prefix.as_deref().unwrap_or(text)) {
        Ok(network) | Err(IpNetError::HostBits(network, _)) => Some(network),
        Err(_) => None,
    }
}

/// Returns the prefix length of an IPv4 netmask.
fn netmask(text: &str) -> Option<u32> {
    let bits = u32::from(text.parse::<Ipv4Addr>().ok()?);
    let prefix = bits.leading_ones();
    (prefix == bits.count_ones()).then_some(prefix)
}

#[cfg(test)]
mod tests {
    use super::network;

    #[test]
    fn notations_are_normalized() {
        for (text, expected) in [
            ("10.0.0.7", "10.0.0.7"),
            ("10.1.2.3/8", "10.0.0.0/8"),
            ("10.1.2.3/255.255.0.0", "10.1.0.0/16"),
            ("0.0.0.0/0", "0.0.0.0/0"),
            ("2001:db8::1/32", "2001:db8::/32"),
        ] {
            assert_eq!(network(text).unwrap().to_string(), expected);
        }
        for text in ["example.com", "10.0.0.0/33", "10.0.0.0/255.0.255.0", ""] {
            assert_eq!(network(text), None, "{text}");
        }
    }
}
