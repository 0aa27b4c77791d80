//! Name constraints (RFC 5280, section 4.2.1.10) for directory names, e-mail addresses and
//! URIs. rustls-webpki checks only constraints for DNS names and IP addresses. This module
//! also applies constraints for DNS names to common names, which rustls-webpki does not.

use x509_parser::{
    certificate::X509Certificate,
    der_parser::asn1_rs::{Any, FromDer as _, Tag},
    oid_registry::{
        OID_PKCS9_EMAIL_ADDRESS, OID_X509_COMMON_NAME, OID_X509_EXT_NAME_CONSTRAINTS,
        OID_X509_EXT_SUBJECT_ALT_NAME,
    },
};

use crate::{der, distinguished_name};

const NAME_CONSTRAINTS: u8 = 0x30;

/// A kind of name, identified by its tag number in `GeneralName`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct NameKind(u32);

impl NameKind {
    const MAIL: Self = Self(1);
    const DNS: Self = Self(2);
    const DIRECTORY: Self = Self(4);
    const URI: Self = Self(6);
    const IP: Self = Self(7);
    /// A common name that looks like a DNS name. Not a kind of `GeneralName`.
    const COMMON_NAME: Self = Self(u32::MAX);

    /// The name of the kind, in the plural.
    pub const fn name(self) -> &'static str {
        match self.0 {
            0 => "other names (otherName)",
            1 => "e-mail addresses",
            2 => "DNS names",
            3 => "X.400 addresses",
            4 => "directory names",
            5 => "EDI party names",
            6 => "URIs",
            7 => "IP addresses",
            8 => "registered IDs",
            u32::MAX => "common name (checked as a DNS name)",
            _ => "names of an unknown kind",
        }
    }

    /// Whether a certificate has an alternative name of this kind.
    pub fn is_in(self, certificate: &X509Certificate<'_>) -> bool {
        let extension = certificate.get_extension_unique(&OID_X509_EXT_SUBJECT_ALT_NAME);
        let Ok(Some(extension)) = extension else {
            return false;
        };
        let Ok((_, list)) = Any::from_der(extension.value) else {
            return false;
        };
        let mut rest = list.data;
        while let Ok((after, name)) = Any::from_der(rest) {
            if name.tag().0 == self.0 {
                return true;
            }
            rest = after;
        }
        false
    }

    /// Whether [`Constraints::forbids`] checks names of this kind.
    pub const fn is_checked_here(self) -> bool {
        matches!(self.0, 1 | 4 | 6)
    }

    /// Whether this module or rustls-webpki checks names of this kind.
    pub const fn is_checked(self) -> bool {
        self.is_checked_here() || matches!(self.0, 2 | 7)
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Constraints {
    permitted: Vec<(NameKind, Vec<u8>)>,
    excluded: Vec<(NameKind, Vec<u8>)>,
    /// Constraints for DNS names and IP addresses, which rustls-webpki checks.
    other_permitted: Vec<(NameKind, Vec<u8>)>,
    other_excluded: Vec<(NameKind, Vec<u8>)>,
    /// The constrained kinds of names, each once.
    kinds: Vec<NameKind>,
    /// The content of the extension for rustls-webpki, without the constraints that this
    /// module checks. `None` if no constraints are left.
    pub rest: Option<Vec<u8>>,
}

impl Constraints {
    /// The constraints of a certificate. Also returns `None` if they are malformed, because
    /// rustls-webpki then refuses the certificate.
    pub fn of(certificate: &X509Certificate<'_>) -> Option<Self> {
        let extension = certificate.get_extension_unique(&OID_X509_EXT_NAME_CONSTRAINTS);
        let extension = extension.ok()??;
        let (rest, sequence) = Any::from_der(extension.value).ok()?;
        if !rest.is_empty() || sequence.tag() != Tag::Sequence {
            return None;
        }
        let mut constraints = Self::default();
        let mut kept = Vec::new();
        let mut content = sequence.data;
        while !content.is_empty() {
            let (after, list) = Any::from_der(content).ok()?;
            let (into, others) = match list.tag().0 {
                0 => (&mut constraints.permitted, &mut constraints.other_permitted),
                1 => (&mut constraints.excluded, &mut constraints.other_excluded),
                _ => return None,
            };
            let mut left = Vec::new();
            let mut trees = list.data;
            while !trees.is_empty() {
                let (after, tree) = Any::from_der(trees).ok()?;
                let whole = &trees[..trees.len() - after.len()];
                let (more, base) = Any::from_der(tree.data).ok()?;
                let kind = NameKind(base.tag().0);
                if !constraints.kinds.contains(&kind) {
                    constraints.kinds.push(kind);
                }
                // RFC 5280 forbids `minimum` and `maximum`. Leave constraints with these
                // fields to rustls-webpki, which refuses them.
                if kind.is_checked_here() && more.is_empty() {
                    into.push((kind, base.data.to_vec()));
                } else {
                    if matches!(kind, NameKind::DNS | NameKind::IP) {
                        others.push((kind, base.data.to_vec()));
                    }
                    left.extend_from_slice(whole);
                }
                trees = after;
            }
            if !left.is_empty() {
                kept.extend(der::encode(0xa0 | u8::try_from(list.tag().0).ok()?, &left));
            }
            content = after;
        }
        constraints.kinds.sort_unstable();
        constraints.rest = (!kept.is_empty()).then_some(kept);
        Some(constraints)
    }

    /// The encoded value of [`Self::rest`].
    pub fn rest_as_extension(&self) -> Option<Vec<u8>> {
        self.rest
            .as_ref()
            .map(|rest| der::encode(NAME_CONSTRAINTS, rest))
    }

    /// Whether there are constraints that this module checks.
    pub fn has_own(&self) -> bool {
        !self.permitted.is_empty() || !self.excluded.is_empty()
    }

    /// The constrained kinds of names, each once.
    pub fn kinds(&self) -> &[NameKind] {
        &self.kinds
    }

    /// The kind of the first name that is forbidden by a constraint that this module
    /// checks. If the names cannot be read, returns a constrained kind, because names of this
    /// kind may be hidden.
    pub fn forbids(&self, certificate: &X509Certificate<'_>) -> Option<NameKind> {
        if !self.has_own() {
            return None;
        }
        let Some(names) = names_of(certificate) else {
            let mut own = self.permitted.iter().chain(&self.excluded);
            return own.next().map(|(kind, _)| *kind);
        };
        let is_forbidden = |(kind, name): &(NameKind, Vec<u8>)| {
            is_forbidden(*kind, name, &self.permitted, &self.excluded)
        };
        names.into_iter().find(is_forbidden).map(|(kind, _)| kind)
    }

    /// Applies constraints for DNS names to the common name of the peer's own certificate,
    /// if the common name looks like a DNS name and the certificate has no DNS names. This
    /// is necessary because rules use common names as identities. OpenSSL does the same.
    pub fn forbids_common_name(&self, own: &X509Certificate<'_>) -> Option<NameKind> {
        let of = |list: &[(NameKind, Vec<u8>)]| list.iter().any(|(kind, _)| *kind == NameKind::DNS);
        let is_constrained = of(&self.other_permitted) || of(&self.other_excluded);
        if !is_constrained || NameKind::DNS.is_in(own) {
            return None;
        }
        let mut texts = own
            .subject()
            .iter_attributes()
            .filter(|attribute| *attribute.attr_type() == OID_X509_COMMON_NAME)
            .filter_map(|attribute| distinguished_name::decode(attribute.attr_value()));
        let is_forbidden = |text: String| {
            looks_like_dns_name(&text)
                && is_forbidden(
                    NameKind::DNS,
                    text.as_bytes(),
                    &self.other_permitted,
                    &self.other_excluded,
                )
        };
        texts.any(is_forbidden).then_some(NameKind::COMMON_NAME)
    }

    /// The kind of the first name that rustls-webpki forbids, for messages.
    pub fn forbids_other(&self, certificate: &X509Certificate<'_>) -> Option<NameKind> {
        let names = alternative_names(certificate, |kind| {
            matches!(kind, NameKind::DNS | NameKind::IP)
        })?;
        let is_forbidden = |(kind, name): &(NameKind, Vec<u8>)| {
            is_forbidden(*kind, name, &self.other_permitted, &self.other_excluded)
        };
        names.into_iter().find(is_forbidden).map(|(kind, _)| kind)
    }
}

/// Whether a name is excluded, is outside the permitted subtrees of its kind, or is
/// malformed although its kind is constrained.
fn is_forbidden(
    kind: NameKind,
    name: &[u8],
    permitted: &[(NameKind, Vec<u8>)],
    excluded: &[(NameKind, Vec<u8>)],
) -> bool {
    let of_kind = |list: &[(NameKind, Vec<u8>)]| -> Vec<bool> {
        list.iter()
            .filter(|(of, _)| *of == kind)
            .map(|(_, base)| matches(kind, name, base))
            .collect()
    };
    let permitted = of_kind(permitted);
    let excluded = of_kind(excluded);
    let is_constrained = !permitted.is_empty() || !excluded.is_empty();
    (is_constrained && !is_well_formed(kind, name))
        || excluded.contains(&true)
        || (!permitted.is_empty() && !permitted.contains(&true))
}

/// Whether OpenSSL treats a common name as a DNS name: labels of letters, digits, `_` and
/// inner `-`, with at least one dot. Trailing NUL characters are ignored.
fn looks_like_dns_name(text: &str) -> bool {
    let text = text.trim_end_matches('\0');
    let is_label = |label: &str| {
        !label.is_empty()
            && !label.ends_with('-')
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
    };
    text.contains('.') && !text.starts_with('-') && text.split('.').all(is_label)
}

/// The names in a certificate that this module checks. Returns `None` if the names are
/// malformed.
fn names_of(certificate: &X509Certificate<'_>) -> Option<Vec<(NameKind, Vec<u8>)>> {
    let mut all = Vec::new();
    let subject = certificate.subject();
    if subject.iter_rdn().next().is_some() {
        all.push((NameKind::DIRECTORY, subject.as_raw().to_vec()));
    }
    for attribute in subject.iter_attributes() {
        if *attribute.attr_type() == OID_PKCS9_EMAIL_ADDRESS {
            // Replace an e-mail address that cannot be decoded with an empty address, which is
            // forbidden.
            let text = distinguished_name::decode(attribute.attr_value()).unwrap_or_default();
            all.push((NameKind::MAIL, text.into_bytes()));
        }
    }
    all.extend(alternative_names(certificate, NameKind::is_checked_here)?);
    Some(all)
}

/// The alternative names of the wanted kinds. Returns `None` if the extension is malformed or
/// occurs twice.
fn alternative_names(
    certificate: &X509Certificate<'_>,
    is_wanted: fn(NameKind) -> bool,
) -> Option<Vec<(NameKind, Vec<u8>)>> {
    let mut all = Vec::new();
    let extension = certificate.get_extension_unique(&OID_X509_EXT_SUBJECT_ALT_NAME);
    if let Some(extension) = extension.ok()? {
        let (trailing, list) = Any::from_der(extension.value).ok()?;
        if !trailing.is_empty() {
            return None;
        }
        let mut rest = list.data;
        while !rest.is_empty() {
            let (after, name) = Any::from_der(rest).ok()?;
            let kind = NameKind(name.tag().0);
            if is_wanted(kind) {
                all.push((kind, name.data.to_vec()));
            }
            rest = after;
        }
    }
    Some(all)
}

fn is_well_formed(kind: NameKind, name: &[u8]) -> bool {
    match kind {
        NameKind::DIRECTORY | NameKind::DNS | NameKind::IP => true,
        NameKind::MAIL => mailbox(name).is_some(),
        NameKind::URI => host_of(name).is_some(),
        _ => false,
    }
}

fn matches(kind: NameKind, name: &[u8], base: &[u8]) -> bool {
    match kind {
        NameKind::DIRECTORY => is_below(name, base),
        NameKind::MAIL => mail_matches(name, base),
        NameKind::DNS => dns_matches(name, base),
        NameKind::IP => ip_matches(name, base),
        NameKind::URI => host_of(name).is_some_and(|host| {
            std::str::from_utf8(base).is_ok_and(|base| host_matches(&host, base))
        }),
        _ => false,
    }
}

/// Whether `name` starts with the relative names of `base`.
fn is_below(name: &[u8], base: &[u8]) -> bool {
    let (Some(name), Some(base)) = (
        distinguished_name::canonical_rdns(name),
        distinguished_name::canonical_rdns(base),
    ) else {
        return false;
    };
    name.starts_with(&base)
}

fn mailbox(name: &[u8]) -> Option<(&str, &str)> {
    let (local, host) = std::str::from_utf8(name).ok()?.rsplit_once('@')?;
    (!local.is_empty() && !host.is_empty()).then_some((local, host))
}

fn mail_matches(name: &[u8], base: &[u8]) -> bool {
    let (Some((local, host)), Ok(base)) = (mailbox(name), std::str::from_utf8(base)) else {
        return false;
    };
    match base.rsplit_once('@') {
        Some((base_local, base_host)) => {
            local == base_local && host.eq_ignore_ascii_case(base_host)
        }
        None => host_matches(host, base),
    }
}

/// A base matches itself and all names below it. A base with a leading dot matches only names
/// below it. An empty base matches all names.
fn dns_matches(name: &[u8], base: &[u8]) -> bool {
    let Some(above) = name.len().checked_sub(base.len()) else {
        return false;
    };
    let (prefix, end) = name.split_at(above);
    let at_label = prefix.is_empty() || base.starts_with(b".") || prefix.ends_with(b".");
    base.is_empty() || (end.eq_ignore_ascii_case(base) && at_label)
}

/// `base` is an address followed by a mask.
fn ip_matches(name: &[u8], base: &[u8]) -> bool {
    if base.len() != 2 * name.len() {
        return false;
    }
    let (address, mask) = base.split_at(name.len());
    let bytes = name.iter().zip(address).zip(mask);
    bytes
        .into_iter()
        .all(|((name, address), mask)| name & mask == address & mask)
}

/// A base with a leading dot matches all names below it. A base without a leading dot matches
/// only itself.
fn host_matches(host: &str, base: &str) -> bool {
    let (host, base) = (host.to_ascii_lowercase(), base.to_ascii_lowercase());
    if base.starts_with('.') {
        host.len() > base.len() && host.ends_with(&base)
    } else {
        host == base
    }
}

/// The host of a URI, if it is a DNS name.
fn host_of(uri: &[u8]) -> Option<String> {
    let (_, rest) = std::str::from_utf8(uri).ok()?.split_once("://")?;
    let authority = rest.split(['/', '?', '#']).next()?;
    let host = authority.rsplit('@').next()?;
    let host = match host.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        _ => host,
    };
    let is_name = !host.is_empty()
        && !host.starts_with(['.', '['])
        && host.parse::<std::net::Ipv4Addr>().is_err()
        && host
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte));
    is_name.then(|| host.to_owned())
}
