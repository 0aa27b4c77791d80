//! Patterns for URIs in certificates.
//!
//! A SPIFFE ID may be matched by path segments. Any other URI is compared byte by
//! byte: what its parts mean, its scheme alone would know.

use std::fmt;

use super::PatternError;
use crate::spiffe::{self, SpiffeError};

/// A pattern for URIs.
///
/// `*` stands for one whole segment of a SPIFFE ID's path, `**` at its end for one
/// or more.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct UriPattern<T = Box<str>> {
    text: T,
}

impl UriPattern {
    /// Reads a pattern.
    ///
    /// # Errors
    /// When it is not a URI, says `spiffe:` and is no SPIFFE ID, or has a `*` that
    /// is neither a whole segment of one nor `**` at its end.
    pub fn parse(text: &str) -> Result<Self, PatternError> {
        if text.is_empty() {
            return Err(PatternError::Empty);
        }
        if spiffe::is_meant(text) {
            spiffe::check_parts(text, check_segment)?;
        } else {
            check_other(text)?;
        }
        Ok(Self { text: text.into() })
    }
}

impl<'a> UriPattern<&'a str> {
    /// The same, of the text of one that was read before.
    pub(crate) const fn parsed(text: &'a str) -> Self {
        Self { text }
    }
}

impl<T: AsRef<str>> UriPattern<T> {
    /// Whether `uri` is among those that the pattern stands for. One with a wildcard
    /// stands for SPIFFE IDs only.
    pub fn matches(&self, uri: &str) -> bool {
        if !self.is_wildcard() {
            return self.as_str() == uri;
        }
        let mut segments = uri.split('/');
        for wanted in self.as_str().split('/') {
            let Some(segment) = segments.next() else {
                return false;
            };
            match wanted {
                // At the end: one is there, and all others may be.
                "**" => return spiffe::check(uri).is_ok(),
                "*" => {}
                wanted if wanted == segment => {}
                _ => return false,
            }
        }
        segments.next().is_none() && spiffe::check(uri).is_ok()
    }

    /// Whether the pattern has a `*`, and so stands for more than one URI.
    pub fn is_wildcard(&self) -> bool {
        self.as_str().contains('*')
    }

    /// Whether every URI that `other` stands for matches this one too.
    pub fn covers(&self, other: &Self) -> bool {
        if !self.is_wildcard() {
            return self.as_str() == other.as_str();
        }
        let mut narrow = other.as_str().split('/');
        for wide in self.as_str().split('/') {
            match (wide, narrow.next()) {
                (_, None) => return false,
                ("**", Some(_)) => return true,
                (_, Some("**")) => return false,
                ("*", Some(_)) => {}
                (wide, Some(narrow)) if wide == narrow => {}
                _ => return false,
            }
        }
        narrow.next().is_none()
    }

    /// The pattern.
    pub fn as_str(&self) -> &str {
        self.text.as_ref()
    }
}

impl<T: AsRef<str>> fmt::Display for UriPattern<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

fn check_segment(segment: &str, last: bool) -> Result<(), PatternError> {
    match segment {
        "*" => Ok(()),
        "**" if last => Ok(()),
        segment if segment.contains('*') => Err(PatternError::PartialUriWildcard),
        segment => Ok(spiffe::check_segment(segment)?),
    }
}

fn check_other(text: &str) -> Result<(), PatternError> {
    if let Some(character) = text.chars().find(|c| !c.is_ascii_graphic()) {
        return Err(PatternError::NotUri(character));
    }
    let scheme = text.split_once(':').map_or("", |(scheme, _)| scheme);
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.');
    if !scheme.starts_with(|c: char| c.is_ascii_alphabetic()) || !scheme.chars().all(plain) {
        return Err(PatternError::NoScheme);
    }
    if text.contains('*') {
        return Err(PatternError::LiteralUri);
    }
    Ok(())
}

