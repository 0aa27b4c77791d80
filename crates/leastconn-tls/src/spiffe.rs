//! SPIFFE IDs, by the letter of their standard: a trust domain and a path, in the
//! few characters that nobody can read in two ways.
//!
//! An ID is compared as text, so there must be one way only to write it. What a
//! general URI may have besides (a port, a user, a query, escapes, capitals in the
//! trust domain) makes it no SPIFFE ID; nothing is normalized.
//!
//! Source: SPIFFE-ID, sections 2 to 2.3 (trust domain, path, length).

/// What an ID begins with.
pub const PREFIX: &str = "spiffe://";

/// Bytes of a whole ID, at most.
const LONGEST: usize = 2048;

/// Bytes of a trust domain, at most.
const LONGEST_TRUST_DOMAIN: usize = 255;

/// Why a text is not a SPIFFE ID.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SpiffeError {
    /// It does not begin with the scheme, in lower case, and two slashes.
    #[error("a SPIFFE ID begins with `spiffe://`, in lower case")]
    Scheme,
    /// There is no trust domain.
    #[error("a SPIFFE ID has a trust domain after `spiffe://`")]
    NoTrustDomain,
    /// A port, a user, or another character that trust domains have not.
    #[error(
        "a SPIFFE trust domain has lower-case letters, digits, `.`, `-` and `_` only, not {0:?}"
    )]
    TrustDomain(char),
    /// An escape, a query, a fragment, or another character that paths have not.
    #[error("a SPIFFE path has letters, digits, `.`, `-` and `_` only, not {0:?}")]
    Path(char),
    /// `//`, or a `/` at the end.
    #[error("a SPIFFE path has no empty segments, and no `/` at its end")]
    EmptySegment,
    /// `.` or `..`
    #[error("a SPIFFE path has no segments `.` or `..`")]
    DotSegment,
    /// More bytes than there may be.
    #[error("a SPIFFE ID has at most 2048 bytes, and its trust domain at most 255")]
    TooLong,
}

/// Whether a URI's scheme is SPIFFE's, in whatever case: then it must be an ID.
pub fn is_meant(uri: &str) -> bool {
    uri.as_bytes()
        .get(..7)
        .is_some_and(|scheme| scheme.eq_ignore_ascii_case(b"spiffe:"))
}

/// Whether a text is a SPIFFE ID. A trust domain alone is one, too.
///
/// # Errors
/// With the first thing that is wrong.
pub fn check(text: &str) -> Result<(), SpiffeError> {
    check_parts(text, |segment, _| check_segment(segment))
}

/// The same, with the caller's own opinion of path segments. It is given each of
/// them, and whether it is the last.
pub(crate) fn check_parts<E: From<SpiffeError>>(
    text: &str,
    segment: impl Fn(&str, bool) -> Result<(), E>,
) -> Result<(), E> {
    if text.len() > LONGEST {
        return Err(SpiffeError::TooLong.into());
    }
    let rest = text.strip_prefix(PREFIX).ok_or(SpiffeError::Scheme)?;
    let mut parts = rest.split('/').peekable();
    check_trust_domain(parts.next().unwrap_or_default())?;
    while let Some(part) = parts.next() {
        segment(part, parts.peek().is_none())?;
    }
    Ok(())
}

fn check_trust_domain(text: &str) -> Result<(), SpiffeError> {
    if text.is_empty() {
        return Err(SpiffeError::NoTrustDomain);
    }
    if text.len() > LONGEST_TRUST_DOMAIN {
        return Err(SpiffeError::TooLong);
    }
    let good = |c: char| matches!(c, 'a'..='z' | '0'..='9' | '.' | '-' | '_');
    match text.chars().find(|&c| !good(c)) {
        Some(character) => Err(SpiffeError::TrustDomain(character)),
        None => Ok(()),
    }
}

