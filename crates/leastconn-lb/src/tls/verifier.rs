//! Verifying client certificates, and remembering which chains were good.
//!
//! A client connects again and again with the same chain, and building the path
//! costs a signature check each time, about a sixth of a handshake. The answer
//! cannot change while the authorities and the lists are the same and time stays
//! within the validity of all that it rests on; so a good answer is remembered,
//! by the SHA-256 of the whole chain, for exactly that long. It lives in the
//! verifier, which is made anew for each configuration.
//!
//! That the client *has* the certificate's key is proven in every handshake:
//! `CertificateVerify` is never remembered. Bad answers are not either, so
//! nobody without a certificate of a trusted authority adds anything.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use rustls::{
    DigitallySignedStruct, DistinguishedName, Error, SignatureScheme,
    client::danger::HandshakeSignatureValid,
    pki_types::{CertificateDer, CertificateRevocationListDer, UnixTime},
    server::danger::{ClientCertVerified, ClientCertVerifier},
};
use x509_parser::{
    certificate::X509Certificate, prelude::FromDer, revocation_list::CertificateRevocationList,
};

use super::refused;
use crate::presented::{Fingerprint, Presented, fingerprint_of};

/// Chains that are remembered; then all are forgotten at once, which costs one
/// more verification for each, and no bookkeeping in all the handshakes before.
const CAPACITY: usize = 8192;

/// Seconds since 1970 between which an answer holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Validity {
    from: u64,
    until: u64,
}

impl Validity {
    const fn contains(self, now: u64) -> bool {
        self.from <= now && now < self.until
    }
}

/// A verifier that asks another one, and remembers what it found good.
#[derive(Debug)]
pub(super) struct Remembering {
    verifier: Arc<dyn ClientCertVerifier>,
    /// The nearest `nextUpdate` of the revocation lists.
    lists_until: u64,
    good: Mutex<HashMap<Fingerprint, Validity>>,
}

impl Remembering {
    pub(super) fn new(verifier: Arc<dyn ClientCertVerifier>, lists_until: u64) -> Self {
        Self {
            verifier,
            lists_until,
            good: Mutex::default(),
        }
    }

    /// Verifies a chain again, as of `now` in seconds since 1970.
    pub(super) fn verify_again(&self, presented: &Presented, now: i64) -> Result<(), Error> {
        let [end_entity, intermediates @ ..] = presented.chain() else {
            return Err(Error::NoCertificatesPresented);
        };
        let now = Duration::from_secs(u64::try_from(now).unwrap_or(0));
        let now = UnixTime::since_unix_epoch(now);
        self.verify(*presented.fingerprint(), end_entity, intermediates, now)
    }

    fn verify(
        &self,
        chain: Fingerprint,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Error> {
        if self.is_known(&chain, now.as_secs()) {
            return Ok(());
        }
        self.verifier
            .verify_client_cert(end_entity, intermediates, now)
            .inspect_err(|_| refused::put(end_entity))?;
        if let Some(validity) = validity(end_entity, intermediates, self.lists_until) {
            self.remember(chain, validity);
        }
        Ok(())
    }

    fn is_known(&self, chain: &Fingerprint, now: u64) -> bool {
        let good = self.good.lock().unwrap_or_else(PoisonError::into_inner);
        good.get(chain)
            .is_some_and(|validity| validity.contains(now))
    }

    fn remember(&self, chain: Fingerprint, validity: Validity) {
        let mut good = self.good.lock().unwrap_or_else(PoisonError::into_inner);
        if good.len() >= CAPACITY {
            good.clear();
        }
        good.insert(chain, validity);
    }
}

/// The nearest `nextUpdate` of `lists`, in seconds since 1970. A list that has
/// none, or does not parse, makes it "now": nothing is remembered.
pub(super) fn lists_until(lists: &[CertificateRevocationListDer<'_>]) -> u64 {
    let next_update = |der: &CertificateRevocationListDer<'_>| {
        let (_, list) = CertificateRevocationList::from_der(der).ok()?;
        u64::try_from(list.next_update()?.timestamp()).ok()
    };
    let all = lists.iter().map(|list| next_update(list).unwrap_or(0));
    all.min().unwrap_or(u64::MAX)
}

/// When all certificates of a chain are valid, and the lists current. `None` if
/// that cannot be read, and then nothing is remembered.
fn validity(
    end_entity: &[u8],
    intermediates: &[CertificateDer<'_>],
    lists_until: u64,
) -> Option<Validity> {
    let mut all = Validity {
        from: 0,
        until: lists_until,
    };
    for der in intermediates.iter().map(|der| &**der).chain([end_entity]) {
        let (_, certificate) = X509Certificate::from_der(der).ok()?;
        let validity = certificate.validity();
        all.from = all
            .from
            .max(u64::try_from(validity.not_before.timestamp()).ok()?);
        all.until = all
            .until
            .min(u64::try_from(validity.not_after.timestamp()).ok()?);
    }
    Some(all)
}

impl ClientCertVerifier for Remembering {
    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let chain = fingerprint_of(end_entity, intermediates);
        self.verify(chain, end_entity, intermediates, now)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verifier
            .verify_tls12_signature(message, certificate, signature)
            .inspect_err(|_| refused::put(certificate))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verifier
            .verify_tls13_signature(message, certificate, signature)
            .inspect_err(|_| refused::put(certificate))
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.verifier.root_hint_subjects()
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.verifier.supported_verify_schemes()
    }

    fn offer_client_auth(&self) -> bool {
        self.verifier.offer_client_auth()
    }

    fn client_auth_mandatory(&self) -> bool {
        self.verifier.client_auth_mandatory()
    }
}

#[cfg(test)]
mod tests;
