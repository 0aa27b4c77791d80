//! Patterns for URIs in certificates.
//!
//! SPIFFE IDs and other URIs with an authority can be matched by path segments, without
//! decoding. All other URIs are compared as a whole, byte by byte, because the meaning of
//! their parts depends on the scheme.

use std::fmt;

use super::{
    PatternError,
    plain::{self, NotPlain},
};
use crate::spiffe::{self, SpiffeError};

/// A pattern for URIs.
///
/// `*` matches one whole segment of the path. `**` at the end of the path matches one or
/// more segments.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct UriPattern<T = Box<str>> {
    text: T,
}

impl UriPattern {
    /// # Errors
    /// If the text:
    ///
    /// - is not a URI;
    /// - has the scheme `spiffe` and is not a SPIFFE ID;
    /// - has a `*` that is neither a whole segment of a path nor `**` at its end;
    /// - has a `*` and parts that parsers read differently.
    pub fn parse(text: &str) -> Result<Self, PatternError> {
        if text.is_empty() {
            return Err(PatternError::Empty);
        }
        if spiffe::has_spiffe_scheme(text) {
            spiffe::check_parts(text, |segment, last| {
                check_segment(segment, last, spiffe::check_segment)
            })?;
        } else {
            check_other(text)?;
        }
        Ok(Self { text: text.into() })
    }
}

impl<'a> UriPattern<&'a str> {
    /// Creates a pattern from the text of a parsed pattern, without checks.
    pub const fn parsed(text: &'a str) -> Self {
        Self { text }
    }
}

