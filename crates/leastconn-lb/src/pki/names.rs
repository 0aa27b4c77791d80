//! Checks names of certificates and files.
//!
//! The checks are stricter than X.509: a name that the balancer would refuse, such as one with
//! control characters, is rejected when the certificate is issued.

use std::net::IpAddr;

use rcgen::SanType;
use rustls::pki_types::DnsName;

use super::{Leaf, PkiError, Usage};

/// Maximum length of a common name (RFC 5280, appendix A: `ub-common-name`).
const MAX_CN: usize = 64;
/// Maximum length of a URI in bytes. The SPIFFE-ID specification, section 2.3, sets this limit.
const MAX_URI: usize = 2048;

fn refuse(kind: &'static str, value: &str, reason: impl Into<String>) -> PkiError {
    PkiError::Name {
        kind,
        value: value.to_owned(),
        reason: reason.into(),
    }
}

pub(super) fn validate_cn(cn: &str) -> Result<(), PkiError> {
    let refuse = |reason: &str| Err(refuse("the common name", cn, reason));
    if cn.trim().is_empty() {
        return refuse("it is empty");
    }
    if cn.trim() != cn {
        return refuse("it starts or ends with a space");
    }
    if cn.chars().count() > MAX_CN {
        return refuse("it is longer than 64 characters");
    }
    if cn.chars().any(char::is_control) {
        return refuse("it contains a control character");
    }
    Ok(())
}

/// Checks a DNS name, which may start with `*.`.
pub(super) fn validate_dns(name: &str) -> Result<(), PkiError> {
    let refuse = |reason: &str| Err(refuse("the DNS name", name, reason));
    if !name.is_ascii() {
        return refuse("it is not ASCII: use the xn-- form of international names");
    }
    if name.parse::<IpAddr>().is_ok() {
        return refuse("it is an IP address: use --ip");
    }
    if name.ends_with('.') {
        return refuse("it ends with a dot: remove it");
    }
    let host = name.strip_prefix("*.").unwrap_or(name);
    if host.contains('*') {
        return refuse("a wildcard must be the whole first label, as in *.example.com");
    }
    if DnsName::try_from(host).is_err() {
        return refuse(
            "it is not a DNS name (letters, digits and hyphens; labels of 1 to 63 characters)",
        );
    }
    Ok(())
}

/// Checks a URI. A SPIFFE ID must also follow the stricter rules of its specification.
pub(super) fn validate_uri(uri: &str) -> Result<(), PkiError> {
    let refuse = |reason: &str| Err(refuse("the URI", uri, reason));
    if uri.len() > MAX_URI {
        return refuse("it is longer than 2048 bytes");
    }
    let allowed = |b: u8| b.is_ascii_graphic() && !br#"<>"{}|\^`"#.contains(&b);
    if !uri.bytes().all(allowed) {
        return refuse("it contains characters that must be percent-encoded");
    }
    if uri
        .split('%')
        .skip(1)
        .any(|rest| rest.len() < 2 || !rest.as_bytes()[..2].iter().all(u8::is_ascii_hexdigit))
    {
        return refuse("a % must be followed by two hexadecimal digits");
    }
    let Some((scheme, rest)) = uri.split_once(':') else {
        return refuse("it has no scheme, as in spiffe://example.com/service");
    };
    let scheme_ok = scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && scheme
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b));
    if !scheme_ok || rest.is_empty() {
        return refuse("it has no scheme, as in spiffe://example.com/service");
    }
    if scheme.eq_ignore_ascii_case("spiffe")
        && let Err(reason) = check_spiffe(uri)
    {
        return refuse(reason);
    }
    Ok(())
}

