//! Certificate revocation lists (CRLs, RFC 5280, section 5): parsing, signatures, and the
//! revocation status of certificates.
//!
//! A CRL belongs to a name and a key of its issuer. A CA that changed its key but not its
//! name has a separate CRL for each key. Signatures are verified once, when a CRL is loaded.

mod authorities;
#[cfg(any(test, fuzzing))]
pub(crate) mod drive;
mod encoded;
mod scope;
mod serials;
mod signature;
mod store;
#[cfg(test)]
pub(crate) mod tests;

use std::cmp::Ordering;

use jiff::Timestamp;
use x509_parser::{error::X509Error, time::ASN1Time, x509::X509Name};

pub use authorities::Revocation;
pub use encoded::EncodedList;
pub use scope::Role;
pub use signature::SignatureError;
pub use store::{CrlStore, Loaded, Missing, Status, Superseded};

use scope::Scope;
use serials::Serials;

const MALFORMED: &str = "it is malformed or truncated";

/// The content of a CRL. It does not include the encoded CRL, which takes twice the memory of the
/// serial numbers.
#[derive(Debug)]
pub struct RevocationList {
    /// SHA-256 of the encoded CRL.
    digest: [u8; 32],
    /// The issuer's name in backticks.
    pub issuer: String,
    /// The issuer's name in canonical form: names that are equal under RFC 5280 are equal byte by
    /// byte.
    canonical_issuer: Box<[u8]>,
    /// `cRLNumber`, big-endian, without leading zeros.
    number: Option<Box<[u8]>>,
    pub this_update: Timestamp,
    /// `nextUpdate`. RFC 5280 requires this field.
    pub next_update: Option<Timestamp>,
    /// Whether this is a version 2 CRL. Version 1 has no extensions.
    pub is_version_2: bool,
    /// `authorityKeyIdentifier`: identifies the issuer's key.
    key_id: Option<Box<[u8]>>,
    scope: Scope,
    serials: Serials,
}

impl RevocationList {
    /// The issuer's name in canonical form: names that are equal under RFC 5280 are equal byte by
    /// byte.
    pub fn canonical_issuer(&self) -> &[u8] {
        &self.canonical_issuer
    }

    /// SHA-256 of the encoded CRL. Equal CRLs have equal digests.
    pub const fn digest(&self) -> &[u8; 32] {
        &self.digest
    }

    /// `authorityKeyIdentifier`, if present.
    pub fn key_id(&self) -> Option<&[u8]> {
        self.key_id.as_deref()
    }

    /// Whether the CRL lists a serial number. `serial` is the content of a DER INTEGER.
    pub fn lists_serial(&self, serial: &[u8]) -> bool {
        self.serials.contain(serial)
    }

    /// The listed serial numbers, without leading zeros.
    pub fn serials(&self) -> impl Iterator<Item = &[u8]> {
        self.serials.iter()
    }

    /// Whether `nextUpdate` has passed. A CRL without `nextUpdate` counts as expired.
    pub fn has_expired(&self, now: Timestamp) -> bool {
        self.next_update.is_none_or(|end| end <= now)
    }

    /// CRL number and date for messages, such as "number 7 of 2026-01-01T00:00:00Z".
    pub fn describe(&self) -> String {
        match &self.number {
            Some(number) => format!("number {} of {}", decimal(number), self.this_update),
            None => format!("without a number, of {}", self.this_update),
        }
    }

    /// Whether this CRL is older than `other`, a CRL of the same issuer and partition.
    pub fn is_older_than(&self, other: &Self) -> bool {
        let by_number = self.number.is_some() && other.number.is_some();
        self.compare_age(other, by_number).is_lt()
    }

    /// If `by_number`, compares the CRL numbers, then `thisUpdate`. Otherwise compares
    /// `thisUpdate` first, because at least one of the CRLs has no number.
    fn compare_age(&self, other: &Self, by_number: bool) -> Ordering {
        // A longer number is larger, because numbers have no leading zeros.
        let [own, others] = [self, other].map(|list| {
            let number = list.number.as_deref()?;
            Some((number.len(), number))
        });
        let numbers = own.cmp(&others);
        let times = self.this_update.cmp(&other.this_update);
        if by_number {
            numbers.then(times)
        } else {
            times.then(numbers)
        }
    }
}

/// Compares the digests of the encoded CRLs only: all other fields are derived from the encoding.
impl PartialEq for RevocationList {
    fn eq(&self, other: &Self) -> bool {
        self.digest == other.digest
    }
}

impl Eq for RevocationList {}

/// A distinguished name for messages: in backticks, or "an empty name".
pub fn display_name(name: &X509Name<'_>) -> String {
    match name.to_string() {
        empty if empty.is_empty() => "an empty name".to_owned(),
        name => format!("`{name}`"),
    }
}

/// Converts a time. A time outside the range of [`Timestamp`] becomes its minimum or
/// maximum.
pub fn timestamp(time: ASN1Time) -> Timestamp {
    let seconds = time.timestamp();
    Timestamp::from_second(seconds).unwrap_or(if seconds < 0 {
        Timestamp::MIN
    } else {
        Timestamp::MAX
    })
}

/// Explains a parser error. The parser's own text names only the expected ASN.1 element.
pub fn malformed(error: x509_parser::nom::Err<X509Error>) -> String {
    match X509Error::from(error) {
        X509Error::Der(_) | X509Error::NomError(_) | X509Error::Generic => MALFORMED.to_owned(),
        error => format!("it is malformed ({error})"),
    }
}

/// Removes leading zeros of a big-endian integer.
pub fn without_zeros(bytes: &[u8]) -> &[u8] {
    let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
    &bytes[zeros..]
}

/// Formats a number of up to 16 bytes in decimal, and a longer number in hexadecimal. CRL
/// numbers can have 20 bytes.
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
