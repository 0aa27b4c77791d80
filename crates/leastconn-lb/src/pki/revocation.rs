//! Reads, extends and signs the CRL.
//!
//! The CRL file is the only record of revocations, so its signature is verified before it
//! is extended: signing a truncated list would make the loss permanent. The CRL number
//! increases with every signature (RFC 5280, section 5.2.3).

use std::{io, path::Path};

use rcgen::{
    CertificateRevocationListParams, KeyIdMethod, RevocationReason, RevokedCertParams, SerialNumber,
};
use rustls::pki_types::CertificateRevocationListDer;
use rustls::pki_types::pem::PemObject;
use x509_parser::extensions::ParsedExtension;
use x509_parser::num_bigint::BigUint;
use x509_parser::time::ASN1Time;

use super::{Authority, BACKDATE, CA_CRL, PkiError, openssl::Database, read_file, validity};

/// The revoked certificates of a CA, and the number of the next CRL.
#[derive(Debug, Clone)]
pub struct RevocationList {
    number: BigUint,
    revoked: Vec<RevokedCertParams>,
}

impl Default for RevocationList {
    fn default() -> Self {
        Self {
            number: BigUint::from(1u8),
            revoked: Vec::new(),
        }
    }
}

impl RevocationList {
    /// An empty list with CRL number 1.
    pub fn new() -> Self {
        Self::default()
    }

    pub fn len(&self) -> usize {
        self.revoked.len()
    }

    pub fn is_empty(&self) -> bool {
        self.revoked.is_empty()
    }