impl From<SpiffeError> for PatternError {
    fn from(error: SpiffeError) -> Self {
        match error {
            // In a trust domain: the words for wildcards say more.
            SpiffeError::TrustDomain('*') => Self::PartialUriWildcard,
            error => Self::Spiffe(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn uri(text: &str) -> UriPattern {
        UriPattern::parse(text).unwrap()
    }

    #[test]
    fn a_star_is_one_whole_segment_and_two_are_the_rest() {
        let one = uri("spiffe://td/ns/*/sa/web");
        assert!(one.matches("spiffe://td/ns/prod/sa/web"));
        for other in [
            "spiffe://td/ns/sa/web",
            "spiffe://td/ns/a/b/sa/web",
            "spiffe://td/ns//sa/web",
            "spiffe://td/ns/../sa/web",
            "spiffe://td/ns/*/sa/web",
            "spiffe://td/ns/%2f/sa/web",
            "spiffe://td/ns/prod/sa/web/more",
            "spiffe://td/ns/prod/sa/Web",
            "spiffe://TD/ns/prod/sa/web",
            "spiffe://td.evil/ns/prod/sa/web",
            "https://td/ns/prod/sa/web",
        ] {
            assert!(!one.matches(other), "{other}");
        }
        let rest = uri("spiffe://td/ns/**");
        assert!(rest.matches("spiffe://td/ns/a"));
        assert!(rest.matches("spiffe://td/ns/a/b/c"));
        for other in [
            "spiffe://td/ns",
            "spiffe://td/ns/",
            "spiffe://td/nsx/a",
            "spiffe://td/ns/a//b",
            "spiffe://td/ns/a/..",
            "spiffe://td/ns/a?b",
        ] {
            assert!(!rest.matches(other), "{other}");
        }
        assert!(uri("spiffe://td/**").matches("spiffe://td/a/b"));
        assert!(!uri("spiffe://td/**").matches("spiffe://td"));
        assert!(!uri("spiffe://td").matches("spiffe://td/a"));
    }

    #[test]
    fn nothing_else_is_a_wildcard() {
        use PatternError::{LiteralUri, NoScheme, NotUri, PartialUriWildcard, Spiffe};
        for (text, error) in [
            ("spiffe://td/a*", PartialUriWildcard),
            ("spiffe://td/**/b", PartialUriWildcard),
            ("spiffe://td/***", PartialUriWildcard),
            ("spiffe://*/a", PartialUriWildcard),
            ("spiffe://*.td/a", PartialUriWildcard),
            ("spiffe://td/a/", Spiffe(SpiffeError::EmptySegment)),
            ("SPIFFE://td/a", Spiffe(SpiffeError::Scheme)),
            ("spiffe://td:1/a", Spiffe(SpiffeError::TrustDomain(':'))),
            ("https://a/*", LiteralUri),
            ("urn:x:*", LiteralUri),
            ("example.org/a", NoScheme),
            ("/a:b", NoScheme),
            ("", PatternError::Empty),
            ("urn:a b", NotUri(' ')),
            ("urn:\u{fc}", NotUri('\u{fc}')),
        ] {
            assert_eq!(UriPattern::parse(text), Err(error), "{text}");
        }
    }

    #[test]
    fn other_uris_are_compared_as_they_are() {
        let other = uri("https://Example.org/%61?x=1#f");
        assert!(other.matches("https://Example.org/%61?x=1#f"));
        assert!(!other.matches("https://example.org/%61?x=1#f"));
        assert!(!other.matches("https://Example.org/a?x=1#f"));
    }

    #[test]
    fn covering_is_matching_for_all() {
        for (wide, narrow, covers) in [
            ("spiffe://td/**", "spiffe://td/a", true),
            ("spiffe://td/**", "spiffe://td/a/**", true),
            ("spiffe://td/**", "spiffe://td/*", true),
            ("spiffe://td/*", "spiffe://td/**", false),
            ("spiffe://td/*/**", "spiffe://td/**", false),
            ("spiffe://td/*/**", "spiffe://td/a/b/c", true),
            ("spiffe://td/**", "spiffe://td", false),
            ("spiffe://td/a", "spiffe://td/a", true),
            ("spiffe://td/a", "spiffe://td/*", false),
            ("urn:a", "urn:a", true),
        ] {
            assert_eq!(uri(wide).covers(&uri(narrow)), covers, "{wide} {narrow}");
        }
    }

    fn path() -> impl Strategy<Value = String> {
        let segment = prop::sample::select(&["a", "b", "*", "..", "", "**", "A%20"][..]);
        prop::collection::vec(segment, 0..5).prop_map(|segments| {
            let path: String = segments
                .iter()
                .map(|segment| format!("/{segment}"))
                .collect();
            format!("spiffe://td{path}")
        })
    }

    proptest! {
        #[test]
        fn what_matches_a_wildcard_is_an_id_and_covering_keeps_its_word(
            wide in path(), narrow in path(), id in path(),
        ) {
            let Ok(wide) = UriPattern::parse(&wide) else { return Ok(()) };
            if wide.matches(&id) {
                prop_assert_eq!(spiffe::check(&id), Ok(()));
            }
            if let Ok(narrow) = UriPattern::parse(&narrow)
                && wide.covers(&narrow) && narrow.matches(&id)
            {
                prop_assert!(wide.matches(&id));
            }
        }
    }
}
