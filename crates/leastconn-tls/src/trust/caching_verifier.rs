//! Verification of client certificates with a cache of valid chains.
//!
//! Clients reconnect with the same chain, and verifying a chain's signatures takes about a sixth of
//! the time of a handshake. The result cannot change while all certificates and CRLs involved are
//! valid, and while authorities and CRLs stay the same. A successful verification is therefore
//! cached until the first of these certificates and CRLs expires. The cache key is the SHA-256 of
//! the chain. Each configuration has its own verifier and cache.
//!
//! The signature in `CertificateVerify` is verified in every full handshake and never cached.
//! Errors are not cached, so clients without a certificate from a trusted authority cannot add
//! entries.

use parking_lot::Mutex;
use rustls::{
    DigitallySignedStruct, DistinguishedName, Error, SignatureScheme,
    client::danger::HandshakeSignatureValid,
    pki_types::{CertificateDer, UnixTime},
    server::danger::{ClientCertVerified, ClientCertVerifier},
};

use super::{
    ChainError, ChainVerifier, Pins, Tolerance, Usage, Validity, certificate_limits, seconds,
    unix_time, validity_cache::ValidityCache, verify_pinned,
};
use crate::{
    client_chain::{ClientChain, Fingerprint, fingerprint_of},
    rejected,
    settings::{MAX_CA_NAMES, ca_names_length},
};

const CAPACITY: usize = 8192;

#[derive(Debug)]
pub(crate) struct CachingVerifier {
    chains: ChainVerifier,
    /// Keys of clients that need no certificate from an authority.
    pins: Pins,
    /// The authority names for the CertificateRequest. Empty if they are too long for it.
    authority_names: Vec<DistinguishedName>,
    max_intermediates: usize,
    cache: Mutex<ValidityCache>,
    #[cfg(test)]
    misses: std::sync::atomic::AtomicUsize,
}

impl CachingVerifier {
    pub(super) fn new(chains: ChainVerifier, pins: Pins, max_intermediates: usize) -> Self {
        let mut authority_names = chains.authority_names();
        let lengths = authority_names.iter().map(|name| name.as_ref().len());
        // Some clients do not accept a longer CertificateRequest. If the list is empty, a
        // client chooses a certificate without it.
        if ca_names_length(lengths) > MAX_CA_NAMES {
            authority_names.clear();
        }
        Self {
            chains,
            pins,
            authority_names,
            max_intermediates,
            cache: Mutex::new(ValidityCache::new(CAPACITY)),
            #[cfg(test)]
            misses: Default::default(),
        }
    }

    /// Verifies a chain from a handshake.
    pub(crate) fn verify_new(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<Validity, ChainError> {
        let (sent, max) = (intermediates.len(), self.max_intermediates);
        if sent > max {
            return Err(ChainError::TooManyIntermediates { sent, max });
        }
        certificate_limits::check(end_entity, intermediates)?;
        let fingerprint = fingerprint_of(end_entity, intermediates);
        let tolerance = Tolerance::default();
        self.verify(fingerprint, end_entity, intermediates, now, tolerance)
    }

    /// Verifies the chain of an open connection as of `now`, in seconds since 1970.
    pub(super) fn verify_client_chain(
        &self,
        chain: &ClientChain,
        now: i64,
        tolerance: Tolerance,
    ) -> Result<Validity, ChainError> {
        let [end_entity, intermediates @ ..] = chain.chain() else {
            return Err(rustls::CertificateError::BadEncoding.into());
        };
        let (fingerprint, now) = (*chain.fingerprint(), unix_time(now));
        self.verify(fingerprint, end_entity, intermediates, now, tolerance)
    }

    /// Whether the chain would be accepted in a handshake at `now`.
    pub(crate) fn accepts(&self, chain: &[CertificateDer<'_>], now: UnixTime) -> bool {
        let [end_entity, intermediates @ ..] = chain else {
            return false;
        };
        let fingerprint = fingerprint_of(end_entity, intermediates);
        let tolerance = Tolerance::default();
        self.verify(fingerprint, end_entity, intermediates, now, tolerance)
            .is_ok()
    }

    fn verify(
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
            // All other errors concern a certificate that an authority issued, and then
            // revoked or restricted. A pin does not override such an error.
            Err(ChainError::Certificate(_) | ChainError::Issuer(_))
                if self.pins.contain(end_entity) =>
            {
                verify_pinned(end_entity, now, Usage::Client)?
            }
            verified => verified?,
        };
        // Do not cache a result that tolerates expired certificates or CRLs: new connections
        // must not use it.
        if tolerance == Tolerance::default() {
            self.cache.lock().insert(fingerprint, validity);
        }
        Ok(validity)
    }

    fn cached(
        &self,
        fingerprint: &Fingerprint,
        now: i64,
        tolerance: Tolerance,
    ) -> Option<Validity> {
        let validity = self.cache.lock().get(fingerprint)?;
        // An expired CRL still revokes the same certificates as before.
        let has_current_crls = tolerance.crls || now < validity.crls_until;
        let is_current = validity.from <= now && now <= validity.until;
        (has_current_crls && is_current).then_some(validity)
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
        self.chains
            .verify_tls12_signature(message, certificate, signature)
            .inspect_err(|_| rejected::put(certificate, None))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chains
            .verify_tls13_signature(message, certificate, signature)
            .inspect_err(|_| rejected::put(certificate, None))
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.authority_names
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chains.supported_schemes()
    }
}

#[cfg(test)]
mod tests;
