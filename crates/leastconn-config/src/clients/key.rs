//! The keys of `match` in client rules.

use std::fmt::Display;

use leastconn::ClientId;
use leastconn_tls::{
    certificate::{Ambiguous, Certificate},
    pattern::{CnPattern, DnsPattern, ExactText, Spki, UriPattern},
};

use crate::cidr::IpNet;

/// A key of `match`. The identity of a client is the value of the first key of its rule, in
/// this order, that [is an identity](Self::is_identity).
///
/// To add a key, add a variant before [`Self::Source`] and a field of the same name to the
/// `match` table (`raw/client.rs`). The lists below have a fixed length and the `match`
/// expressions are exhaustive, so the compiler reports every other place that must be
/// changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum MatchKey {
    /// The subject's common name.
    Cn,
    /// A DNS name among the subject alternative names.
    Dns,
    /// A URI among the subject alternative names.
    Uri,
    /// The SHA-256 of the public key.
    Spki,
    /// An organizational unit of the subject.
    Ou,
    /// The issuer's common name.
    IssuerCn,
    /// The address that the client connects from. This key must be the last variant. It is
    /// the only key that does not match text in a certificate.
    Source,
}

/// A checked value of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Requirement {
    /// A checked pattern for text in a certificate.
    Pattern(Pattern),
    Network(IpNet),
}

/// A checked pattern for the text under a key, in its normal form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    key: MatchKey,
    text: Box<str>,
}

impl Pattern {
    pub(super) const fn key(&self) -> MatchKey {
        self.key
    }

    pub(super) fn as_str(&self) -> &str {
        &self.text
    }
}

impl MatchKey {
    /// The keys that match texts in a certificate.
    pub const TEXTS: [Self; Self::Source as usize] = [
        Self::Cn,
        Self::Dns,
        Self::Uri,
        Self::Spki,
        Self::Ou,
        Self::IssuerCn,
    ];

    /// The keys of [`Self::TEXTS`], most selective first. The more selective a key is, the
    /// fewer certificates share a value of it.
    pub const SELECTIVE: [Self; Self::Source as usize] = [
        Self::Spki,
        Self::Uri,
        Self::Cn,
        Self::Dns,
        Self::Ou,
        Self::IssuerCn,
    ];

    pub fn all() -> impl Iterator<Item = Self> {
        Self::TEXTS.into_iter().chain([Self::Source])
    }

    /// Checks a value of this key in a `match` table. Returns the error text if it is not
    /// valid.
    pub(super) fn parse(self, value: &str) -> Result<Requirement, String> {
        fn text<T>(
            parsed: Result<T, impl Display>,
            text: fn(&T) -> &str,
        ) -> Result<Box<str>, String> {
            parsed
                .map(|pattern| text(&pattern).into())
                .map_err(|error| error.to_string())
        }
        let text = match self {
            Self::Cn => text(CnPattern::parse(value), CnPattern::as_str)?,
            Self::Dns => text(DnsPattern::parse(value), DnsPattern::as_str)?,
            Self::Uri => text(UriPattern::parse(value), UriPattern::as_str)?,
            Self::Spki => text(Spki::parse(value), Spki::as_str)?,
            Self::Ou | Self::IssuerCn => text(ExactText::parse(value), ExactText::as_str)?,
            Self::Source => {
                let network = IpNet::parse(value).map_err(|error| error.to_string())?;
                return Ok(Requirement::Network(network));
            }
        };
        Ok(Requirement::Pattern(Pattern { key: self, text }))
    }

