//! URIs that patterns with wildcards can match. The path of such a URI has segments that
//! every URI parser reads in the same way.
//!
//! This module does not decode, resolve or normalize URIs, but other parsers do. Therefore
//! `*` must not match parts such as `..`, `%2F` and `a?b`, which some parsers read as one
//! segment and others do not. A URI with such a part matches only a pattern without
//! wildcards.
//!
//! Source: RFC 3986, sections 2.1 to 2.3 (characters), 3.2 and 3.3 (authority, path).

/// The reason why no pattern with wildcards can match a URI.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NotPlain {
    /// The URI does not have the form `scheme://authority/path`.
    #[error("`*` matches a segment of a path: the URI must begin like `https://example.org/`")]
    NoAuthority,
    /// A character that is not allowed in authorities.
    #[error("with a `*`, the authority of a URI cannot contain {0:?}")]
    Authority(char),
    /// An empty segment: `//`, or a `/` at the end.
    #[error("with a `*`, a URI cannot have empty segments or a `/` at its end")]
    EmptySegment,
    /// A segment `.` or `..`, possibly with parameters.
    #[error("with a `*`, a URI cannot have segments `.` or `..`")]
    DotSegment,
    /// A query, a fragment, or a character that is not allowed in paths.
    #[error("with a `*`, a URI cannot have a query or a fragment, or {0:?} in its path")]
    Path(char),
    /// A percent-encoding that is unnecessary, is not UTF-8, or encodes a delimiter.
    #[error(
        "with a `*`, a URI can use percent-encoding only for characters that need it, in UTF-8, \
         and not for `/`, `\\`, `?`, `#`, `%`, `*` or control characters"
    )]
    Escape,
}

/// Checks that wildcards can match parts of a URI.
pub(super) fn check(uri: &str) -> Result<(), NotPlain> {
    check_parts(uri, |segment, _| check_segment(segment))
}

/// Like [`check`], but checks each path segment with `segment`. Its arguments are the segment
/// and whether the segment is the last one.
pub(super) fn check_parts<E: From<NotPlain>>(
    uri: &str,
    segment: impl Fn(&str, bool) -> Result<(), E>,
) -> Result<(), E> {
    // Split at the first colon: `urn:a://b/c` has no authority.
    let (_, rest) = uri.split_once(':').ok_or(NotPlain::NoAuthority)?;
    let rest = rest.strip_prefix("//").ok_or(NotPlain::NoAuthority)?;
    let (authority, path) = rest.split_once('/').ok_or(NotPlain::NoAuthority)?;
    check_authority(authority)?;
    let mut parts = path.split('/').peekable();
    while let Some(part) = parts.next() {
        segment(part, parts.peek().is_none())?;
    }
    Ok(())
}

/// Checks the authority of a URI. Its structure does not matter, because wildcards match only
/// path segments. It must not be empty: some parsers read `a` in `https:///a` as the host.
fn check_authority(text: &str) -> Result<(), NotPlain> {
    if text.is_empty() {
        return Err(NotPlain::NoAuthority);
    }
    let good = |c: char| is_plain(c) || matches!(c, '[' | ']' | '%');
    match text.chars().find(|&c| !good(c)) {
        Some(character) => Err(NotPlain::Authority(character)),
        None => Ok(()),
    }
}

pub(super) fn check_segment(text: &str) -> Result<(), NotPlain> {
    if text.is_empty() {
        return Err(NotPlain::EmptySegment);
    }
    // Some parsers strip parameters after a `;`, and read `..;a` as `..`.
    if let Some("" | "." | "..") = text.split(';').next() {
        return Err(NotPlain::DotSegment);
    }
    let mut pieces = text.split('%');
    let first = pieces.next().unwrap_or_default();
    check_plain(first)?;
    let mut decoded = first.as_bytes().to_vec();
    for piece in pieces {
        let escaped = piece.get(..2).ok_or(NotPlain::Escape)?;
        let plain = &piece[2..];
        decoded.push(check_escape(escaped)?);
        check_plain(plain)?;
        decoded.extend_from_slice(plain.as_bytes());
    }
    // Parsers that accept overlong UTF-8 read `%C0%AF` as `/`.
    match std::str::from_utf8(&decoded) {
        Ok(_) => Ok(()),
        Err(_) => Err(NotPlain::Escape),
    }
}

fn check_plain(text: &str) -> Result<(), NotPlain> {
    match text.chars().find(|&c| !is_plain(c)) {
        Some(character) => Err(NotPlain::Path(character)),
        None => Ok(()),
    }
}

