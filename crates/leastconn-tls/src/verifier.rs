//! Verifies client certificates, with a cache of the chains that verified.
//!
//! Most clients connect again and again with the same chain, and verifying it costs about
//! a sixth of a handshake. The result cannot change while the CAs and CRLs are the same and
//! everything that it depends on is valid. So it is cached for exactly that long, by the
//! SHA-256 of the whole chain. Each configuration has a verifier, and so a cache, of its
//! own.
//!
//! Proof of possession of the key (`CertificateVerify`) is never cached. Failures are not
//! either, so only clients with a certificate of a trusted CA can add entries.

mod cache;

use parking_lot::Mutex;
use rustls::{
    DigitallySignedStruct, DistinguishedName, Error, SignatureScheme,
    client::danger::HandshakeSignatureValid,
    crypto::{verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, UnixTime},
    server::danger::{ClientCertVerified, ClientCertVerifier},
};

use cache::VerifiedChains;

use super::{
    chain::{ChainVerifier, Tolerance, Validity, seconds, unix_time},
    chain_error::ChainError,
    path::rewrite::for_signature,
    pinned::{self, Pins},
    rejected,
    usage::Usage,
};
use crate::{
    client_chain::{ClientChain, Fingerprint, fingerprint_of},
    settings::{MAX_CA_NAMES, ca_names_length},
};

/// A verifier of client certificates with a cache.
#[derive(Debug)]
pub(super) struct CachingVerifier {
    chains: ChainVerifier,
    /// Public keys that are accepted without a CA.
    pins: Pins,
    /// CA names for the CertificateRequest; empty if they do not fit.
    names: Vec<DistinguishedName>,
    /// Maximum number of certificates that a client may send beside its own.
    max_intermediates: usize,
    verified: Mutex<VerifiedChains>,
    #[cfg(test)]
    misses: std::sync::atomic::AtomicUsize,
}

impl CachingVerifier {
    pub(super) fn new(chains: ChainVerifier, pins: Pins, max_intermediates: usize) -> Self {
        let mut names = chains.names();
        let length = ca_names_length(names.iter().map(|name| name.as_ref().len()));
        // Too many for some clients, or for the message itself. Without any, the client
        // sends the certificate that it has.
        if length > MAX_CA_NAMES {
            names.clear();
        }
        Self {
            chains,
            pins,
            names,
            max_intermediates,
            verified: Mutex::default(),
            #[cfg(test)]
            misses: Default::default(),
        }
    }

    /// Verifies the chain of a client in a handshake.
    pub(super) fn verify_new(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<Validity, ChainError> {
        let (sent, max) = (intermediates.len(), self.max_intermediates);
        if sent > max {
            return Err(ChainError::TooManyIntermediates { sent, max });
        }
        let fingerprint = fingerprint_of(end_entity, intermediates);
        let tolerance = Tolerance::default();
        self.verify(fingerprint, end_entity, intermediates, now, tolerance)
    }

    /// Verifies the chain of an earlier handshake, as of `now` in seconds since 1970.
    pub(super) fn verify_presented(
        &self,
        presented: &ClientChain,
        now: i64,
        tolerance: Tolerance,
    ) -> Result<Validity, ChainError> {
        let [end_entity, intermediates @ ..] = presented.chain() else {
            return Err(rustls::CertificateError::BadEncoding.into());
        };
        let fingerprint = *presented.fingerprint();
        self.verify(
            fingerprint,
            end_entity,
            intermediates,
            unix_time(now),
            tolerance,
        )
    }

    /// Whether a chain would be accepted in a handshake at `now`.
    pub(super) fn accepts(&self, chain: &[CertificateDer<'_>], now: UnixTime) -> bool {
        let [end_entity, intermediates @ ..] = chain else {
            return false;
        };
        let fingerprint = fingerprint_of(end_entity, intermediates);
        let tolerance = Tolerance::default();
        self.verify(fingerprint, end_entity, intermediates, now, tolerance)
            .is_ok()
    }

    pub(super) fn verify(
        &self,
        fingerprint: Fingerprint,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
        tolerance: Tolerance,
    ) -> Result<Validity, ChainError> {
        if let Some(validity) = self.cached(&fingerprint, seconds(now), tolerance) {
            return Ok(validity);
        }
        #[cfg(test)]
        self.misses
            .fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let verified = self
            .chains
            .verify(end_entity, intermediates, now, tolerance);
        let validity = match verified {
            // A pin does not override a revocation or a constraint of a CA.
            Err(ChainError::Certificate(_)) if self.pins.contain(end_entity) => {
                pinned::verify(end_entity, now, Usage::Client)?
            }
            verified => verified?,
        };
        // A result with tolerance does not hold for new connections.
        if tolerance == Tolerance::default() {
            self.keep(fingerprint, validity);
        }
        Ok(validity)
    }

    fn cached(
        &self,
        fingerprint: &Fingerprint,
        now: i64,
        tolerance: Tolerance,
    ) -> Option<Validity> {
        let validity = self.verified.lock().get(fingerprint)?;
        // An expired CRL revokes no certificate that it did not revoke before.
        let is_listed = tolerance.lists || now < validity.lists_until;
        let is_current = validity.from <= now && now <= validity.until;
        (is_listed && is_current).then_some(validity)
    }

    fn keep(&self, fingerprint: Fingerprint, validity: Validity) {
        self.verified.lock().insert(fingerprint, validity);
    }
}

impl ClientCertVerifier for CachingVerifier {
    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        match self.verify_new(end_entity, intermediates, now) {
            Ok(_) => Ok(ClientCertVerified::assertion()),
            Err(error) => {
                rejected::put(end_entity, Some(error.to_string()));
                Err(error.to_rustls(now).into())
            }
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let rewritten = for_signature(certificate);
        let readable = rewritten.as_ref().unwrap_or(certificate);
        verify_tls12_signature(message, readable, signature, self.chains.algorithms())
            .inspect_err(|_| rejected::put(certificate, None))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let rewritten = for_signature(certificate);
        let readable = rewritten.as_ref().unwrap_or(certificate);
        verify_tls13_signature(message, readable, signature, self.chains.algorithms())
            .inspect_err(|_| rejected::put(certificate, None))
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.names
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chains.algorithms().supported_schemes()
    }
}

#[cfg(test)]
mod tests;
