//! Name constraints (RFC 5280, section 4.2.1.10) for directory names, e-mail addresses
//! and URIs, which rustls-webpki does not check. It checks those for DNS names and IP
//! addresses.

use x509_parser::{
    certificate::X509Certificate,
    der_parser::asn1_rs::{Any, FromDer as _, Tag},
    oid_registry::{
        OID_PKCS9_EMAIL_ADDRESS, OID_X509_EXT_NAME_CONSTRAINTS, OID_X509_EXT_SUBJECT_ALT_NAME,
    },
};

use crate::names;

const NAME_CONSTRAINTS: u8 = 0x30;

/// A kind of name, by the number of its tag in `GeneralName`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct NameKind(u32);

impl NameKind {
    const MAIL: Self = Self(1);
    const DIRECTORY: Self = Self(4);
    const URI: Self = Self(6);

    /// In the plural.
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

    /// Whether it is checked here.
    pub const fn is_checked_here(self) -> bool {
        matches!(self.0, 1 | 4 | 6)
    }

    /// Whether it can be checked, here or by rustls-webpki.
    pub const fn is_checked(self) -> bool {
        self.is_checked_here() || matches!(self.0, 2 | 7)
    }
}

/// The constraints of one authority.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Constraints {
    permitted: Vec<(NameKind, Vec<u8>)>,
    excluded: Vec<(NameKind, Vec<u8>)>,
    /// All kinds that it constrains, each once.
    kinds: Vec<NameKind>,
    /// The extension's content without what is checked here, for rustls-webpki; `None`:
    /// nothing is left.
    pub rest: Option<Vec<u8>>,
}

impl Constraints {
    /// Those of a certificate, if it has any that can be read. What cannot be read is left
    /// to rustls-webpki, which refuses it.
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
            let into = match list.tag().0 {
                0 => &mut constraints.permitted,
                1 => &mut constraints.excluded,
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
                // With `minimum` or `maximum`, which RFC 5280 forbids, it is refused.
                if kind.is_checked_here() && more.is_empty() {
                    into.push((kind, base.data.to_vec()));
                } else {
                    left.extend_from_slice(whole);
                }
                trees = after;
            }
            if !left.is_empty() {
                kept.extend(names::tlv(0xa0 | u8::try_from(list.tag().0).ok()?, &left));
            }
            content = after;
        }
        constraints.kinds.sort_unstable();
        constraints.rest = (!kept.is_empty()).then_some(kept);
        Some(constraints)
    }

    /// The extension's value without what is checked here.
    pub fn rest_as_extension(&self) -> Option<Vec<u8>> {
        self.rest
            .as_ref()
            .map(|rest| names::tlv(NAME_CONSTRAINTS, rest))
    }

    /// Whether there are any that are checked here.
    pub fn has_own(&self) -> bool {
        !self.permitted.is_empty() || !self.excluded.is_empty()
    }

    /// All kinds that are constrained.
    pub fn kinds(&self) -> &[NameKind] {
        &self.kinds
    }

    /// The kind of the first name that is not allowed.
    pub fn forbids(&self, certificate: &X509Certificate<'_>) -> Option<NameKind> {
        if !self.has_own() {
            return None;
        }
        let names = names_of(certificate)?;
        let forbidden = names.into_iter().find(|(kind, name)| {
            let of_kind = |list: &[(NameKind, Vec<u8>)]| -> Vec<bool> {
                list.iter()
                    .filter(|(of, _)| of == kind)
                    .map(|(_, base)| matches(*kind, name, base))
                    .collect()
            };
            let permitted = of_kind(&self.permitted);
            let excluded = of_kind(&self.excluded);
            let is_constrained = !permitted.is_empty() || !excluded.is_empty();
            (is_constrained && !is_well_formed(*kind, name))
                || excluded.contains(&true)
                || (!permitted.is_empty() && !permitted.contains(&true))
        });
        forbidden.map(|(kind, _)| kind)
    }
}

/// The names of a certificate that are checked here. `None` never occurs for one that
/// rustls-webpki has parsed; it stands for "nothing to check".
fn names_of(certificate: &X509Certificate<'_>) -> Option<Vec<(NameKind, Vec<u8>)>> {
    let mut all = Vec::new();
    let subject = certificate.subject();
    if subject.iter_rdn().next().is_some() {
        all.push((NameKind::DIRECTORY, subject.as_raw().to_vec()));
    }
    for attribute in subject.iter_attributes() {
        if *attribute.attr_type() == OID_PKCS9_EMAIL_ADDRESS {
            // One that cannot be read is not well-formed, and so not allowed.
            let text = names::decode(attribute.attr_value()).unwrap_or_default();
            all.push((NameKind::MAIL, text.into_bytes()));
        }
    }
    let extension = certificate.get_extension_unique(&OID_X509_EXT_SUBJECT_ALT_NAME);
    if let Ok(Some(extension)) = extension {
        let (_, list) = Any::from_der(extension.value).ok()?;
        let mut rest = list.data;
        while !rest.is_empty() {
            let (after, name) = Any::from_der(rest).ok()?;
            let kind = NameKind(name.tag().0);
            if kind.is_checked_here() {
                all.push((kind, name.data.to_vec()));
            }
            rest = after;
        }
    }
    Some(all)
}

fn is_well_formed(kind: NameKind, name: &[u8]) -> bool {
    match kind {
        NameKind::DIRECTORY => true,
        NameKind::MAIL => mailbox(name).is_some(),
        NameKind::URI => host_of(name).is_some(),
        _ => false,
    }
}

fn matches(kind: NameKind, name: &[u8], base: &[u8]) -> bool {
    match kind {
        NameKind::DIRECTORY => is_below(name, base),
        NameKind::MAIL => mail_matches(name, base),
        NameKind::URI => host_of(name).is_some_and(|host| {
            std::str::from_utf8(base).is_ok_and(|base| host_matches(&host, base))
        }),
        _ => false,
    }
}

/// Whether the relative names of `base` are the first of `name`.
fn is_below(name: &[u8], base: &[u8]) -> bool {
    let (Some(name), Some(base)) = (names::canonical_rdns(name), names::canonical_rdns(base))
    else {
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

/// A base with a leading dot stands for all names below it, one without for itself.
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
