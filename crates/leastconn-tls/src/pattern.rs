//! Patterns for what certificates say, and for names in SNI.
//!
//! `*` stands for exactly one whole label, or one whole segment of a URI's path,
//! and only in a *pattern*: a name that holds a `*` matches nothing that is a
//! wildcard, and as a DNS name nothing at all, so that a wildcard certificate never
//! speaks for the names it covers.

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

/// Why a text is not a pattern.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PatternError {
    /// There is nothing.
    #[error("it is empty")]
    Empty,
    /// A `*` beside other characters of a label, or `**`.
    #[error("`*` stands for one whole label: `*.example.com`, not `web*.example.com` or `**`")]
    PartialWildcard,
    /// An empty label.
    #[error("there is an empty label: a dot at an end, or two in a row")]
    EmptyLabel,
    /// A label of more than 63, or a name of more than 253 characters.
    #[error("a DNS name has at most 253 characters, and each label at most 63")]
    TooLong,
    /// A character that DNS names have not.
    #[error("a DNS name has letters, digits, `-` and `_` only, not {0:?}")]
    InvalidCharacter(char),
    /// A name beyond ASCII.
    #[error("a DNS name in a certificate is ASCII: write its `xn--` form")]
    NotAscii,
    /// Four numbers with dots.
    #[error("an IP address is not a DNS name; `source` matches addresses")]
    IpAddress,
    /// A control character in a common name.
    #[error("a name with control characters is never accepted")]
    ControlCharacter,
    /// A `*` where nothing is a wildcard.
    #[error("`*` stands for nothing here: the text is compared as it is")]
    NoWildcards,
    /// A `*` beside other characters of a URI's segment, in its authority, or a `**`
    /// that is not at the end.
    #[error(
        "`*` stands for one whole segment of a URI's path and `**` at its end for the rest: \
         `spiffe://example.org/ns/*/sa/web` or `https://example.org/ns/**`"
    )]
    PartialUriWildcard,
    /// A `*` in a URI that can be read in two ways, or has no segments.
    #[error("{0}")]
    NotPlain(NotPlain),
    /// No scheme.
    #[error("a URI begins with its scheme, as in `spiffe://example.org/web`")]
    NoScheme,
    /// A character that URIs have not.
    #[error("a URI has visible ASCII characters only, not {0:?}")]
    NotUri(char),
    /// It says `spiffe:`, and is no SPIFFE ID.
    #[error("{0}")]
    Spiffe(SpiffeError),
    /// Not a hash of a public key.
    #[error(
        "the SHA-256 of a public key is 64 hexadecimal digits: `openssl x509 -in CLIENT.crt \
         -noout -pubkey | openssl pkey -pubin -outform DER | openssl dgst -sha256`"
    )]
    NotSpki,
}

/// A pattern for DNS names. Letters' case does not matter.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct DnsPattern<T = Box<str>> {
    /// In lower case.
    text: T,
}

impl DnsPattern {
    /// Reads a pattern.
    ///
    /// # Errors
    /// When it is not a DNS name, or has a `*` that is not a whole label.
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
    /// The same, of the text of one that was read before.
    pub const fn parsed(text: &'a str) -> Self {
        Self { text }
    }
}

impl<T: AsRef<str>> DnsPattern<T> {
    /// Whether `name` is among the names the pattern stands for.
    pub fn matches(&self, name: &str) -> bool {
        labels_match(self.as_str(), name, str::eq_ignore_ascii_case)
    }

    /// Whether the pattern has a `*`, and so stands for more than one name.
    pub fn is_wildcard(&self) -> bool {
        self.as_str().contains('*')
    }

    /// Whether every name that `other` stands for matches this one too.
    pub fn covers(&self, other: &Self) -> bool {
        covers(self.as_str(), other.as_str())
    }

    /// The pattern, in lower case.
    pub fn as_str(&self) -> &str {
        self.text.as_ref()
    }
}

impl<T: AsRef<str>> fmt::Display for DnsPattern<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A pattern for a subject's common name.
///
/// A common name may be any text, so it is compared byte by byte, case
/// included. With a `*`, it is compared label by label.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CnPattern<T = Box<str>> {
    text: T,
}

impl CnPattern {
    /// Reads a pattern.
    ///
    /// # Errors
    /// When it is empty, has control characters, or a `*` that is not a whole
    /// label.
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
    /// The same, of the text of one that was read before.
    pub const fn parsed(text: &'a str) -> Self {
        Self { text }
    }
}

impl<T: AsRef<str>> CnPattern<T> {
    /// Whether `name` is among the names the pattern stands for.
    pub fn matches(&self, name: &str) -> bool {
        if self.is_wildcard() {
            labels_match(self.as_str(), name, |pattern, label| pattern == label)
        } else {
            self.as_str() == name
        }
    }

    /// Whether the pattern has a `*`, and so stands for more than one name.
    pub fn is_wildcard(&self) -> bool {
        self.as_str().contains('*')
    }

    /// Whether every name that `other` stands for matches this one too.
    pub fn covers(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
            || (self.is_wildcard() && covers(self.as_str(), other.as_str()))
    }

    /// The pattern.
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
    fn a_star_is_exactly_one_whole_label() {
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
    fn a_wildcard_in_a_name_widens_nothing() {
        for pattern in ["*.lb.com", "client1.lb.com", "*", "*.*"] {
            for name in ["*.lb.com", "*", "*.*", "client*.lb.com"] {
                assert!(!dns(pattern).matches(name), "{pattern} {name}");
            }
        }
        assert!(!CnPattern::parse("*.lb.com").unwrap().matches("*.lb.com"));
    }

    #[test]
    fn a_star_beside_other_characters_is_refused() {
        for text in ["web*.lb.com", "**.lb.com", "*a", "a.**", "w*b.lb.com"] {
            assert_eq!(DnsPattern::parse(text), Err(PatternError::PartialWildcard));
            assert_eq!(CnPattern::parse(text), Err(PatternError::PartialWildcard));
        }
    }

    #[test]
    fn says_what_is_no_dns_name() {
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
    fn a_common_name_is_compared_as_it_is() {
        let name = CnPattern::parse("Alice of Example, Inc.").unwrap();
        assert!(name.matches("Alice of Example, Inc."));
        assert!(!name.matches("alice of example, inc."));
        let pattern = CnPattern::parse("*.lb.com").unwrap();
        assert!(pattern.matches("client1.lb.com"));
        assert!(!pattern.matches("client1.LB.com"));
        assert!(!pattern.matches("a.client1.lb.com"));
    }

    #[test]
    fn covering_is_matching_for_all() {
        assert!(dns("*.lb.com").covers(&dns("a.lb.com")));
        assert!(dns("*.lb.com").covers(&dns("*.lb.com")));
        assert!(!dns("a.lb.com").covers(&dns("*.lb.com")));
        assert!(!dns("*.lb.com").covers(&dns("*.*.lb.com")));
    }
}
