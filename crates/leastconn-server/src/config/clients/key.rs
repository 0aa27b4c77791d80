//! What a rule can ask for.

use crate::config::pattern::{CnPattern, DnsPattern, UriPattern};

/// A key of `match`. In this order a rule's names come, and name a client: by the
/// first that its rule asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Key {
    /// The subject's common name.
    Cn,
    /// A DNS name among the subject alternative names.
    Dns,
    /// A URI among them.
    Uri,
    /// The SHA-256 of the public key.
    Spki,
    /// An organizational unit of the subject.
    Ou,
    /// The issuer's common name.
    IssuerCn,
    /// The address the client connects from.
    Source,
}

impl Key {
    /// All that are texts in a certificate.
    pub const TEXTS: [Self; 6] = [
        Self::Cn,
        Self::Dns,
        Self::Uri,
        Self::Spki,
        Self::Ou,
        Self::IssuerCn,
    ];

    /// The same: first what the fewest certificates have in common.
    pub const SELECTIVE: [Self; 6] = [
        Self::Spki,
        Self::Uri,
        Self::Cn,
        Self::Dns,
        Self::Ou,
        Self::IssuerCn,
    ];

    /// The word in the configuration.
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

    /// Whether a checked `pattern` for this key stands for `text`.
    pub fn matches(self, pattern: &str, text: &str) -> bool {
        match self {
            Self::Cn => CnPattern::parsed(pattern).matches(text),
            Self::Dns => DnsPattern::parsed(pattern).matches(text),
            Self::Uri => UriPattern::parsed(pattern).matches(text),
            Self::Spki | Self::Ou | Self::IssuerCn | Self::Source => pattern == text,
        }
    }

    /// Whether a checked `pattern` stands for more than one text.
    pub fn is_wildcard(self, pattern: &str) -> bool {
        match self {
            Self::Cn => CnPattern::parsed(pattern).is_wildcard(),
            Self::Dns => DnsPattern::parsed(pattern).is_wildcard(),
            Self::Uri => UriPattern::parsed(pattern).is_wildcard(),
            Self::Spki | Self::Ou | Self::IssuerCn | Self::Source => false,
        }
    }

    /// What stands between the parts of a pattern for which `*` may stand.
    pub(crate) const fn separator(self) -> char {
        match self {
            Self::Uri => '/',
            _ => '.',
        }
    }

    /// Whether all that `narrow` stands for, `wide` does too.
    pub fn covers(self, wide: &str, narrow: &str) -> bool {
        match self {
            Self::Cn => CnPattern::parsed(wide).covers(&CnPattern::parsed(narrow)),
            Self::Dns => DnsPattern::parsed(wide).covers(&DnsPattern::parsed(narrow)),
            Self::Uri => UriPattern::parsed(wide).covers(&UriPattern::parsed(narrow)),
            Self::Spki | Self::Ou | Self::IssuerCn | Self::Source => wide == narrow,
        }
    }
}
