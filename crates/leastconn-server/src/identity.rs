//! Who a client is: what its certificate says, read strictly.
//!
//! Nothing is guessed. A certificate that names its owner twice, or in text
//! that could be read in two ways, is refused as a whole, whichever rule might
//! have matched one of its readings. Types never mix: a DNS name matches `dns`
//! rules only, whatever its text looks like.
//!
//! Several organizational units are no ambiguity: an owner belongs to all of them.
//! Nor are several DNS names, or several URIs, unless one of these is a SPIFFE ID,
//! which its standard has alone.
//!
//! A name of an unknown string type, or whose bytes are not of its type, is no reason to
//! refuse a client by itself: only rules that ask for that name cannot be decided.
//!
//! What is here was verified by TLS before: trusted, in time, not revoked.

use std::{
    net::{IpAddr, Ipv6Addr},
    sync::Arc,
};

use aws_lc_rs::digest::{SHA256, digest};
use leastconn::{ClientId, Reason};
use x509_parser::{
    certificate::X509Certificate, der_parser::asn1_rs::Any, extensions::GeneralName,
    oid_registry::OID_X509_EXT_SUBJECT_ALT_NAME, prelude::FromDer, x509::AttributeTypeAndValue,
};

use crate::{
    config::{IpNet, Key, Prefixes},
    names,
    spiffe::{self, SpiffeError},
};

/// Alternative names that a certificate may have, and units of its subject: each
/// is looked up in the rules. Public authorities stop at a hundred.
pub const MOST_NAMES: usize = 256;

/// What a certificate says of its owner.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Certificate {
    /// The subject's common name, if it has one.
    pub cn: Option<String>,
    /// DNS names among the subject alternative names, in their order, in lower case.
    pub dns: Vec<String>,
    /// URIs among them, in their order. What says `spiffe:` is a SPIFFE ID, and alone.
    pub uri: Vec<String>,
    /// The SHA-256 of the `SubjectPublicKeyInfo`, in hex, lower case.
    pub spki: String,
    /// The subject's organizational units, in their order.
    pub ou: Vec<String>,
    /// The issuer's common name, if it has one.
    pub issuer_cn: Option<String>,
    /// The serial number in hex, as `openssl x509 -serial` prints it.
    pub serial: String,
    /// Names that it has and that cannot be read, by the key of rules that ask for them.
    pub unreadable: Vec<(Key, Ambiguous)>,
}

/// A client, as far as it is known before any rule is looked at.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Its address.
    pub source: IpAddr,
    /// How the listener tells sources apart.
    pub prefixes: Prefixes,
    /// What it has shown; `None` where no certificate is asked for.
    pub certificate: Option<Arc<Certificate>>,
}

/// A certificate does not say one thing about who its owner is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Ambiguous {
    /// It does not parse, although TLS took it.
    #[error("the certificate does not parse")]
    Unreadable,
    /// More than one common name.
    #[error("the certificate's subject has more than one common name")]
    SeveralCommonNames,
    /// A common name that is not text.
    #[error("the certificate's common name is of a string type, or has bytes, that cannot be read")]
    UndecodableCommonName,
    /// An organizational unit that is not text.
    #[error(
        "an organizational unit of the certificate's subject is of a string type, or has bytes, \
         that cannot be read"
    )]
    UndecodableUnit,
    /// A common name that holds control characters.
    #[error("the certificate's common name is not plain text")]
    UnreadableCommonName,
    /// An organizational unit that holds control characters.
    #[error("an organizational unit of the certificate's subject is not plain text")]
    UnreadableUnit,
    /// The issuer has more than one common name, or one that is not plain text.
    #[error(
        "the certificate's issuer has more than one common name, or one that is not plain text"
    )]
    UnreadableIssuer,
    /// The same extension twice, or one that does not parse.
    #[error("the certificate's subject alternative names do not parse")]
    UnreadableAlternativeNames,
    /// A name in parts, where DER has it in one.
    #[error("an alternative name of the certificate has a constructed tag, which DER forbids")]
    ConstructedName,
    /// A DNS name that holds what no DNS name may hold.
    #[error("a DNS name in the certificate holds control or non-ASCII characters")]
    UnreadableDnsName,
    /// A URI that holds what no URI may hold.
    #[error("a URI in the certificate holds control or non-ASCII characters")]
    UnreadableUri,
    /// A URI that says `spiffe:`, and is no SPIFFE ID.
    #[error("the certificate's SPIFFE ID is none: {0}")]
    InvalidSpiffeId(SpiffeError),
    /// A SPIFFE ID, and other URIs.
    #[error("the certificate has other URIs beside a SPIFFE ID, which must be alone")]
    SeveralUris,
    /// More than [`MOST_NAMES`].
    #[error("the certificate has more than {MOST_NAMES} names")]
    TooManyNames,
}

