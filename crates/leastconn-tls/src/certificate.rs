//! The names in a client certificate, parsed strictly.
//!
//! A certificate with two common names, or with text that can be read in two ways, is
//! refused as a whole, even if a rule matches one of the readings. Types are never mixed: a
//! DNS name matches only `dns` rules, even if its text looks like a URI.
//!
//! Several organizational units, DNS names or URIs are not ambiguous, except that a SPIFFE
//! ID must be the only URI.
//!
//! A name with an unknown string type, or with bytes that are not valid for its type, is
//! recorded in [`Certificate::unreadable`]. The client is refused only if a rule that must be
//! evaluated compares such a name.
//!
//! This module does not check trust, validity or revocation.

use aws_lc_rs::digest::{SHA256, digest};
use x509_parser::{
    certificate::X509Certificate, der_parser::asn1_rs::Any, extensions::GeneralName,
    oid_registry::OID_X509_EXT_SUBJECT_ALT_NAME, prelude::FromDer, x509::AttributeTypeAndValue,
};

use crate::{
    distinguished_name,
    spiffe::{self, SpiffeError},
};

/// Maximum number of subject alternative names, and of organizational units. Each name
/// costs a lookup in the rules. Public CAs allow a hundred names.
pub const MAX_NAMES: usize = 256;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Certificate {
    /// The subject's common name.
    pub cn: Option<String>,
    /// DNS names among the subject alternative names, in lower case.
    pub dns: Vec<String>,
    /// URIs among the subject alternative names. A SPIFFE ID is always the only URI.
    pub uri: Vec<String>,
    /// The SHA-256 of the `SubjectPublicKeyInfo`, in hex, lower case.
    pub spki: String,
    /// The subject's organizational units.
    pub ou: Vec<String>,
    pub issuer_cn: Option<String>,
    /// The serial number in hex, as `openssl x509 -serial` prints it.
    pub serial: String,
    /// Errors for names that could not be decoded. The client is refused only if a rule that must
    /// be evaluated compares such a name.
    pub unreadable: Vec<Ambiguous>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Ambiguous {
    /// The certificate does not parse, although the TLS library accepted it.
    #[error("the certificate does not parse")]
    Unreadable,
    #[error("the certificate's subject has more than one common name")]
    SeveralCommonNames,
    /// A common name that cannot be decoded.
    #[error("the certificate's common name has an unsupported string type or invalid bytes")]
    UndecodableCommonName,
    /// An organizational unit that cannot be decoded.
    #[error(
        "an organizational unit of the certificate's subject has an unsupported string type or \
         invalid bytes"
    )]
    UndecodableUnit,
    /// A common name with control characters.
    #[error("the certificate's common name is not plain text")]
    UnreadableCommonName,
    /// An organizational unit with control characters.
    #[error("an organizational unit of the certificate's subject is not plain text")]
    UnreadableUnit,
    /// The issuer has more than one common name, or a common name that is not plain text.
    #[error(
        "the certificate's issuer has more than one common name, or one that is not plain text"
    )]
    UnreadableIssuer,
    /// An extension occurs twice or does not parse.
    #[error("the certificate's subject alternative names do not parse")]
    UnreadableAlternativeNames,
    /// An alternative name has a constructed encoding.
    #[error("an alternative name of the certificate has a constructed tag, which DER forbids")]
    ConstructedName,
    /// A DNS name with characters that are not allowed there.
    #[error("a DNS name in the certificate contains control or non-ASCII characters")]
    UnreadableDnsName,
    /// A URI with characters that are not allowed there.
    #[error("a URI in the certificate contains control or non-ASCII characters")]
    UnreadableUri,
    /// A URI with the scheme `spiffe` that is not a SPIFFE ID.
    #[error("the certificate's SPIFFE ID is not valid: {0}")]
    InvalidSpiffeId(SpiffeError),
    /// A SPIFFE ID together with other URIs.
    #[error("the certificate has a SPIFFE ID and other URIs: a SPIFFE ID must be the only URI")]
    SeveralUris,
    /// More than [`MAX_NAMES`] alternative names or organizational units.
    #[error("the certificate has more than {MAX_NAMES} names")]
    TooManyNames,
}

