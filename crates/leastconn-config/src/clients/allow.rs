//! What a client rule allows.

use std::fmt;

use leastconn::{ServerId, UpstreamId};

/// Which servers of one upstream a client may reach.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Granted {
    /// All of them.
    All,
    /// These; not empty.
    Only(Vec<ServerId>),
}

impl Granted {
    /// The servers of `upstream` that a client with this `allow` may reach:
    /// `None` if none, else all of them or those named.
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

/// One entry of `allow`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Allow {
    /// An upstream that exists.
    pub upstream: UpstreamId,
    /// One server of it; `None`: all of them.
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
