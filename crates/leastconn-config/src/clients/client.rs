//! One `[[client]]` table.

use jiff::Timestamp;
use leastconn::Limits;
use leastconn_tls::pattern::{CnPattern, DnsPattern, ExactText, Spki, UriPattern};

use super::{Allow, MatchKey};
use crate::{cidr::IpNet, keyword::Mode};

/// `[[client]]`, by itself. A configuration keeps them [packed](Clients).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Client {
    /// Its name in logs and metrics.
    pub name: String,
    /// The subject's common name.
    pub cn: Vec<CnPattern>,
    /// A DNS name among the subject alternative names.
    pub dns: Vec<DnsPattern>,
    /// A URI among them.
    pub uri: Vec<UriPattern>,
    /// The SHA-256 of the public key.
    pub spki: Vec<Spki>,
    /// An organizational unit of the subject.
    pub ou: Vec<ExactText>,
    /// The issuer's common name.
    pub issuer_cn: Vec<ExactText>,
    /// The address the client connects from.
    pub source: Vec<IpNet>,
    /// What it may reach. Empty: nothing.
    pub allow: Vec<Allow>,
    /// Its limits, with `[defaults.client]` filled in.
    pub limits: Limits,
    /// From when on its rule matches nobody; `None`: never.
    pub expires: Option<Timestamp>,
    /// Whether its rule decides.
    pub mode: Mode,
}

impl Client {
    /// Calls `with` for each text that it asks for under a key.
    pub(super) fn each<'a>(&'a self, key: MatchKey, with: impl FnMut(&'a str)) {
        match key {
            MatchKey::Cn => self.cn.iter().map(CnPattern::as_str).for_each(with),
            MatchKey::Dns => self.dns.iter().map(DnsPattern::as_str).for_each(with),
            MatchKey::Uri => self.uri.iter().map(UriPattern::as_str).for_each(with),
            MatchKey::Spki => self.spki.iter().map(Spki::as_str).for_each(with),
            MatchKey::Ou => self.ou.iter().map(ExactText::as_str).for_each(with),
            MatchKey::IssuerCn => self.issuer_cn.iter().map(ExactText::as_str).for_each(with),
            // Networks are no texts.
            MatchKey::Source => {}
        }
    }
}
