//! Patterns for names in certificates and in SNI.
//!
//! `*` in a pattern matches exactly one whole DNS label, or one whole segment of a URI's
//! path. A `*` in the name of a certificate is not a wildcard. Such a name matches no pattern
//! with a wildcard, and no DNS pattern at all. For example, a certificate for `*.example.org`
//! does not match the pattern `a.example.org`.

#[cfg(any(test, fuzzing))]
pub(crate) mod drive;
mod exact;
mod form;
mod plain;
mod uri;

use std::fmt;

pub use exact::{ExactText, Spki};
pub use form::Form;
pub use plain::NotPlain;
pub use uri::UriPattern;

use crate::spiffe::SpiffeError;

/// Why a text is not a valid pattern.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PatternError {
    #[error("it is empty")]
    Empty,
    /// A `*` next to other characters of a label, or a `**`.
    #[error("`*` matches one whole label: `*.example.com`, not `web*.example.com` or `**`")]
    PartialWildcard,
    #[error("there is an empty label: a dot at the start or the end, or two dots in a row")]
    EmptyLabel,
    /// A label of more than 63 characters, or a name of more than 253.
    #[error("a DNS name has at most 253 characters, and each label at most 63")]
    TooLong,
    #[error("a DNS name has letters, digits, `-` and `_` only, not {0:?}")]
    InvalidCharacter(char),
    #[error("a DNS name in a certificate is ASCII: write its `xn--` form")]
    NotAscii,
    #[error("an IP address is not a DNS name; `source` matches addresses")]
    IpAddress,
    #[error("a name with control characters is never accepted")]
    ControlCharacter,
    /// A `*` in a text that is compared literally.
    #[error("`*` is not a wildcard here: the text is compared literally")]
    NoWildcards,
    /// A `*` next to other characters of a segment or in the authority, or a `**` that is
    /// not at the end.
    #[error(
        "`*` matches one whole segment of a URI's path and `**` at its end matches the rest: \
         `spiffe://example.org/ns/*/sa/web` or `https://example.org/ns/**`"
    )]
    PartialUriWildcard,
    /// A `*` in a URI without segments, or in a URI that parsers interpret differently.
    #[error("{0}")]
    NotPlain(NotPlain),
    #[error("a URI begins with its scheme, as in `spiffe://example.org/web`")]
    NoScheme,
    #[error("a URI has visible ASCII characters only, not {0:?}")]
    NotUri(char),
    /// A URI with the scheme `spiffe` that is not a SPIFFE ID.
    #[error("{0}")]
    Spiffe(SpiffeError),
    #[error(
        "the SHA-256 of a public key is 64 hexadecimal digits: `openssl x509 -in CLIENT.crt \
         -noout -pubkey | openssl pkey -pubin -outform DER | openssl dgst -sha256`"
    )]
    NotSpki,
}

/// A pattern for DNS names. Matching ignores case.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct DnsPattern<T = Box<str>> {
    /// The pattern in lower case.
    text: T,
}

impl DnsPattern {
    /// # Errors
    /// If the text is not a DNS name, or has a `*` that is not a whole label.
    pub fn parse(text: &str) -> Result<Self, PatternError> {
        if text.is_empty() {
            return Err(PatternError::Empty);
        }
        if !text.is_ascii() {
            return Err(PatternError::NotAscii);
        }
        if text.len() > 253 {
            return Err(PatternError::TooLong);
        }
        for label in text.split('.') {
            check_label(label)?;
        }
        if text.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
            return Err(PatternError::IpAddress);
        }
        Ok(Self {
            text: text.to_ascii_lowercase().into(),
        })
    }
}

impl<'a> DnsPattern<&'a str> {
    /// Creates a pattern from the text of a parsed pattern, without checks.
    pub const fn parsed(text: &'a str) -> Self {
        Self { text }
    }
}

impl<T: AsRef<str>> DnsPattern<T> {
    pub fn matches(&self, name: &str) -> bool {
        labels_match(self.as_str(), name, str::eq_ignore_ascii_case)
    }

    pub fn is_wildcard(&self) -> bool {
        self.as_str().contains('*')
    }

    /// Whether this pattern matches every name that `other` matches.
    pub fn covers(&self, other: &Self) -> bool {
        covers(self.as_str(), other.as_str())
    }

    /// The pattern in lower case.
    pub fn as_str(&self) -> &str {
        self.text.as_ref()
    }
}

impl<T: AsRef<str>> fmt::Display for DnsPattern<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A pattern for the common name of a subject.
///
/// A common name can be any text, so the comparison is byte by byte and case-sensitive.
/// With a `*`, the comparison is label by label.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CnPattern<T = Box<str>> {
    text: T,
}

impl CnPattern {
    /// # Errors
    /// If the text is empty, or has control characters or a `*` that is not a whole label.
    pub fn parse(text: &str) -> Result<Self, PatternError> {
        if text.is_empty() {
            return Err(PatternError::Empty);
        }
        if text.chars().any(char::is_control) {
            return Err(PatternError::ControlCharacter);
        }
        if text.contains('*') {
            for label in text.split('.') {
                match label {
                    "*" => {}
                    "" => return Err(PatternError::EmptyLabel),
                    label if label.contains('*') => return Err(PatternError::PartialWildcard),
                    _ => {}
                }
            }
        }
        Ok(Self { text: text.into() })
    }
}

