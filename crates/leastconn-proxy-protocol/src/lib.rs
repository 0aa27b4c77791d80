//! Decoding and encoding of PROXY protocol headers, versions 1 and 2, without I/O.
//!
//! A proxy sends a PROXY header before the first byte of a connection to tell the server which
//! client the connection comes from. The format is defined by HAProxy's `proxy-protocol.txt`.
//!
//! [`parse`] decodes a header from the bytes received so far. [`Version`] encodes a header.
//! [`tlvs`] lists the extensions of a version 2 header.
//!
//! Decoding is as strict as the specification allows, because authorization may depend on the
//! client address in the header. Input that two parsers could interpret differently is an error.
//! Accept headers only from trusted addresses.
//!
//! ```
//! use leastconn_proxy_protocol::{Endpoints, Header, Version, parse};
//!
//! let endpoints = Endpoints::new("192.0.2.7:50000".parse()?, "198.51.100.1:443".parse()?);
//! let mut bytes = Version::V2.encode_proxied(endpoints, None);
//! let header_len = bytes.len();
//! bytes.extend(b"GET / HTTP/1.1\r\n");
//!
//! assert_eq!(parse(&bytes[..10])?, None); // incomplete
//! assert_eq!(parse(&bytes)?, Some((header_len, Header::Proxied(endpoints))));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![warn(missing_docs)]

mod decode;
mod encode;
mod error;
#[cfg(any(test, fuzzing))]
mod invariants;
mod tlv;

use std::net::SocketAddr;

pub use decode::parse;
pub use encode::{ClientTls, Version};
pub use error::{HeaderError, Unexpected};
#[cfg(fuzzing)]
#[doc(hidden)]
pub use invariants::check_invariants;
pub use tlv::{Tlv, Tlvs, tlvs};

/// The signature of version 2. No other protocol starts with these bytes.
const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";

/// Length of the fixed part of version 2: signature, command, family, and length of the rest.
const FIXED: usize = SIGNATURE.len() + 4;

/// Length of the longest version 1 header, including its line ending.
const MAX_V1: usize = 107;

/// Maximum accepted length of everything after the fixed part of version 2: two IPv6 addresses, two
/// ports, and 4 KiB of TLVs.
const MAX_REST: usize = 36 + 4096;

/// A decoded header of version 1 or 2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Header {
    /// The sender opened the connection on its own behalf, for example for a health check, or the
    /// client's addresses are unknown or unspecified. Use the addresses of the socket.
    Local,
    /// The sender forwards a connection between these addresses.
    Proxied(Endpoints),
}

/// The addresses of a forwarded connection. IPv4-mapped IPv6 addresses are stored as IPv4
/// addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Endpoints {
    /// Address and port of the client.
    pub source: SocketAddr,
    /// Address and port that the client connected to.
    pub destination: SocketAddr,
}

impl Endpoints {
    /// Creates endpoints from two addresses. IPv4-mapped IPv6 addresses are converted to IPv4.
    #[must_use]
    pub const fn new(source: SocketAddr, destination: SocketAddr) -> Self {
        Self {
            source: canonical(source),
            destination: canonical(destination),
        }
    }
}

const fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

#[cfg(test)]
mod tests;