/// Checks that the balancer accepts these URIs in one certificate.
pub(super) fn validate_together(uris: &[String]) -> Result<(), PkiError> {
    let is_spiffe = |uri: &&String| {
        let scheme = uri.split(':').next().unwrap_or_default();
        scheme.eq_ignore_ascii_case("spiffe")
    };
    match uris.iter().find(is_spiffe) {
        Some(id) if uris.len() > 1 => Err(refuse(
            "the URI",
            id,
            "a SPIFFE ID must be the only URI of its certificate: issue one certificate for each",
        )),
        _ => Ok(()),
    }
}

/// Returns the common name as an alternative name if a server certificate has no alternative
/// names. Clients compare a server's name only with the alternative names.
pub(super) fn server_name(leaf: &Leaf) -> Result<Option<SanType>, PkiError> {
    let has_names = !leaf.dns.is_empty() || !leaf.uris.is_empty() || !leaf.ips.is_empty();
    if has_names || leaf.usage == Usage::Client {
        return Ok(None);
    }
    if let Ok(address) = leaf.cn.parse() {
        return Ok(Some(SanType::IpAddress(address)));
    }
    if validate_dns(&leaf.cn).is_ok() {
        return Ok(Some(SanType::DnsName(leaf.cn.as_str().try_into()?)));
    }
    if leaf.usage == Usage::Both {
        return Ok(None);
    }
    Err(refuse(
        "the common name",
        &leaf.cn,
        "it is not a DNS name, and clients check only the alternative names of a server: add \
         --dns NAME or --ip ADDRESS",
    ))
}

fn check_spiffe(uri: &str) -> Result<(), &'static str> {
    let rest = uri
        .strip_prefix("spiffe://")
        .ok_or("a SPIFFE ID starts with spiffe:// in lower case")?;
    let (domain, path) = match rest.split_once('/') {
        Some((domain, path)) => (domain, Some(path)),
        None => (rest, None),
    };
    let domain_ok = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-._".contains(&b);
    if domain.is_empty() || !domain.bytes().all(domain_ok) {
        return Err("a SPIFFE trust domain consists of lower-case letters, digits, dots, - and _");
    }
    let segment_ok = |s: &str| {
        !matches!(s, "" | "." | "..")
            && s.bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b))
    };
    if path.is_some_and(|path| !path.split('/').all(segment_ok)) {
        return Err(
            "a SPIFFE path has segments of letters, digits, ., - and _; none is empty, . or ..",
        );
    }
    Ok(())
}

/// Derives a file name without extension from a common name: without path separators,
/// leading dots and characters that are special in a shell.
///
/// # Errors
/// [`PkiError::Name`] if the result is empty or `ca`.
pub fn file_stem(cn: &str) -> Result<String, PkiError> {
    let stem: String = cn
        .chars()
        .map(|c| {
            if c.is_alphanumeric() || ".-_@".contains(c) {
                c
            } else {
                '_'
            }
        })
        .collect();
    // Programs would parse a leading hyphen as an option.
    let stem = stem.trim_start_matches(['.', '-']);
    if stem.is_empty() {
        return Err(refuse(
            "the common name",
            cn,
            "it yields no file name: use --out NAME",
        ));
    }
    validate_stem(stem)?;
    Ok(stem.to_owned())
}

/// Checks a file name given with `--out`.
///
/// # Errors
/// [`PkiError::Name`] if `stem` is the name of a hidden file, contains a path, or is `ca`, the
/// name of the CA's own files.
pub fn validate_stem(stem: &str) -> Result<(), PkiError> {
    let refuse = |reason: &str| Err(refuse("the file name", stem, reason));
    if stem.is_empty() || stem.starts_with(['.', '-']) {
        return refuse("it is empty, or starts with a dot or hyphen");
    }
    if stem.contains(['/', '\\']) || stem.chars().any(char::is_control) {
        return refuse("it must be a plain name, without a path");
    }
    // On a case-insensitive file system, `CA.crt` would replace `ca.crt`.
    if stem.eq_ignore_ascii_case("ca") {
        return refuse("ca.crt and ca.key are the files of the CA: use --out NAME");
    }
    Ok(())
}
