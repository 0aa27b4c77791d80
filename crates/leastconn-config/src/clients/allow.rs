//! What a client rule allows.

use std::fmt;

use leastconn::{ServerId, UpstreamId};

/// The servers of one upstream that a client may reach.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Granted {
    All,
    /// Only these servers. The list is not empty.
    Only(Vec<ServerId>),
}

impl Granted {
    /// The servers of `upstream` that `allow` permits. `None`: `allow` permits no server of
    /// this upstream.
    pub fn of(allow: &[Allow], upstream: &UpstreamId) -> Option<Self> {
        let mut named = Vec::new();
        for allow in allow.iter().filter(|a| a.upstream == *upstream) {
            match &allow.server {
                None => return Some(Self::All),
                Some(server) => named.push(server.clone()),
            }
        }
        (!named.is_empty()).then_some(Self::Only(named))
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Allow {
    pub upstream: UpstreamId,
    /// The server that the client may reach. `None`: all servers of the upstream.
    pub server: Option<ServerId>,
}

impl fmt::Display for Allow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.server {
            None => write!(f, "{}", self.upstream),
            Some(server) => write!(f, "{}/{server}", self.upstream),
        }
    }
}
