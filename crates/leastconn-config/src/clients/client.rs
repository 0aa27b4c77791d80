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
    /// Patterns for the certificate. Under each key with patterns, one of them must match.
    pub patterns: Vec<Pattern>,
    /// Networks of the client's address.
    pub source: Vec<IpNet>,
    /// Empty: the client is refused everywhere.
    pub allow: Vec<Allow>,
    /// With the defaults of `[defaults.client]`.
    pub limits: Limits,
    /// The time from which the rule matches no client. `None`: never.
    pub expires: Option<Timestamp>,
    pub mode: Mode,
}

impl Client {
    /// Adds a value that the rule accepts under `key`.
    ///
    /// # Errors
    /// An error text if the value is not valid for this key. The rule is unchanged then.
    pub fn require(&mut self, key: MatchKey, value: &str) -> Result<(), String> {
        match key.parse(value)? {
            Requirement::Pattern(pattern) => self.patterns.push(pattern),
            Requirement::Network(network) => self.source.push(network),
        }
        Ok(())
    }

    /// The patterns under a key that matches text in a certificate.
    pub(super) fn texts(&self, key: MatchKey) -> impl Iterator<Item = &str> {
        let patterns = self.patterns.iter();
        let patterns = patterns.filter(move |pattern| pattern.key() == key);
        patterns.map(Pattern::as_str)
    }

    /// Whether the rule would match every client.
    pub(crate) const fn matches_all(&self) -> bool {
        self.patterns.is_empty() && self.source.is_empty()
    }
}