impl<T: AsRef<str>> UriPattern<T> {
    /// A pattern with a wildcard matches only SPIFFE IDs and URIs that all parsers read in
    /// the same way.
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
                // `**` is the end of the pattern, and at least one segment of the URI is
                // left.
                "**" => return is_unambiguous(uri),
                "*" => {}
                wanted if wanted == segment => {}
                _ => return false,
            }
        }
        segments.next().is_none() && is_unambiguous(uri)
    }

    pub fn is_wildcard(&self) -> bool {
        self.as_str().contains('*')
    }

    /// Whether this pattern matches every URI that `other` matches.
    pub fn covers(&self, other: &Self) -> bool {
        // A pattern without wildcards can be an ambiguous URI, which wildcards do not match.
        if !other.is_wildcard() {
            return self.matches(other.as_str());
        }
        if !self.is_wildcard() {
            return false;
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

    pub fn as_str(&self) -> &str {
        self.text.as_ref()
    }
}

impl<T: AsRef<str>> fmt::Display for UriPattern<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Whether all parsers read the segments of the URI in the same way.
fn is_unambiguous(uri: &str) -> bool {
    if spiffe::has_spiffe_scheme(uri) {
        spiffe::check(uri).is_ok()
    } else {
        plain::check(uri).is_ok()
    }
}

fn check_segment<E: Into<PatternError>>(
    segment: &str,
    last: bool,
    check_literal: impl Fn(&str) -> Result<(), E>,
) -> Result<(), PatternError> {
    match segment {
        "*" => Ok(()),
        "**" if last => Ok(()),
        segment if segment.contains('*') => Err(PatternError::PartialUriWildcard),
        segment => check_literal(segment).map_err(Into::into),
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
        plain::check_parts(text, |segment, last| {
            check_segment(segment, last, plain::check_segment)
        })?;
    }
    Ok(())
}

impl From<NotPlain> for PatternError {
    fn from(error: NotPlain) -> Self {
        match error {
            // The error text for wildcards is more specific.
            NotPlain::Authority('*') => Self::PartialUriWildcard,
            error => Self::NotPlain(error),
        }
    }
}

impl From<SpiffeError> for PatternError {
    fn from(error: SpiffeError) -> Self {
        match error {
            // The error text for wildcards is more specific.
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
    fn wildcards_match_whole_spiffe_segments() {
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
    fn wildcards_match_whole_uri_segments() {
        let one = uri("https://Idp.example:8443/users/*/key");
        assert!(one.matches("https://Idp.example:8443/users/joe@x/key"));
        assert!(one.matches("https://Idp.example:8443/users/j%C3%BCrgen/key"));
        for other in [
            "https://idp.example:8443/users/joe/key",
            "HTTPS://Idp.example:8443/users/joe/key",
            "https://Idp.example/users/joe/key",
            "https://a@Idp.example:8443/users/joe/key",
            "https://Idp.example:8443@evil/users/joe/key",
            "https://Idp.example:8443/users/joe/Key",
            "https://Idp.example:8443/users/joe/%6bey",
            "https://Idp.example:8443/users/joe/key/",
            "https://Idp.example:8443/users/joe/key?a",
            "https://Idp.example:8443/users/joe/key#a",
            "https://Idp.example:8443/users//key",
            "https://Idp.example:8443/users/../key",
            "https://Idp.example:8443/users/%2e%2e/key",
            "https://Idp.example:8443/users/a%2Fb/key",
            "https://Idp.example:8443/users/a%252Fb/key",
            "https://Idp.example:8443/users/a?b/key",
            "https://Idp.example:8443/users/a#b/key",
            "https://Idp.example:8443/users/a\\b/key",
            "https://Idp.example:8443/users/*/key",
            "https://Idp.example:8443/users/a/b/key",
            "https://Idp.example:8443/users/key",
        ] {
            assert!(!one.matches(other), "{other}");
        }
        let rest = uri("https://a/b/**");
        assert!(rest.matches("https://a/b/c"));
        assert!(rest.matches("https://a/b/c/d"));
        for other in [
            "https://a/b",
            "https://a/b/",
            "https://a/bc/d",
            "https://a/b/c/../d",
            "https://a/b/c//d",
            "https://a/b/c/%2e./d",
            "https://a/b/c?d/e",
            "https://a/b/c/**",
        ] {
            assert!(!rest.matches(other), "{other}");
        }
    }

    #[test]
    fn ambiguous_uris_match_only_literally() {
        for text in ["https://a/b/../c", "https://a//b?c#d", "https://a/%2F"] {
            assert!(uri(text).matches(text));
            assert!(uri(text).covers(&uri(text)));
            for wide in ["https://a/**", "https://a/*/*", "https://a/*"] {
                assert!(!uri(wide).matches(text) && !uri(wide).covers(&uri(text)));
            }
        }
    }

    #[test]
    fn other_wildcards_are_invalid() {
        use NotPlain::{DotSegment, EmptySegment, Escape, NoAuthority, Path};
        use PatternError::{NoScheme, NotUri, PartialUriWildcard, Spiffe};
        for (text, error) in [
            ("spiffe://td/a*", PartialUriWildcard),
            ("spiffe://td/**/b", PartialUriWildcard),
            ("spiffe://td/***", PartialUriWildcard),
            ("spiffe://*/a", PartialUriWildcard),
            ("spiffe://*.td/a", PartialUriWildcard),
            ("spiffe://td/a/", Spiffe(SpiffeError::EmptySegment)),
            ("SPIFFE://td/a", Spiffe(SpiffeError::Scheme)),
            ("spiffe://td:1/a", Spiffe(SpiffeError::TrustDomain(':'))),
            ("https://a/b*", PartialUriWildcard),
            ("https://a/**/b", PartialUriWildcard),
            ("https://a/***", PartialUriWildcard),
            ("https://*/a", PartialUriWildcard),
            ("https://*.org/a", PartialUriWildcard),
            ("https://*@a/b", PartialUriWildcard),
            ("https://a:*/b", PartialUriWildcard),
            ("https://a/*?b", PartialUriWildcard),
            ("https://a/*#b", PartialUriWildcard),
            ("*://a/b", NoScheme),
            ("https://*", NoAuthority.into()),
            ("https:///*", NoAuthority.into()),
            ("https:/*", NoAuthority.into()),
            ("urn:x:*", NoAuthority.into()),
            ("urn:x/*", NoAuthority.into()),
            ("https://a?b/*", NotPlain::Authority('?').into()),
            ("https://a/b?c/*", Path('?').into()),
            ("https://a/b#c/*", Path('#').into()),
            ("https://a//*", EmptySegment.into()),
            ("https://a/*/", EmptySegment.into()),
            ("https://a/../*", DotSegment.into()),
            ("https://a/b%2Fc/*", Escape.into()),
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
    fn other_uris_are_compared_literally() {
        let other = uri("https://Example.org/%61?x=1#f");
        assert!(other.matches("https://Example.org/%61?x=1#f"));
        assert!(!other.matches("https://example.org/%61?x=1#f"));
        assert!(!other.matches("https://Example.org/a?x=1#f"));
    }

    #[test]
    fn covering_pattern_matches_all_uris() {
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
            ("https://a/**", "https://a/*/b", true),
            ("https://a/**", "https://a/b?c", false),
            ("https://a/*", "https://a/..", false),
            ("https://a/*", "https://A/b", false),
        ] {
            assert_eq!(uri(wide).covers(&uri(narrow)), covers, "{wide} {narrow}");
        }
    }

    fn path() -> impl Strategy<Value = String> {
        let segment =
            prop::sample::select(&["a", "b", "*", "..", "", "**", "A%20", "%2f", "a?b", "a@"][..]);
        let segments = prop::collection::vec(segment, 0..5);
        let start = prop::sample::select(&["spiffe://td", "https://td"][..]);
        (start, segments).prop_map(|(start, segments)| {
            let path: String = segments
                .iter()
                .map(|segment| format!("/{segment}"))
                .collect();
            format!("{start}{path}")
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4000))]
        #[test]
        fn wildcards_match_unambiguous_uris_only(
            wide in path(), narrow in path(), id in path(),
        ) {
            let Ok(wide) = UriPattern::parse(&wide) else { return Ok(()) };
            if wide.is_wildcard() && wide.matches(&id) {
                prop_assert!(is_unambiguous(&id) && !id.contains('*'));
            }
            if let Ok(narrow) = UriPattern::parse(&narrow)
                && wide.covers(&narrow) && narrow.matches(&id)
            {
                prop_assert!(wide.matches(&id));
            }
        }
    }
}