impl Ambiguous {
    /// The stable code.
    pub const fn reason(&self) -> Reason {
        Reason::AmbiguousIdentity
    }
}

impl Certificate {
    /// Reads a certificate in DER.
    ///
    /// # Errors
    /// If it is ambiguous.
    pub fn from_der(der: &[u8]) -> Result<Self, Ambiguous> {
        let (rest, certificate) =
            X509Certificate::from_der(der).map_err(|_| Ambiguous::Unreadable)?;
        if !rest.is_empty() {
            return Err(Ambiguous::Unreadable);
        }
        let mut unreadable = Vec::new();
        let mut read = Self {
            cn: readable(Key::Cn, common_name(&certificate), &mut unreadable)?,
            ou: readable(Key::Ou, units(&certificate), &mut unreadable)?,
            issuer_cn: readable(Key::IssuerCn, issuer(&certificate), &mut unreadable)?,
            spki: spki(&certificate),
            serial: serial(certificate.raw_serial()),
            ..Self::default()
        };
        read.read_alternative_names(&certificate)?;
        read.unreadable = unreadable;
        Ok(read)
    }

    /// What it says under a key of `match`. Nothing under `source`.
    pub fn texts(&self, key: Key) -> &[String] {
        match key {
            Key::Cn => self.cn.as_slice(),
            Key::Dns => &self.dns,
            Key::Uri => &self.uri,
            Key::Spki => std::slice::from_ref(&self.spki),
            Key::Ou => &self.ou,
            Key::IssuerCn => self.issuer_cn.as_slice(),
            Key::Source => &[],
        }
    }

    /// The certificate's own best name for itself, where no rule names it: the
    /// common name, else the first DNS name, else the first URI, else its key.
    pub fn identity(&self) -> ClientId {
        let named = [Key::Cn, Key::Dns, Key::Uri].into_iter();
        let mut named = named.filter_map(|key| Some((key, self.texts(key).first()?)));
        let (key, text) = named.next().unwrap_or((Key::Spki, &self.spki));
        named_by(key, text)
    }

    fn read_alternative_names(
        &mut self,
        certificate: &X509Certificate<'_>,
    ) -> Result<(), Ambiguous> {
        let names = certificate
            .subject_alternative_name()
            .map_err(|_| Ambiguous::UnreadableAlternativeNames)?;
        let names = names.map_or(&[][..], |extension| &extension.value.general_names);
        if !has_primitive_names(certificate) {
            return Err(Ambiguous::ConstructedName);
        }
        if names.len() > MOST_NAMES {
            return Err(Ambiguous::TooManyNames);
        }
        let visible = |text: &str| text.bytes().all(|b| b.is_ascii_graphic());
        for name in names {
            match name {
                GeneralName::DNSName(name) if visible(name) => {
                    self.dns.push(name.to_ascii_lowercase());
                }
                GeneralName::DNSName(_) => return Err(Ambiguous::UnreadableDnsName),
                GeneralName::URI(uri) if visible(uri) => self.uri.push((*uri).to_owned()),
                GeneralName::URI(_) => return Err(Ambiguous::UnreadableUri),
                GeneralName::Invalid(..) => return Err(Ambiguous::UnreadableAlternativeNames),
                _ => {}
            }
        }
        if let Some(id) = self.uri.iter().find(|uri| spiffe::is_meant(uri)) {
            if self.uri.len() > 1 {
                return Err(Ambiguous::SeveralUris);
            }
            spiffe::check(id).map_err(Ambiguous::InvalidSpiffeId)?;
        }
        Ok(())
    }
}

/// The SHA-256 of a certificate's `SubjectPublicKeyInfo`, in hex, lower case.
pub fn spki(certificate: &X509Certificate<'_>) -> String {
    lower_hex(digest(&SHA256, certificate.public_key().raw).as_ref())
}

/// An identity: what it is named by, and the name.
pub fn named_by(key: Key, text: &str) -> ClientId {
    ClientId::from(format!("{}:{text}", key.as_str()))
}

impl Peer {
    /// The best name there is, for logs: the certificate's, else the address.
    pub fn identity(&self) -> ClientId {
        self.certificate
            .as_ref()
            .map_or_else(|| self.source_identity(), |shown| shown.identity())
    }

    /// The source that the address belongs to, as an identity: a network where one
    /// client has all of its addresses.
    pub fn source_identity(&self) -> ClientId {
        let source = match self.source {
            // A host, and no part of a network.
            IpAddr::V6(Ipv6Addr::LOCALHOST) => IpNet::only(self.source),
            source => IpNet::of(source, self.prefixes),
        };
        ClientId::from(format!("source:{source}"))
    }
}