pub(crate) fn check_segment(text: &str) -> Result<(), SpiffeError> {
    match text {
        "" => return Err(SpiffeError::EmptySegment),
        "." | ".." => return Err(SpiffeError::DotSegment),
        _ => {}
    }
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    match text.chars().find(|&c| !good(c)) {
        Some(character) => Err(SpiffeError::Path(character)),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn good_ids() {
        for id in [
            "spiffe://example.org",
            "spiffe://example.org/ns/prod/sa/orders",
            "spiffe://td_1-a.b/A/b.C_d-9/...",
            "spiffe://1.2.3.4/x",
        ] {
            assert_eq!(check(id), Ok(()), "{id}");
        }
    }

    /// Row 12 of the matrix of threats.
    #[test]
    fn case_dots_escapes_ports_queries_and_length_make_it_none() {
        use SpiffeError::{
            DotSegment, EmptySegment, NoTrustDomain, Path, Scheme, TooLong, TrustDomain,
        };
        for (id, error) in [
            ("", Scheme),
            ("spiffe:", Scheme),
            ("spiffe:/td/a", Scheme),
            ("SPIFFE://td/a", Scheme),
            ("Spiffe://td/a", Scheme),
            (" spiffe://td/a", Scheme),
            ("https://td/a", Scheme),
            ("spiffe://", NoTrustDomain),
            ("spiffe:///a", NoTrustDomain),
            ("spiffe://Example.org/a", TrustDomain('E')),
            ("spiffe://td:443/a", TrustDomain(':')),
            ("spiffe://user@td/a", TrustDomain('@')),
            ("spiffe://td?q", TrustDomain('?')),
            ("spiffe://td#f", TrustDomain('#')),
            ("spiffe://t%64/a", TrustDomain('%')),
            ("spiffe://*/a", TrustDomain('*')),
            ("spiffe://\u{fc}/a", TrustDomain('\u{fc}')),
            ("spiffe://[::1]/a", TrustDomain('[')),
            ("spiffe://td/", EmptySegment),
            ("spiffe://td/a/", EmptySegment),
            ("spiffe://td//a", EmptySegment),
            ("spiffe://td/./a", DotSegment),
            ("spiffe://td/a/..", DotSegment),
            ("spiffe://td/a?q=1", Path('?')),
            ("spiffe://td/a#f", Path('#')),
            ("spiffe://td/%61", Path('%')),
            ("spiffe://td/a b", Path(' ')),
            ("spiffe://td/a\0", Path('\0')),
            ("spiffe://td/*", Path('*')),
            ("spiffe://td/\u{e4}", Path('\u{e4}')),
            ("spiffe://td\\a", TrustDomain('\\')),
        ] {
            assert_eq!(check(id), Err(error), "{id:?}");
        }
        let longest = "a".repeat(255);
        assert_eq!(check(&format!("spiffe://{longest}/x")), Ok(()));
        assert_eq!(check(&format!("spiffe://{longest}a/x")), Err(TooLong));
        let longest = format!("spiffe://td/{}", "a".repeat(2048 - 12));
        assert_eq!(check(&longest), Ok(()));
        assert_eq!(check(&format!("{longest}a")), Err(TooLong));
    }

    #[test]
    fn who_says_spiffe_means_it() {
        for uri in ["spiffe://td", "SPIFFE:x", "sPiFfE:"] {
            assert!(is_meant(uri), "{uri}");
        }
        for uri in ["spiffe", "https://spiffe:1", "", "spiff\u{e9}:"] {
            assert!(!is_meant(uri), "{uri}");
        }
    }

    proptest! {
        /// Checked against another way of saying the same.
        #[test]
        fn an_id_is_its_parts(text in "(spiffe://|SPIFFE://|spiffe:/)?[a-zA-B./?%:@ _-]{0,20}") {
            let good = text.strip_prefix("spiffe://").is_some_and(|rest| {
                let (domain, path) = match rest.find('/') {
                    Some(at) => (&rest[..at], Some(&rest[at + 1..])),
                    None => (rest, None),
                };
                let plain = |c: u8| c.is_ascii_alphanumeric() || b".-_".contains(&c);
                !domain.is_empty()
                    && domain.bytes().all(|c| plain(c) && !c.is_ascii_uppercase())
                    && path.is_none_or(|path| path.split('/').all(|segment| {
                        !["", ".", ".."].contains(&segment) && segment.bytes().all(plain)
                    }))
            });
            prop_assert_eq!(check(&text).is_ok(), good);
        }
    }
}
