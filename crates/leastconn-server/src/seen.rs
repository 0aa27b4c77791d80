//! What a connection is judged by.

use std::{net::IpAddr, sync::Arc};

use crate::{client_chain::Presented, identity::Peer, listener::Listener};

/// What a connection is judged by.
#[derive(Clone, Debug)]
pub struct Seen {
    /// The client's address.
    pub source: IpAddr,
    /// What it has shown; `None`: nothing.
    pub presented: Option<Arc<Presented>>,
    /// The server name that it asked for.
    pub sni: Option<Box<str>>,
}

impl Seen {
    /// The client as `listener` sees it: where it asks for no certificate, nobody
    /// vouches for one.
    pub fn by(&self, listener: &Listener) -> Peer {
        let presented = self.presented.as_ref();
        Peer {
            source: self.source,
            prefixes: listener.prefixes,
            certificate: presented
                .filter(|_| listener.trust.is_some())
                .map(|presented| Arc::clone(&presented.certificate)),
        }
    }
}
