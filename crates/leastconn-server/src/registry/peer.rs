//! Addresses of clients and proxies.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, SocketAddr},
};

use serde::Serialize;

/// The process at the other end of a UNIX socket, as the kernel reports it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnixPeer {
    /// The process ID, if the kernel knows it.
    pub pid: Option<i32>,
    pub uid: u32,
}

impl UnixPeer {
    /// The address that stands for UNIX clients in `source` rules and source rate limits.
    pub const ADDRESS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
}

impl fmt::Display for UnixPeer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.pid {
            Some(pid) => write!(f, "unix:pid={pid},uid={}", self.uid),
            None => write!(f, "unix:uid={}", self.uid),
        }
    }
}

/// The far end of a connection, for the access log and the API.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub enum DisplayAddress {
    Tcp(SocketAddr),
    Unix(String),
}

impl DisplayAddress {
    /// An IPv4-mapped IPv6 address is shown as IPv4.
    pub(super) const fn tcp(address: SocketAddr) -> Self {
        Self::Tcp(SocketAddr::new(address.ip().to_canonical(), address.port()))
    }
}

impl fmt::Display for DisplayAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(text) => f.write_str(text),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn serialized_address_is_the_displayed_one() {
        for text in [
            "0.0.0.0:0",
            "10.0.0.7:9",
            "192.168.100.1:10000",
            "255.255.255.255:65535",
            "[2001:db8::1]:443",
        ] {
            let address = DisplayAddress::tcp(text.parse().unwrap());
            assert_eq!(serde_json::to_value(&address).unwrap(), text);
            assert_eq!(address.to_string(), text);
        }
    }
}
