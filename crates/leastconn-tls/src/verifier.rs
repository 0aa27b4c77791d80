//! Verifying client certificates, with a cache of chains that were good.
//!
//! A client connects again and again with the same chain, and verifying it costs a
//! signature check each time, about a sixth of a handshake. The answer cannot change
//! while authorities and lists are the same and the time is within the validity of all
//! that it rests on; so a good answer is kept, by the SHA-256 of the whole chain, for
//! exactly that long. The cache lives in the verifier, which is made anew for each
//! configuration.
//!
//! That the client *has* the certificate's key is proven in every handshake:
//! `CertificateVerify` is never cached. Bad answers are not either, so nobody without a
//! certificate of a trusted authority adds anything.

use std::collections::HashMap;

use parking_lot::Mutex;
use rustls::{
    DigitallySignedStruct, DistinguishedName, Error, SignatureScheme,
    client::danger::HandshakeSignatureValid,
    crypto::{verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, UnixTime},
    server::danger::{ClientCertVerified, ClientCertVerifier},
};

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

/// Chains that are kept; then the cache is cleared, which costs one more verification
/// for each, and no bookkeeping in all the handshakes before.
const CAPACITY: usize = 8192;

/// A verifier of client certificates that caches good answers.
#[derive(Debug)]
pub(super) struct CachingVerifier {
    chains: ChainVerifier,
    /// Keys of clients that need no authority.
    pins: Pins,
    /// Sent in the CertificateRequest; empty if they do not fit.
    names: Vec<DistinguishedName>,
    /// Certificates that a client may send beside its own.
    max_intermediates: usize,
    good: Mutex<HashMap<Fingerprint, Validity>>,
    #[cfg(test)]
    misses: std::sync::atomic::AtomicUsize,
}

impl CachingVerifier {
    pub(super) fn new(chains: ChainVerifier, pins: Pins, max_intermediates: usize) -> Self {
        let mut names = chains.names();
        let length = ca_names_length(names.iter().map(|name| name.as_ref().len()));
        // Too many for some clients, or for the message itself. None at all is allowed:
        // the client then shows the certificate that it has.
        if length > MAX_CA_NAMES {
            names.clear();
        }
        Self {
            chains,
            pins,
            names,
            max_intermediates,
            good: Mutex::default(),
            #[cfg(test)]
            misses: Default::default(),
        }
    }

    /// Verifies a chain that a client has just sent.
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

    /// Verifies a chain that was presented before, as of `now` in seconds since 1970.
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
            // Not one that an authority has revoked or limited.
            Err(ChainError::Certificate(_)) if self.pins.contain(end_entity) => {
                pinned::verify(end_entity, now, Usage::Client)?
            }
            verified => verified?,
        };
        // With tolerance it may say nothing about those who connect.
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
        let good = self.good.lock();
        let validity = *good.get(fingerprint)?;
        // A list that has expired revokes nobody whom it did not revoke before.
        let is_listed = tolerance.lists || now < validity.lists_until;
        let is_current = validity.from <= now && now <= validity.until;
        (is_listed && is_current).then_some(validity)
    }

    fn keep(&self, fingerprint: Fingerprint, validity: Validity) {
        let mut good = self.good.lock();
        if good.len() >= CAPACITY {
            good.clear();
        }
        good.insert(fingerprint, validity);
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
