//! One `[[client]]` table.

use jiff::Timestamp;
use leastconn::Limits;

use super::{
    Allow, MatchKey,
    key::{Pattern, Requirement},
};
use crate::{cidr::IpNet, keyword::Mode};

/// One `[[client]]` table. A configuration stores all of them in
/// [`Clients`](super::Clients).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Client {
    pub name: String,
    /// Patterns for the certificate. For each key that has patterns, at least one of these
    /// patterns must match.
    pub patterns: Vec<Pattern>,
    /// Networks for the client's address. If there are any, one must contain the address.
    pub source: Vec<IpNet>,
    /// Upstreams and servers that the client may reach. Empty: the client is refused at
    /// every listener.
    pub allow: Vec<Allow>,
    /// Limits of the client, completed with the defaults of `[defaults.client]`.
    pub limits: Limits,
    /// The time at which the rule expires. From then on it matches no client. `None`: the
    /// rule never expires.
    pub expires: Option<Timestamp>,
    pub mode: Mode,
    /// Whether quiet connections may be closed to rebalance the servers.
    pub rebalance: bool,
}

impl Client {
    /// Adds a value that the rule accepts under `key`.
    ///
    /// # Errors
    /// Returns an error text, and leaves the rule unchanged, if the value is not valid for
    /// this key.
    pub fn require(&mut self, key: MatchKey, value: &str) -> Result<(), String> {
        match key.parse(value)? {
            Requirement::Pattern(pattern) => self.patterns.push(pattern),
            Requirement::Network(network) => self.source.push(network),
        }
        Ok(())
    }

    /// The patterns under `key`, which must be a key that matches text in a certificate.
    pub(super) fn texts(&self, key: MatchKey) -> impl Iterator<Item = &str> {
        let patterns = self.patterns.iter();
        let patterns = patterns.filter(move |pattern| pattern.key() == key);
        patterns.map(Pattern::as_str)
    }

    /// Whether the rule has no patterns and no networks, so that it would match every
    /// client.
    pub(crate) const fn matches_all(&self) -> bool {
        self.patterns.is_empty() && self.source.is_empty()
    }
}
