//! One `[[client]]` table.

use jiff::Timestamp;
use leastconn::Limits;
use leastconn_tls::pattern::{CnPattern, DnsPattern, ExactText, Spki, UriPattern};

use super::{Allow, MatchKey};
use crate::{cidr::IpNet, keyword::Mode};

/// One `[[client]]` table. A configuration stores all of them in
/// [`Clients`](super::Clients).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Client {
    pub name: String,
    /// Patterns for the subject's common name.
    pub cn: Vec<CnPattern>,
    /// Patterns for DNS names (SAN).
    pub dns: Vec<DnsPattern>,
    /// Patterns for URIs (SAN).
    pub uri: Vec<UriPattern>,
    /// SHA-256 of the public key.
    pub spki: Vec<Spki>,
    /// Organizational units of the subject.
    pub ou: Vec<ExactText>,
    /// Common names of the issuer.
    pub issuer_cn: Vec<ExactText>,
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
    /// Calls `with` for each pattern under `key`.
    pub(super) fn each<'a>(&'a self, key: MatchKey, with: impl FnMut(&'a str)) {
        match key {
            MatchKey::Cn => self.cn.iter().map(CnPattern::as_str).for_each(with),
            MatchKey::Dns => self.dns.iter().map(DnsPattern::as_str).for_each(with),
            MatchKey::Uri => self.uri.iter().map(UriPattern::as_str).for_each(with),
            MatchKey::Spki => self.spki.iter().map(Spki::as_str).for_each(with),
            MatchKey::Ou => self.ou.iter().map(ExactText::as_str).for_each(with),
            MatchKey::IssuerCn => self.issuer_cn.iter().map(ExactText::as_str).for_each(with),
            // Networks are stored separately.
            MatchKey::Source => {}
        }
    }
}
