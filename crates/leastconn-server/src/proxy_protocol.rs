//! The PROXY protocol, versions 1 and 2: a header before the first byte, in
//! which one balancer tells the next whose connection it passes on.
//!
//! After HAProxy's specification, `proxy-protocol.txt`. Reading and writing a
//! header are pure; `receive` and `send` have the sockets. Reading is as strict
//! as the specification allows: whoever may send a header says who a client is.

mod decode;
#[cfg(any(test, fuzzing))]
mod drive;
mod encode;
mod receive;
mod send;
mod tlv;

use std::net::SocketAddr;

pub use decode::{HeaderError, Instead, parse};
pub use encode::{ClientTls, Version};
pub use receive::{ReceiveError, late, receive};
pub use send::Headed;

/// What every header of version 2 begins with, and no other protocol.
const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";

/// Signature, command, family, and the length of what follows.
const FIXED: usize = SIGNATURE.len() + 4;

/// The longest header of version 1, its line end included.
const MAX_V1: usize = 107;

/// As much of version 2 as is taken after that: two IPv6 addresses and their ports,
/// and 4 KiB.
const MAX_REST: usize = 36 + 4096;

/// What a header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Header {
    /// Nobody's connection is passed on: it is the sender's own, as that of its
    /// health checks, or of a kind that it has no word for.
    Local,
    /// Somebody's.
    Proxied(Endpoints),
}

/// The two ends of the connection that is passed on. IPv4 addresses are IPv4,
/// also where they came as IPv4-mapped IPv6 ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Endpoints {
    /// The client.
    pub source: SocketAddr,
    /// What the client connected to.
    pub destination: SocketAddr,
}

impl Endpoints {
    /// Both, in canonical form.
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

/// For the fuzz target `proxy_protocol`.
#[cfg(fuzzing)]
pub fn fuzz_headers(data: &[u8]) {
    drive::drive(data);
}

#[cfg(test)]
mod tests;