    /// The name of the key in the configuration file, which is also the prefix of
    /// identities.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Cn => "cn",
            Self::Dns => "dns",
            Self::Uri => "uri",
            Self::Spki => "spki",
            Self::Ou => "ou",
            Self::IssuerCn => "issuer_cn",
            Self::Source => "source",
        }
    }

    /// The values of this key in a certificate. Empty for [`Self::Source`].
    pub fn values_in(self, certificate: &Certificate) -> &[String] {
        match self {
            Self::Cn => certificate.cn.as_slice(),
            Self::Dns => &certificate.dns,
            Self::Uri => &certificate.uri,
            Self::Spki => std::slice::from_ref(&certificate.spki),
            Self::Ou => &certificate.ou,
            Self::IssuerCn => certificate.issuer_cn.as_slice(),
            Self::Source => &[],
        }
    }

    /// The reason why the certificate's value of this key is ambiguous. `None` if the value
    /// can be read or the certificate has none.
    pub fn unreadable_in(self, certificate: &Certificate) -> Option<Ambiguous> {
        let error = match self {
            Self::Cn => Ambiguous::UndecodableCommonName,
            Self::Ou => Ambiguous::UndecodableUnit,
            Self::IssuerCn => Ambiguous::UnreadableIssuer,
            // Certificates with an unreadable value of these keys are refused in any case.
            Self::Dns | Self::Uri | Self::Spki | Self::Source => return None,
        };
        certificate.unreadable.contains(&error).then_some(error)
    }

    /// Whether a value of this key identifies one client. Values of the other keys are
    /// shared by many clients.
    pub const fn is_identity(self) -> bool {
        match self {
            Self::Cn | Self::Dns | Self::Uri | Self::Spki => true,
            Self::Ou | Self::IssuerCn | Self::Source => false,
        }
    }

    /// The identity of a client with this value, such as `cn:client1.example.com`.
    pub fn identity(self, value: &str) -> ClientId {
        ClientId::from(format!("{}:{value}", self.as_str()))
    }

    /// The identity of a client that no rule identifies: its common name, else its first
    /// DNS name, else its first URI, else the hash of its public key.
    pub fn default_identity(certificate: &Certificate) -> ClientId {
        let names = [Self::Cn, Self::Dns, Self::Uri].into_iter();
        let mut names = names.filter_map(|key| Some((key, key.values_in(certificate).first()?)));
        let (key, value) = names.next().unwrap_or((Self::Spki, &certificate.spki));
        key.identity(value)
    }

    /// Whether a checked `pattern` for this key matches `text`.
    pub fn matches(self, pattern: &str, text: &str) -> bool {
        match self {
            Self::Cn => CnPattern::parsed(pattern).matches(text),
            Self::Dns => DnsPattern::parsed(pattern).matches(text),
            Self::Uri => UriPattern::parsed(pattern).matches(text),
            Self::Spki | Self::Ou | Self::IssuerCn | Self::Source => pattern == text,
        }
    }

    /// Whether a checked `pattern` matches more than one text.
    pub fn is_wildcard(self, pattern: &str) -> bool {
        match self {
            Self::Cn => CnPattern::parsed(pattern).is_wildcard(),
            Self::Dns => DnsPattern::parsed(pattern).is_wildcard(),
            Self::Uri => UriPattern::parsed(pattern).is_wildcard(),
            Self::Spki | Self::Ou | Self::IssuerCn | Self::Source => false,
        }
    }

    /// The separator of the labels or segments that `*` matches.
    pub(crate) const fn separator(self) -> char {
        match self {
            Self::Uri => '/',
            Self::Cn | Self::Dns | Self::Spki | Self::Ou | Self::IssuerCn | Self::Source => '.',
        }
    }

    /// Whether `wide` matches every text that `narrow` matches.
    pub fn covers(self, wide: &str, narrow: &str) -> bool {
        match self {
            Self::Cn => CnPattern::parsed(wide).covers(&CnPattern::parsed(narrow)),
            Self::Dns => DnsPattern::parsed(wide).covers(&DnsPattern::parsed(narrow)),
            Self::Uri => UriPattern::parsed(wide).covers(&UriPattern::parsed(narrow)),
            Self::Spki | Self::Ou | Self::IssuerCn | Self::Source => wide == narrow,
        }
    }
}

#[cfg(test)]
mod tests {
    use leastconn_testkit::TestCa;

    use super::*;

    /// Wildcards in certificates: threat 13 in `docs/threats.md`.
    #[test]
    fn wildcard_in_a_certificate_is_literal() {
        let leaf = TestCa::new("CA").leaf("*.x").ou("*").dns("*.x").build();
        let read = Certificate::from_der(leaf.der()).unwrap();
        for key in MatchKey::TEXTS {
            for text in key.values_in(&read) {
                for pattern in ["a.x", "*.x", "*", "*.*", "one"] {
                    let literal = matches!(key, MatchKey::Ou) && pattern == "*";
                    assert_eq!(
                        key.matches(pattern, text),
                        literal,
                        "{key:?} {pattern} {text}"
                    );
                }
            }
        }
    }
}
