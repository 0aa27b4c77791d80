//! Strict validation of SPIFFE IDs.
//!
//! IDs are compared as text and are not normalized, so each ID must have only one spelling. A
//! URI is not a valid SPIFFE ID if it has a port, a user, a query or percent-encoding, or an
//! upper-case letter in the trust domain.
//!
//! Source: SPIFFE-ID, sections 2 to 2.3 (trust domain, path, length).

pub const PREFIX: &str = "spiffe://";

/// Maximum length of an ID in bytes.
const MAX_LENGTH: usize = 2048;

/// Maximum length of a trust domain in bytes.
const MAX_TRUST_DOMAIN_LENGTH: usize = 255;

/// Why a text is not a SPIFFE ID.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SpiffeError {
    #[error("a SPIFFE ID begins with `spiffe://`, in lower case")]
    Scheme,
    #[error("a SPIFFE ID has a trust domain after `spiffe://`")]
    NoTrustDomain,
    /// A port, a user, or a character that is not allowed in trust domains.
    #[error(
        "a SPIFFE trust domain has lower-case letters, digits, `.`, `-` and `_` only, not {0:?}"
    )]
    TrustDomain(char),
    /// Percent-encoding, a query, a fragment, or a character that is not allowed in paths.
    #[error("a SPIFFE path has letters, digits, `.`, `-` and `_` only, not {0:?}")]
    Path(char),
    /// An empty segment: `//`, or a `/` at the end.
    #[error("a SPIFFE path has no empty segments, and no `/` at its end")]
    EmptySegment,
    /// A segment `.` or `..`.
    #[error("a SPIFFE path has no segments `.` or `..`")]
    DotSegment,
    #[error(
        "a SPIFFE ID has at most {MAX_LENGTH} bytes, and its trust domain at most {MAX_TRUST_DOMAIN_LENGTH}"
    )]
    TooLong,
}

/// Whether the scheme of a URI is `spiffe`, in upper or lower case. Such a URI must be a
/// valid ID.
pub fn has_spiffe_scheme(uri: &str) -> bool {
    uri.as_bytes()
        .get(..7)
        .is_some_and(|scheme| scheme.eq_ignore_ascii_case(b"spiffe:"))
}

/// Checks that a text is a SPIFFE ID. The path may be absent.
///
/// # Errors
/// The first violation that was found.
pub fn check(text: &str) -> Result<(), SpiffeError> {
    check_parts(text, |segment, _| check_segment(segment))
}

/// Like [`check`], but checks each path segment with `segment`. Its arguments are the segment
/// and whether the segment is the last one.
pub(crate) fn check_parts<E: From<SpiffeError>>(
    text: &str,
    segment: impl Fn(&str, bool) -> Result<(), E>,
) -> Result<(), E> {
    if text.len() > MAX_LENGTH {
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
    if text.len() > MAX_TRUST_DOMAIN_LENGTH {
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
    fn valid_spiffe_ids_are_accepted() {
        for id in [
            "spiffe://example.org",
            "spiffe://example.org/ns/prod/sa/orders",
            "spiffe://td_1-a.b/A/b.C_d-9/...",
            "spiffe://1.2.3.4/x",
        ] {
            assert_eq!(check(id), Ok(()), "{id}");
        }
    }

    /// Modified SPIFFE IDs: threat 12 in `docs/threats.md`.
    #[test]
    fn invalid_spiffe_ids_are_refused() {
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
    fn scheme_is_recognized_in_any_case() {
        for uri in ["spiffe://td", "SPIFFE:x", "sPiFfE:"] {
            assert!(has_spiffe_scheme(uri), "{uri}");
        }
        for uri in ["spiffe", "https://spiffe:1", "", "spiff\u{e9}:"] {
            assert!(!has_spiffe_scheme(uri), "{uri}");
        }
    }

    proptest! {
        /// Compares [`check`] with a second implementation.
        #[test]
        fn both_implementations_agree(text in "(spiffe://|SPIFFE://|spiffe:/)?[a-zA-B./?%:@ _-]{0,20}") {
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