/// A name, or the note that it cannot be read.
///
/// # Errors
/// If the certificate is to be refused whatever the rules ask for.
fn readable<T: Default>(
    key: Key,
    name: Result<T, Ambiguous>,
    unreadable: &mut Vec<(Key, Ambiguous)>,
) -> Result<T, Ambiguous> {
    use Ambiguous as A;
    match name {
        Err(why @ (A::UndecodableCommonName | A::UndecodableUnit | A::UnreadableIssuer)) => {
            unreadable.push((key, why));
            Ok(T::default())
        }
        name => name,
    }
}

fn common_name(certificate: &X509Certificate<'_>) -> Result<Option<String>, Ambiguous> {
    // Over all attributes of all relative names: `CN=a+CN=b` is two as well.
    let mut names = certificate.subject().iter_common_name();
    let Some(name) = names.next() else {
        return Ok(None);
    };
    if names.next().is_some() {
        return Err(Ambiguous::SeveralCommonNames);
    }
    let name = decoded(name).ok_or(Ambiguous::UndecodableCommonName)?;
    if name.chars().any(char::is_control) {
        return Err(Ambiguous::UnreadableCommonName);
    }
    Ok((!name.is_empty()).then_some(name))
}

fn units(certificate: &X509Certificate<'_>) -> Result<Vec<String>, Ambiguous> {
    let mut units = Vec::new();
    let mut undecodable = false;
    for unit in certificate.subject().iter_organizational_unit() {
        let Some(unit) = decoded(unit) else {
            undecodable = true;
            continue;
        };
        if unit.chars().any(char::is_control) {
            return Err(Ambiguous::UnreadableUnit);
        }
        if units.len() == MOST_NAMES {
            return Err(Ambiguous::TooManyNames);
        }
        units.push(unit);
    }
    if undecodable {
        return Err(Ambiguous::UndecodableUnit);
    }
    Ok(units)
}

/// An issuer that cannot be read is an error, not a name that is absent: a rule for
/// another issuer must not be tried instead.
fn issuer(certificate: &X509Certificate<'_>) -> Result<Option<String>, Ambiguous> {
    let mut names = certificate.issuer().iter_common_name();
    let Some(name) = names.next() else {
        return Ok(None);
    };
    let name =
        decoded(name).filter(|name| names.next().is_none() && !name.chars().any(char::is_control));
    Ok(Some(name.ok_or(Ambiguous::UnreadableIssuer)?))
}

fn decoded(attribute: &AttributeTypeAndValue<'_>) -> Option<String> {
    names::decode(attribute.attr_value())
}

/// Whether every alternative name that is a string, an address or an object identifier
/// has a primitive tag. The parser takes constructed ones, and others read them
/// otherwise.
fn has_primitive_names(certificate: &X509Certificate<'_>) -> bool {
    let names = certificate.get_extension_unique(&OID_X509_EXT_SUBJECT_ALT_NAME);
    let Ok(Some(names)) = names else {
        return true;
    };
    let Ok((_, list)) = Any::from_der(names.value) else {
        return false;
    };
    let mut rest = list.data;
    while !rest.is_empty() {
        let Ok((after, name)) = Any::from_der(rest) else {
            return false;
        };
        if matches!(name.tag().0, 1 | 2 | 6 | 7 | 8) && name.header.is_constructed() {
            return false;
        }
        rest = after;
    }
    true
}

/// A serial number in hex, as `openssl x509 -serial` prints it.
pub fn serial(bytes: &[u8]) -> String {
    // DER puts a zero byte before a number whose first bit is set.
    let bytes = match bytes {
        [0, rest @ ..] if !rest.is_empty() => rest,
        all => all,
    };
    let mut hex = lower_hex(bytes);
    hex.make_ascii_uppercase();
    hex
}

fn lower_hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digits = bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]);
    digits
        .map(|digit| char::from(DIGITS[usize::from(digit)]))
        .collect()
}

/// What holds of everything that was read. For the fuzz target and tests.
#[cfg(any(test, fuzzing))]
pub fn check(read: &Certificate) {
    let all = Key::TEXTS.into_iter().flat_map(|key| read.texts(key));
    for text in all.chain([&read.serial]) {
        assert!(!text.chars().any(char::is_control), "{text:?}");
    }
    for name in read.dns.iter().chain(&read.uri) {
        assert!(name.bytes().all(|b| b.is_ascii_graphic()), "{name:?}");
    }
    assert!(read.dns.len() + read.uri.len() <= MOST_NAMES);
    assert!(read.ou.len() <= MOST_NAMES);
    assert_eq!(read.spki.len(), 64);
    if let Some(id) = read.uri.iter().find(|uri| spiffe::is_meant(uri)) {
        assert_eq!((read.uri.len(), spiffe::check(id)), (1, Ok(())), "{id}");
    }
    assert!(read.identity().as_str().contains(':'));
}

/// For the fuzz target `identity`.
#[cfg(fuzzing)]
pub fn fuzz(der: &[u8]) {
    if let Ok(read) = Certificate::from_der(der) {
        check(&read);
    }
}

#[cfg(test)]
mod tests;