impl Certificate {
    /// Reads the names in a certificate, which is encoded in DER.
    ///
    /// # Errors
    /// If the certificate is ambiguous.
    pub fn from_der(der: &[u8]) -> Result<Self, Ambiguous> {
        let (rest, certificate) =
            X509Certificate::from_der(der).map_err(|_| Ambiguous::Unreadable)?;
        if !rest.is_empty() {
            return Err(Ambiguous::Unreadable);
        }
        let mut unreadable = Vec::new();
        let mut read = Self {
            cn: readable(common_name(&certificate), &mut unreadable)?,
            ou: readable(units(&certificate), &mut unreadable)?,
            issuer_cn: readable(issuer(&certificate), &mut unreadable)?,
            spki: spki(&certificate),
            serial: serial(certificate.raw_serial()),
            ..Self::default()
        };
        read.read_alternative_names(&certificate)?;
        read.unreadable = unreadable;
        Ok(read)
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
        if names.len() > MAX_NAMES {
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
        if let Some(id) = self.uri.iter().find(|uri| spiffe::has_spiffe_scheme(uri)) {
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

/// Replaces a name that cannot be decoded with an empty value, and adds its error to `unreadable`.
///
/// # Errors
/// All other errors. They refuse the certificate for every rule.
fn readable<T: Default>(
    name: Result<T, Ambiguous>,
    unreadable: &mut Vec<Ambiguous>,
) -> Result<T, Ambiguous> {
    use Ambiguous as A;
    match name {
        Err(why @ (A::UndecodableCommonName | A::UndecodableUnit | A::UnreadableIssuer)) => {
            unreadable.push(why);
            Ok(T::default())
        }
        name => name,
    }
}

fn common_name(certificate: &X509Certificate<'_>) -> Result<Option<String>, Ambiguous> {
    // Count all attributes of all relative names: `CN=a+CN=b` has two common names, too.
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
        if units.len() == MAX_NAMES {
            return Err(Ambiguous::TooManyNames);
        }
        units.push(unit);
    }
    if undecodable {
        return Err(Ambiguous::UndecodableUnit);
    }
    Ok(units)
}

/// Returns an error, not `None`, for an unreadable issuer. Otherwise a rule for the issuer
/// would not match, and a later rule could allow the client.
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
    distinguished_name::decode(attribute.attr_value())
}

/// Whether every alternative name that is a string, an address or an object identifier has
/// a primitive encoding, as DER requires. The parser also accepts constructed encodings,
/// but other implementations read them differently.
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
    // DER puts a zero byte before a positive number whose first bit is set.
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

/// Checks the invariants of a parsed certificate, for tests and the fuzz target.
#[cfg(any(test, fuzzing))]
pub fn check(read: &Certificate) {
    let names = read.cn.iter().chain(&read.dns).chain(&read.uri);
    let attributes = read.ou.iter().chain(&read.issuer_cn);
    let all = names.chain(attributes).chain([&read.spki]);
    for text in all.chain([&read.serial]) {
        assert!(!text.chars().any(char::is_control), "{text:?}");
    }
    for name in read.dns.iter().chain(&read.uri) {
        assert!(name.bytes().all(|b| b.is_ascii_graphic()), "{name:?}");
    }
    assert!(read.dns.len() + read.uri.len() <= MAX_NAMES);
    assert!(read.ou.len() <= MAX_NAMES);
    assert_eq!(read.spki.len(), 64);
    if let Some(id) = read.uri.iter().find(|uri| spiffe::has_spiffe_scheme(uri)) {
        assert_eq!((read.uri.len(), spiffe::check(id)), (1, Ok(())), "{id}");
    }
}

/// Entry point of the fuzz target `identity`.
#[cfg(fuzzing)]
pub fn fuzz(der: &[u8]) {
    if let Ok(read) = Certificate::from_der(der) {
        check(&read);
    }
}

#[cfg(test)]
mod tests;
