//! Certificates that are accepted by their public key, without an authority.
//!
//! The peer's signature in the handshake proves that it has the key. No authority confirms
//! the other contents of such a certificate.

use rustls::{
    CertificateError,
    pki_types::{CertificateDer, UnixTime},
};
use webpki::EndEntityCert;
use x509_parser::{
    certificate::{X509Certificate, X509CertificateParser},
    nom::Parser,
    prelude::FromDer,
};

use super::{ChainError, Usage, Validity, parseable, path, seconds, unix_time, webpki_error};
use crate::certificate;

/// Public keys, each as the SHA-256 of its SubjectPublicKeyInfo in lower-case hex.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pins(Box<[String]>);

impl Pins {
    pub(crate) fn new(pins: impl Iterator<Item = String>) -> Self {
        Self(pins.collect())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether the certificate's key is pinned.
    pub(crate) fn contain(&self, certificate: &CertificateDer<'_>) -> bool {
        if self.is_empty() {
            return false;
        }
        // Do not parse the contents of extensions: any client can send a certificate with
        // tens of thousands of names, and parsing them takes milliseconds.
        let mut parser = X509CertificateParser::new().with_deep_parse_extensions(false);
        let parsed = parser.parse(certificate).ok();
        let digest = parsed.map(|(_, parsed)| certificate::spki(&parsed));
        digest.is_some_and(|digest| self.0.contains(&digest))
    }
}

/// Verifies a certificate whose key is pinned. Checks its dates, its key usage and the type
/// of its key.
///
/// # Errors
/// If the certificate has expired or is not valid yet, or if its key or key usage is not
/// accepted.
pub(crate) fn verify_pinned(
    certificate: &CertificateDer<'_>,
    now: UnixTime,
    usage: Usage,
) -> Result<Validity, ChainError> {
    let readable = parseable(certificate);
    EndEntityCert::try_from(&*readable).map_err(|error| webpki_error::to_rustls(&error))?;
    let (_, parsed) =
        X509Certificate::from_der(certificate).map_err(|_| CertificateError::BadEncoding)?;
    let dates = parsed.validity();
    let (from, until) = (dates.not_before.timestamp(), dates.not_after.timestamp());
    if seconds(now) < from {
        return Err(CertificateError::NotValidYetContext {
            time: now,
            not_before: unix_time(from),
        }
        .into());
    }
    if seconds(now) > until {
        return Err(CertificateError::ExpiredContext {
            time: now,
            not_after: unix_time(until),
        }
        .into());
    }
    path::check_own(&parsed, usage)?;
    Ok(Validity {
        from,
        until,
        crls_until: i64::MAX,
    })
}
