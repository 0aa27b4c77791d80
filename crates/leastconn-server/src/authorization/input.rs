//! The input of authorization.

use std::net::IpAddr;

use leastconn_tls::client_chain::ClientChain;

use crate::{policy::RuleInput, snapshot::Listener};

/// The client of a connection: everything that [`authorize`](super::authorize) uses except
/// the snapshot and the time.
#[derive(Clone, Copy, Debug)]
pub struct AuthInput<'a> {
    pub listener: &'a str,
    pub source: IpAddr,
    /// The chain that the client presented in the handshake.
    pub chain: Option<&'a ClientChain>,
    /// The server name in the ClientHello, in lower case.
    pub sni: Option<&'a str>,
    /// `None` for a new connection.
    pub open: Option<OpenConnection>,
}

/// The previous authorization of an open connection. A new connection needs a chain that is
/// valid now; `on_expiry = "keep"` keeps open connections whose chain has expired.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenConnection {
    /// The last valid second of the client's chain as UNIX time, as determined by the previous
    /// authorization.
    pub valid_until: Option<i64>,
}

impl<'a> AuthInput<'a> {
    /// The part that client rules match against. The certificate is included only if the listener
    /// verifies client certificates.
    pub fn for_rules(&self, listener: &Listener) -> RuleInput<'a> {
        let chain = self.chain.filter(|_| listener.trust.is_some());
        RuleInput {
            source: self.source,
            prefixes: listener.prefixes,
            certificate: chain.map(|chain| &*chain.certificate),
        }
    }
}
