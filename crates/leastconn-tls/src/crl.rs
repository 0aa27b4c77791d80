//! Certificate revocation lists (CRLs, RFC 5280, section 5): what a list says, who
//! signed it, and which lists are in force.
//!
//! A list is bound to its issuer by name and key: a CA that was re-keyed under its old
//! name has one list for each key. Signatures are verified once, when a list is loaded.

mod authorities;
mod scope;
mod serials;
mod signature;
mod store;
#[cfg(test)]
pub(crate) mod tests;

use std::cmp::Ordering;

use jiff::Timestamp;
use rustls::pki_types::CertificateRevocationListDer;
use x509_parser::{
    error::X509Error,
    extensions::ParsedExtension,
    prelude::FromDer,
    revocation_list::CertificateRevocationList,
    time::ASN1Time,
    x509::{X509Name, X509Version},
};

pub use authorities::Revocation;
pub use scope::Role;
pub use signature::SignatureError;
pub use store::{CrlStore, InForce, Loaded, Missing, Status, Superseded};

use crate::names;
use scope::Scope;
use serials::Serials;

/// A parsed list.
#[derive(Debug)]
pub struct RevocationList {
    der: CertificateRevocationListDer<'static>,
    /// The issuer's name, in backticks.
    pub issuer: String,
    raw_issuer: Box<[u8]>,
    /// In the form in which equal names are equal byte by byte.
    canonical_issuer: Box<[u8]>,
    /// `cRLNumber`: big-endian, without leading zeros.
    number: Option<Box<[u8]>>,
    /// `thisUpdate`.
    pub this_update: Timestamp,
    /// `nextUpdate`, which RFC 5280 requires.
    pub next_update: Option<Timestamp>,
    /// Whether it is of X.509 version 2, the only one that has extensions.
    pub is_version_2: bool,
    /// `authorityKeyIdentifier`: a hint which key signed it.
    key_id: Option<Box<[u8]>>,
    scope: Scope,
    serials: Serials,
}

impl RevocationList {
    /// The issuer's name in the form in which equal names are equal byte by byte.
    pub fn canonical_issuer(&self) -> &[u8] {
        &self.canonical_issuer
    }

    /// Parses a list.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(der: CertificateRevocationListDer<'static>) -> Result<Self, String> {
        let (rest, parsed) = CertificateRevocationList::from_der(&der).map_err(malformed)?;
        if !rest.is_empty() {
            return Err("something follows it".to_owned());
        }
        signature::parts(&der).ok_or_else(|| "it is not a signed structure".to_owned())?;
        let mut scope = Scope::default();
        let mut key_id = None;
        for extension in parsed.extensions() {
            match extension.parsed_extension() {
                ParsedExtension::IssuingDistributionPoint(point) => {
                    scope = Scope::new(point, extension.value);
                }
                ParsedExtension::AuthorityKeyIdentifier(id) => {
                    key_id = id.key_identifier.as_ref().map(|id| id.0.into());
                }
                _ => {}
            }
        }
        let revoked = parsed.iter_revoked_certificates();
        Ok(Self {
            issuer: display_name(parsed.issuer()),
            raw_issuer: parsed.issuer().as_raw().into(),
            canonical_issuer: names::canonical(parsed.issuer().as_raw()).into(),
            number: parsed
                .crl_number()
                .map(|number| without_zeros(&number.to_bytes_be()).into()),
            this_update: timestamp(parsed.last_update()),
            next_update: parsed.next_update().map(timestamp),
            is_version_2: parsed.version() == Some(X509Version::V2),
            key_id,
            scope,
            serials: revoked.map(|entry| entry.raw_serial()).collect(),
            der,
        })
    }

    /// The list as it was read.
    pub const fn der(&self) -> &CertificateRevocationListDer<'static> {
        &self.der
    }

    /// The issuer's name in DER.
    pub const fn raw_issuer(&self) -> &[u8] {
        &self.raw_issuer
    }

    /// `authorityKeyIdentifier`.
    pub fn key_id(&self) -> Option<&[u8]> {
        self.key_id.as_deref()
    }

    /// Whether it names this serial number, the content of a DER INTEGER.
    pub fn names(&self, serial: &[u8]) -> bool {
        self.serials.contain(serial)
    }

    /// The serial numbers that it names, without leading zeros.
    pub fn serials(&self) -> impl Iterator<Item = &[u8]> {
        self.serials.iter()
    }

    /// Whether it has expired at `now`.
    pub fn has_expired(&self, now: Timestamp) -> bool {
        self.next_update.is_none_or(|end| end <= now)
    }

    /// "number 7 of 2026-01-01T00:00:00Z".
    pub fn describe(&self) -> String {
        match &self.number {
            Some(number) => format!("number {} of {}", decimal(number), self.this_update),
            None => format!("without a number, of {}", self.this_update),
        }
    }

    /// Whether it is older than another one of its issuer and partition.
    pub fn is_older_than(&self, other: &Self) -> bool {
        let by_number = self.number.is_some() && other.number.is_some();
        self.compare_age(other, by_number).is_lt()
    }

    /// By CRL number, then by `thisUpdate`. A list without a number violates RFC 5280;
    /// if either has none, `thisUpdate` decides first.
    fn compare_age(&self, other: &Self, by_number: bool) -> Ordering {
        let number = |list: &Self| {
            list.number
                .as_ref()
                .map(|bytes| (bytes.len(), bytes.clone()))
        };
        let by = |first: Ordering, second: Ordering| first.then(second);
        let numbers = number(self).cmp(&number(other));
        let times = self.this_update.cmp(&other.this_update);
        if by_number {
            by(numbers, times)
        } else {
            by(times, numbers)
        }
    }
}

/// The same bytes: everything else follows from them.
impl PartialEq for RevocationList {
    fn eq(&self, other: &Self) -> bool {
        self.der == other.der
    }
}

impl Eq for RevocationList {}

/// A name in backticks; one without content can still be told apart in a sentence.
pub fn display_name(name: &X509Name<'_>) -> String {
    match name.to_string() {
        empty if empty.is_empty() => "an empty name".to_owned(),
        name => format!("`{name}`"),
    }
}

/// Times beyond the years that a timestamp can have become its bounds.
pub fn timestamp(time: ASN1Time) -> Timestamp {
    let seconds = time.timestamp();
    Timestamp::from_second(seconds).unwrap_or(if seconds < 0 {
        Timestamp::MIN
    } else {
        Timestamp::MAX
    })
}

/// Explains a parser's error: the parser names what it looked for, not what is wrong.
pub fn malformed(error: x509_parser::nom::Err<X509Error>) -> String {
    match X509Error::from(error) {
        X509Error::Der(_) | X509Error::NomError(_) | X509Error::Generic => {
            "it is not well-formed, or is cut off".to_owned()
        }
        error => format!("it is not well-formed ({error})"),
    }
}

/// An integer's bytes without leading zeros.
pub fn without_zeros(bytes: &[u8]) -> &[u8] {
    let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
    &bytes[zeros..]
}

/// Decimal if it fits a machine word, else hex: CRL numbers may have 20 bytes.
fn decimal(number: &[u8]) -> String {
    if number.len() <= 16 {
        let value = number
            .iter()
            .fold(0_u128, |sum, byte| sum << 8 | u128::from(*byte));
        return value.to_string();
    }
    let hex: String = number.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("0x{hex}")
}
