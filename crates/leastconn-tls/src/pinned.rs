//! Certificates that are accepted by their public key, without a CA.
//!
//! Possession of the key is proven in the handshake. All other contents of such a
//! certificate are chosen by its owner.

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

use super::{
    chain::{Validity, general, seconds, unix_time},
    chain_error::ChainError,
    path,
    usage::Usage,
};
use crate::certificate;

/// Public keys, each as the SHA-256 of its SubjectPublicKeyInfo in lower-case hex.
#[derive(Clone, Debug, Default)]
pub(super) struct Pins(Box<[String]>);

impl Pins {
    pub(super) fn new(pins: impl Iterator<Item = String>) -> Self {
        Self(pins.collect())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether the certificate's key is pinned.
    pub(super) fn contain(&self, certificate: &CertificateDer<'_>) -> bool {
        if self.is_empty() {
            return false;
        }
        // Skip the contents of extensions: any client can present tens of thousands of
        // names.
        let mut parser = X509CertificateParser::new().with_deep_parse_extensions(false);
        let parsed = parser.parse(certificate).ok();
        let digest = parsed.map(|(_, parsed)| certificate::spki(&parsed));
        digest.is_some_and(|digest| self.0.contains(&digest))
    }
}

/// Verifies a certificate with a pinned key: dates, usage and kind of key.
///
/// # Errors
pub(super) fn verify(
    certificate: &CertificateDer<'_>,
    now: UnixTime,
    usage: Usage,
) -> Result<Validity, ChainError> {
    let rewritten = path::rewrite::for_signature(certificate);
    let readable = rewritten.as_ref().unwrap_or(certificate);
    EndEntityCert::try_from(readable).map_err(|error| general(&error))?;
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
    path::check_own(&parsed, usage).map_err(ChainError::Path)?;
    Ok(Validity {
        from,
        until,
        lists_until: i64::MAX,
    })
}