    /// Reads the CRL of the CA in `dir` and increments its number.
    ///
    /// # Errors
    /// [`PkiError::NoCrl`], [`PkiError::Read`], or [`PkiError::Malformed`] if the file is invalid
    /// or `authority` did not sign it.
    pub fn load(dir: &Path, authority: &Authority) -> Result<Self, PkiError> {
        let path = dir.join(CA_CRL);
        let pem = match read_file(&path) {
            Ok(pem) => pem,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(PkiError::NoCrl {
                    dir: dir.to_owned(),
                });
            }
            Err(source) => return Err(PkiError::Read { path, source }),
        };
        Self::parse(&pem, authority).map_err(|reason| PkiError::Malformed {
            path,
            what: "CRL of this CA",
            reason,
        })
    }

    fn parse(pem: &[u8], authority: &Authority) -> Result<Self, String> {
        let der = CertificateRevocationListDer::from_pem_slice(pem).map_err(|e| e.to_string())?;
        let (_, crl) = x509_parser::parse_x509_crl(&der).map_err(|e| e.to_string())?;
        let (_, ca) =
            x509_parser::parse_x509_certificate(&authority.cert).map_err(|e| e.to_string())?;
        if crl.issuer().as_raw() != ca.subject().as_raw() {
            return Err("another CA issued it".into());
        }
        crl.verify_signature(ca.public_key())
            .map_err(|_| "its signature is invalid".to_owned())?;
        let revoked = crl
            .iter_revoked_certificates()
            .map(|entry| RevokedCertParams {
                serial_number: entry.serial().to_bytes_be().into(),
                revocation_time: entry.revocation_date.to_datetime(),
                reason_code: entry.reason_code().and_then(|(_, code)| reason(code.0)),
                invalidity_date: entry.invalidity_date().map(|(_, at)| at.to_datetime()),
            })
            .collect();
        let number = crl.crl_number().cloned().unwrap_or_default() + 1u8;
        Ok(Self { number, revoked })
    }

    /// Adds the revocations that `openssl ca` has recorded in `dir`, and continues its CRL numbers.
    /// Returns the number of revocations that were added, or `None` if there is no database of
    /// `openssl ca`.
    ///
    /// # Errors
    /// [`PkiError::Read`] or [`PkiError::Malformed`] for the database.
    pub fn merge_openssl(&mut self, dir: &Path) -> Result<Option<usize>, PkiError> {
        let Some(database) = Database::load(dir)? else {
            return Ok(None);
        };
        let before = self.revoked.len();
        for entry in database.revoked {
            if !self.contains(entry.serial_number.as_ref()) {
                self.revoked.push(entry);
            }
        }
        if let Some(next) = database.next_number.filter(|next| *next > self.number) {
            self.number = next;
        }
        Ok(Some(self.revoked.len() - before))
    }

    fn contains(&self, serial: &[u8]) -> bool {
        let mut revoked = self.revoked.iter();
        revoked.any(|entry| entry.serial_number.as_ref() == serial)
    }

    /// Adds the certificate in `path`. Returns `false` if it is already revoked.
    ///
    /// # Errors
    /// [`PkiError::NotIssuedHere`] unless the CA in `dir` signed it.
    pub fn revoke(
        &mut self,
        authority: &Authority,
        dir: &Path,
        path: &Path,
    ) -> Result<bool, PkiError> {
        let der = super::read_certificate(path)?;
        if der == authority.cert {
            return Err(PkiError::RevokesItself {
                path: path.to_owned(),
            });
        }
        let parse = |der, path: &Path| {
            x509_parser::parse_x509_certificate(der)
                .map(|(_, cert)| cert)
                .map_err(|e| PkiError::Malformed {
                    path: path.to_owned(),
                    what: "certificate",
                    reason: e.to_string(),
                })
        };
        let cert = parse(&der, path)?;
        let ca = parse(&authority.cert, &dir.join(super::CA_CERT))?;
        if cert.issuer().as_raw() != ca.subject().as_raw()
            || cert.verify_signature(Some(ca.public_key())).is_err()
        {
            return Err(PkiError::NotIssuedHere {
                path: path.to_owned(),
                dir: dir.to_owned(),
            });
        }
        let serial = cert.serial.to_bytes_be();
        if self.contains(&serial) {
            return Ok(false);
        }
        self.revoked.push(RevokedCertParams {
            serial_number: serial.into(),
            revocation_time: ASN1Time::now().to_datetime(),
            reason_code: None,
            invalidity_date: None,
        });
        Ok(true)
    }

    pub(super) fn sign(&self, authority: &Authority, days: u32) -> Result<String, PkiError> {
        let now = ASN1Time::now().to_datetime();
        let params = CertificateRevocationListParams {
            this_update: now - BACKDATE,
            next_update: now + validity(days)?,
            crl_number: SerialNumber::from(self.number.to_bytes_be()),
            issuing_distribution_point: None,
            revoked_certs: self.revoked.clone(),
            key_identifier_method: key_identifier(authority),
        };
        Ok(params.signed_by(&authority.issuer)?.pem()?)
    }
}

/// Returns the subject key identifier from the CA certificate. The identifier cannot be
/// computed from the key, because other software may have used another method.
fn key_identifier(authority: &Authority) -> KeyIdMethod {
    let Ok((_, ca)) = x509_parser::parse_x509_certificate(&authority.cert) else {
        return KeyIdMethod::Sha256;
    };
    ca.iter_extensions()
        .find_map(|ext| match ext.parsed_extension() {
            ParsedExtension::SubjectKeyIdentifier(id) => {
                Some(KeyIdMethod::PreSpecified(id.0.to_vec()))
            }
            _ => None,
        })
        .unwrap_or(KeyIdMethod::Sha256)
}

fn reason(code: u8) -> Option<RevocationReason> {
    Some(match code {
        1 => RevocationReason::KeyCompromise,
        2 => RevocationReason::CaCompromise,
        3 => RevocationReason::AffiliationChanged,
        4 => RevocationReason::Superseded,
        5 => RevocationReason::CessationOfOperation,
        6 => RevocationReason::CertificateHold,
        8 => RevocationReason::RemoveFromCrl,
        9 => RevocationReason::PrivilegeWithdrawn,
        10 => RevocationReason::AaCompromise,
        _ => return None,
    })
}