/// The byte that a percent-encoding encodes.
fn check_escape(digits: &str) -> Result<u8, NotPlain> {
    if !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return Err(NotPlain::Escape);
    }
    match u8::from_str_radix(digits, 16) {
        Ok(b'/' | b'\\' | b'?' | b'#' | b'%' | b'*') | Err(_) => Err(NotPlain::Escape),
        Ok(byte) if byte.is_ascii_control() || is_unreserved(byte.into()) => Err(NotPlain::Escape),
        Ok(byte) => Ok(byte),
    }
}

/// Whether a path segment can contain this character without percent-encoding. Returns
/// `false` for `*`.
const fn is_plain(c: char) -> bool {
    is_unreserved(c)
        || matches!(
            c,
            '!' | '$' | '&' | '\'' | '(' | ')' | '+' | ',' | ';' | '=' | ':' | '@'
        )
}

const fn is_unreserved(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_' | '~')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn unambiguous_uris_are_plain() {
        for uri in [
            "https://example.org/a",
            "HTTPS://Example.org:8443/a/B",
            "x-y+z.1://user@[::1]:1/a.b/~c/...",
            "https://a/b;v=1/!$&'()+,;=:@",
            "https://a/%20/%C3%BC%40/%3B",
        ] {
            assert_eq!(check(uri), Ok(()), "{uri}");
        }
    }

    /// Modified URIs that are not SPIFFE IDs: threat 12a in `docs/threats.md`.
    #[test]
    fn ambiguous_uris_are_not_plain() {
        use NotPlain::{Authority, DotSegment, EmptySegment, Escape, NoAuthority, Path};
        for (uri, error) in [
            ("urn:a/b", NoAuthority),
            ("urn:a://b/c", NoAuthority),
            ("https:/a/b", NoAuthority),
            ("https://a", NoAuthority),
            ("https:///a", NoAuthority),
            ("https://a?b/c", Authority('?')),
            ("https://a#b/c", Authority('#')),
            ("https://a\\b/c", Authority('\\')),
            ("https://*/c", Authority('*')),
            ("https://a/", EmptySegment),
            ("https://a//b", EmptySegment),
            ("https://a/b/", EmptySegment),
            ("https://a/./b", DotSegment),
            ("https://a/b/..", DotSegment),
            ("https://a/..;b/c", DotSegment),
            ("https://a/;b", DotSegment),
            ("https://a/b?c", Path('?')),
            ("https://a/b#c", Path('#')),
            ("https://a/b\\c", Path('\\')),
            ("https://a/*", Path('*')),
            ("https://a/%20*", Path('*')),
            ("https://a/b c", Path(' ')),
            ("https://a/\u{fc}", Path('\u{fc}')),
            ("https://a/%2F", Escape),
            ("https://a/b%2fc", Escape),
            ("https://a/%5c", Escape),
            ("https://a/%2e%2E", Escape),
            ("https://a/%61", Escape),
            ("https://a/%25", Escape),
            ("https://a/%2A", Escape),
            ("https://a/%3f", Escape),
            ("https://a/%23", Escape),
            ("https://a/%00", Escape),
            ("https://a/%0a", Escape),
            ("https://a/%", Escape),
            ("https://a/%2", Escape),
            ("https://a/%+1", Escape),
            ("https://a/%u0041", Escape),
            ("https://a/%\u{fc}", Escape),
            ("https://a/b%C0%AFc", Escape),
            ("https://a/%c0%ae%c0%ae/b", Escape),
            ("https://a/%FC", Escape),
        ] {
            assert_eq!(check(uri), Err(error), "{uri}");
        }
    }

    proptest! {
        /// Compares the segments with those of a parser that decodes percent-encodings.
        #[test]
        fn decoding_does_not_change_segments(
            path in "([ab./;?#*\\\\]|%2[0-9a-fA-F]|%[0-9a-f]{2}|%){1,12}",
        ) {
            let uri = format!("https://a/{path}");
            if check(&uri).is_ok() {
                let decoded = decoded(path.as_bytes());
                let segments: Vec<_> = decoded.split(|&b| b == b'/' || b == b'\\').collect();
                prop_assert_eq!(segments.len(), path.split('/').count());
                for segment in segments {
                    prop_assert!(![&b""[..], b".", b".."].contains(&segment), "{uri}");
                    prop_assert!(std::str::from_utf8(segment).is_ok(), "{uri}");
                }
                prop_assert_eq!(self::decoded(&decoded), decoded);
            }
        }
    }

    fn decoded(text: &[u8]) -> Vec<u8> {
        match text {
            [b'%', high, low, rest @ ..] if [high, low].iter().all(|d| d.is_ascii_hexdigit()) => {
                let digits = [*high, *low];
                let byte = u8::from_str_radix(std::str::from_utf8(&digits).unwrap(), 16).unwrap();
                [vec![byte], decoded(rest)].concat()
            }
            [byte, rest @ ..] => [vec![*byte], decoded(rest)].concat(),
            [] => Vec::new(),
        }
    }
}
