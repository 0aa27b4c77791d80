//! Revocations by `openssl ca` in the directory of the CA.
//!
//! `openssl ca -revoke` records a revocation in `index.txt`, and only `openssl ca -gencrl` signs a CRL
//! with it. A CRL that is signed without reading `index.txt` would therefore lose revocations.

use std::{io, path::Path};

use jiff::{fmt::strtime, tz::TimeZone};
use rcgen::{RevocationReason, RevokedCertParams};
use x509_parser::{num_bigint::BigUint, time::ASN1Time};

use super::{PkiError, read_text};

/// The database of `openssl ca`.
pub(super) const DATABASE: &str = "index.txt";

/// The file with the number of the next CRL of `openssl ca`.
const NUMBER: &str = "crlnumber";

/// What `openssl ca` has recorded.
#[derive(Debug)]
pub(super) struct Database {
    pub(super) revoked: Vec<RevokedCertParams>,
    /// Number of the next CRL.
    pub(super) next_number: Option<BigUint>,
}

impl Database {
    /// Reads the database in `dir`. Returns `None` if there is none.
    ///
    /// # Errors
    /// [`PkiError::Read`], or [`PkiError::Malformed`] with the line.
    pub(super) fn load(dir: &Path) -> Result<Option<Self>, PkiError> {
        let Some(text) = read_if_present(&dir.join(DATABASE))? else {
            return Ok(None);
        };
        let mut revoked = Vec::new();
        for (number, line) in (1..).zip(text.lines()) {
            let reason = match entry(line) {
                Ok(entry) => {
                    revoked.extend(entry);
                    continue;
                }
                Err(reason) => format!("line {number} {reason}"),
            };
            return Err(PkiError::Malformed {
                path: dir.join(DATABASE),
                what: "database of `openssl ca`",
                reason,
            });
        }
        Ok(Some(Self {
            revoked,
            next_number: next_number(&dir.join(NUMBER))?,
        }))
    }
}

/// Reads the number of the next CRL. Without it, a CRL could get a number that `openssl ca` has
/// already used, so a damaged file is an error.
fn next_number(path: &Path) -> Result<Option<BigUint>, PkiError> {
    let Some(text) = read_if_present(path)? else {
        return Ok(None);
    };
    match hexadecimal(text.trim()) {
        Some(number) => Ok(Some(number)),
        None => Err(PkiError::Malformed {
            path: path.to_owned(),
            what: "file with the number of the next CRL",
            reason: format!("{:?} is not a hexadecimal number", text.trim()),
        }),
    }
}

/// Parses digits without a sign or separators, which [`BigUint::parse_bytes`] accepts.
fn hexadecimal(text: &str) -> Option<BigUint> {
    let is_number = text.bytes().all(|byte| byte.is_ascii_hexdigit());
    BigUint::parse_bytes(text.as_bytes(), 16).filter(|_| is_number)
}

fn read_if_present(path: &Path) -> Result<Option<String>, PkiError> {
    match read_text(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(PkiError::Read {
            path: path.to_owned(),
            source,
        }),
    }
}

/// Parses a line: `V` (valid), `E` (expired) or `R` (revoked), expiry, revocation date with an
/// optional reason, serial number, file, subject, separated by tabs. Returns `None` unless the
/// certificate is revoked.
fn entry(line: &str) -> Result<Option<RevokedCertParams>, &'static str> {
    let mut fields = line.split('\t');
    match fields.next().unwrap_or("") {
        "R" => revoked(fields)
            .map(Some)
            .ok_or("has no revocation date or no serial number"),
        "V" | "E" => Ok(None),
        text if text.is_empty() || text.starts_with('#') => Ok(None),
        _ => Err("does not start with `V`, `E` or `R` and a tab"),
    }
}

/// Parses the fields after `R`.
fn revoked<'a>(fields: impl Iterator<Item = &'a str>) -> Option<RevokedCertParams> {
    let mut fields = fields.skip(1);
    let (revocation, serial) = (fields.next()?, fields.next()?);
    let mut revocation = revocation.split(',');
    let serial = hexadecimal(serial)?;
    let revocation_time = date(revocation.next()?)?.to_datetime();
    Some(RevokedCertParams {
        serial_number: serial.to_bytes_be().into(),
        revocation_time,
        reason_code: revocation.next().and_then(reason),
        invalidity_date: None,
    })
}

/// Parses a date in UTC: `YYMMDDHHMMSSZ` or `YYYYMMDDHHMMSSZ`.
fn date(text: &str) -> Option<ASN1Time> {
    let format = match text.len() {
        13 => "%y%m%d%H%M%SZ",
        _ => "%Y%m%d%H%M%SZ",
    };
    let time = strtime::parse(format, text).ok()?.to_datetime().ok()?;
    let time = TimeZone::UTC.to_timestamp(time).ok()?;
    ASN1Time::from_timestamp(time.as_second()).ok()
}

fn reason(name: &str) -> Option<RevocationReason> {
    Some(match name {
        "keyCompromise" | "keyTime" => RevocationReason::KeyCompromise,
        "CACompromise" | "CAkeyTime" => RevocationReason::CaCompromise,
        "affiliationChanged" => RevocationReason::AffiliationChanged,
        "superseded" => RevocationReason::Superseded,
        "cessationOfOperation" => RevocationReason::CessationOfOperation,
        "certificateHold" | "holdInstruction" => RevocationReason::CertificateHold,
        _ => return None,
    })
}