impl<'a> CnPattern<&'a str> {
    /// Creates a pattern from the text of a parsed pattern, without checks.
    pub const fn parsed(text: &'a str) -> Self {
        Self { text }
    }
}

impl<T: AsRef<str>> CnPattern<T> {
    pub fn matches(&self, name: &str) -> bool {
        if self.is_wildcard() {
            labels_match(self.as_str(), name, |pattern, label| pattern == label)
        } else {
            self.as_str() == name
        }
    }

    pub fn is_wildcard(&self) -> bool {
        self.as_str().contains('*')
    }

    /// Whether this pattern matches every name that `other` matches.
    pub fn covers(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
            || (self.is_wildcard() && covers(self.as_str(), other.as_str()))
    }

    pub fn as_str(&self) -> &str {
        self.text.as_ref()
    }
}

impl<T: AsRef<str>> fmt::Display for CnPattern<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

fn check_label(label: &str) -> Result<(), PatternError> {
    match label {
        "*" => return Ok(()),
        "" => return Err(PatternError::EmptyLabel),
        _ => {}
    }
    if label.len() > 63 {
        return Err(PatternError::TooLong);
    }
    for character in label.chars() {
        match character {
            '*' => return Err(PatternError::PartialWildcard),
            '-' | '_' => {}
            c if c.is_ascii_alphanumeric() => {}
            c => return Err(PatternError::InvalidCharacter(c)),
        }
    }
    Ok(())
}

fn labels_match(pattern: &str, name: &str, equal: impl Fn(&str, &str) -> bool) -> bool {
    if name.contains('*') {
        return false;
    }
    let mut labels = name.split('.');
    for wanted in pattern.split('.') {
        match labels.next() {
            None | Some("") => return false,
            Some(label) if wanted == "*" || equal(wanted, label) => {}
            Some(_) => return false,
        }
    }
    labels.next().is_none()
}

fn covers(wide: &str, narrow: &str) -> bool {
    wide.split('.').count() == narrow.split('.').count()
        && wide
            .split('.')
            .zip(narrow.split('.'))
            .all(|(wide, narrow)| (wide == "*" && !narrow.is_empty()) || wide == narrow)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dns(text: &str) -> DnsPattern {
        DnsPattern::parse(text).unwrap()
    }

    #[test]
    fn wildcard_matches_one_whole_label() {
        let pattern = dns("*.LB.com");
        assert!(pattern.matches("client1.lb.com"));
        assert!(pattern.matches("CLIENT1.Lb.Com"));
        for name in [
            "lb.com",
            ".lb.com",
            "a.b.lb.com",
            "client1.lb.com.",
            "client1.lb.org",
            "",
            "client1xlb.com",
        ] {
            assert!(!pattern.matches(name), "{name}");
        }
        assert!(dns("a.*.c").matches("a.b.c"));
        assert!(!dns("a.*.c").matches("a..c"));
    }

    #[test]
    fn wildcards_in_names_are_literal() {
        for pattern in ["*.lb.com", "client1.lb.com", "*", "*.*"] {
            for name in ["*.lb.com", "*", "*.*", "client*.lb.com"] {
                assert!(!dns(pattern).matches(name), "{pattern} {name}");
            }
        }
        assert!(!CnPattern::parse("*.lb.com").unwrap().matches("*.lb.com"));
    }

    #[test]
    fn partial_wildcards_are_invalid() {
        for text in ["web*.lb.com", "**.lb.com", "*a", "a.**", "w*b.lb.com"] {
            assert_eq!(DnsPattern::parse(text), Err(PatternError::PartialWildcard));
            assert_eq!(CnPattern::parse(text), Err(PatternError::PartialWildcard));
        }
    }

    #[test]
    fn invalid_dns_names_are_reported() {
        for (text, error) in [
            ("", PatternError::Empty),
            (".", PatternError::EmptyLabel),
            ("a.", PatternError::EmptyLabel),
            ("a..b", PatternError::EmptyLabel),
            ("a b", PatternError::InvalidCharacter(' ')),
            ("a/b", PatternError::InvalidCharacter('/')),
            ("b\u{fc}cher.example", PatternError::NotAscii),
            ("10.0.0.1", PatternError::IpAddress),
        ] {
            assert_eq!(DnsPattern::parse(text), Err(error), "{text}");
        }
        assert_eq!(
            DnsPattern::parse(&"a".repeat(64)),
            Err(PatternError::TooLong)
        );
    }

    #[test]
    fn common_names_are_compared_literally() {
        let name = CnPattern::parse("Alice of Example, Inc.").unwrap();
        assert!(name.matches("Alice of Example, Inc."));
        assert!(!name.matches("alice of example, inc."));
        let pattern = CnPattern::parse("*.lb.com").unwrap();
        assert!(pattern.matches("client1.lb.com"));
        assert!(!pattern.matches("client1.LB.com"));
        assert!(!pattern.matches("a.client1.lb.com"));
    }

    #[test]
    fn covering_pattern_matches_all_names() {
        assert!(dns("*.lb.com").covers(&dns("a.lb.com")));
        assert!(dns("*.lb.com").covers(&dns("*.lb.com")));
        assert!(!dns("a.lb.com").covers(&dns("*.lb.com")));
        assert!(!dns("*.lb.com").covers(&dns("*.*.lb.com")));
    }
}
