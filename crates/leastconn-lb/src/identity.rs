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
//! What is here was verified by TLS before: trusted, in time, not revoked.

use std::{net::IpAddr, sync::Arc};

use aws_lc_rs::digest::{SHA256, digest};
use leastconn::{ClientId, Reason};
use x509_parser::{
    certificate::X509Certificate, extensions::GeneralName, prelude::FromDer,
    x509::AttributeTypeAndValue,
};

use crate::{
    config::Key,
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
}

/// A client, as far as it is known before any rule is looked at.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Its address.
    pub source: IpAddr,
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
    /// A common name that is not text, or holds control characters.
    #[error("the certificate's common name is not plain text")]
    UnreadableCommonName,
    /// An organizational unit that is not text, or holds control characters.
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
        let mut read = Self {
            cn: common_name(&certificate)?,
            ou: units(&certificate)?,
            issuer_cn: issuer(&certificate)?,
            spki: lower_hex(digest(&SHA256, certificate.public_key().raw).as_ref()),
            serial: serial(certificate.raw_serial()),
            ..Self::default()
        };
        read.read_alternative_names(&certificate)?;
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

    /// The address as an identity.
    pub fn source_identity(&self) -> ClientId {
        ClientId::from(format!("source:{}", self.source))
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
    let name = plain(name).ok_or(Ambiguous::UnreadableCommonName)?;
    Ok((!name.is_empty()).then(|| name.to_owned()))
}

fn units(certificate: &X509Certificate<'_>) -> Result<Vec<String>, Ambiguous> {
    let mut units = Vec::new();
    for unit in certificate.subject().iter_organizational_unit() {
        let unit = plain(unit).ok_or(Ambiguous::UnreadableUnit)?;
        if units.len() == MOST_NAMES {
            return Err(Ambiguous::TooManyNames);
        }
        units.push(unit.to_owned());
    }
    Ok(units)
}

/// Refused as the subject's: a rule for an issuer that is not to be let in must not
/// be passed over for being unreadable.
fn issuer(certificate: &X509Certificate<'_>) -> Result<Option<String>, Ambiguous> {
    let mut names = certificate.issuer().iter_common_name();
    let Some(name) = names.next() else {
        return Ok(None);
    };
    let name = plain(name).filter(|_| names.next().is_none());
    let name = name.ok_or(Ambiguous::UnreadableIssuer)?;
    Ok(Some(name.to_owned()))
}

/// Text without control characters.
fn plain<'a>(attribute: &'a AttributeTypeAndValue<'_>) -> Option<&'a str> {
    let text = attribute.as_str().ok()?;
    (!text.chars().any(char::is_control)).then_some(text)
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
