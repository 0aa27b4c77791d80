//! Which clients a listener trusts.

use std::sync::Arc;

use rustls::pki_types::{CertificateDer, UnixTime};

use crate::{
    chain::{ChainVerifier, Tolerance},
    chain_error::ChainError,
    client_chain::ClientChain,
    pinned::Pins,
    provider::TlsError,
    settings::{ClientAuth, ServerSettings},
    usage::Usage,
    verifier::CachingVerifier,
};

/// The CAs, CRLs and pins of a listener, with the cache of the chains that verified.
#[derive(Clone, Debug)]
pub struct Trust(pub(super) Arc<CachingVerifier>);

impl Trust {
    /// Returns `None` if `client_auth` is off. A client may send at most
    /// `max_intermediates` certificates beside its own.
    ///
    /// # Errors
    /// If rustls rejects the CAs or the CRLs.
    pub fn new(tls: &ServerSettings, max_intermediates: usize) -> Result<Option<Self>, TlsError> {
        if tls.client_auth == ClientAuth::None {
            return Ok(None);
        }
        let material = &tls.material;
        let chains = ChainVerifier::new(
            &material.client_ca,
            Arc::clone(&material.crls),
            rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms,
            Usage::Client,
        )?;
        let pins = tls.client_pins.iter().map(|pin| pin.as_str().to_owned());
        let verifier = CachingVerifier::new(chains, Pins::new(pins), max_intermediates);
        Ok(Some(Self(Arc::new(verifier))))
    }

    /// Whether both settings give the same result for every chain.
    pub fn same(a: &ServerSettings, b: &ServerSettings) -> bool {
        a.client_auth == b.client_auth
            && a.client_pins == b.client_pins
            && a.material.client_ca == b.material.client_ca
            && a.material.crls == b.material.crls
    }

    /// Verifies the chain of a client as of `now`, in seconds since 1970. The handshake
    /// verified it too, but may have started long before.
    ///
    /// Returns the last second in which all certificates of the path are valid, the CA's
    /// included.
    ///
    /// # Errors
    /// If the chain is not trusted.
    pub fn verify(&self, presented: &ClientChain, now: i64) -> Result<i64, ChainError> {
        let tolerance = Tolerance::default();
        let validity = self.0.verify_presented(presented, now, tolerance)?;
        Ok(validity.until)
    }

    /// Verifies the chain of an open connection. `kept_from` is the last second in which
    /// its certificates were valid, if it may stay open after that.
    ///
    /// An expired CRL ends no open connection: new connections are refused, and the clients
    /// that it revokes were disconnected when it was loaded.
    ///
    /// # Errors
    /// If the chain is not trusted any more.
    pub fn verify_open(
        &self,
        presented: &ClientChain,
        now: i64,
        kept_from: Option<i64>,
    ) -> Result<i64, ChainError> {
        let tolerance = Tolerance {
            lists: true,
            authorities: kept_from.is_some(),
        };
        let at = kept_from.map_or(now, |last| last.min(now));
        let validity = self.0.verify_presented(presented, at, tolerance)?;
        Ok(validity.until)
    }
}

/// Whether a listener would trust a client that presents this certificate with the
/// intermediates `above` now. Only a handshake proves possession of the key.
///
/// # Errors
/// The inner error is that of the handshake. The outer one occurs if rustls rejects the
/// settings.
pub fn trusts(
    tls: &ServerSettings,
    max_intermediates: usize,
    certificate: &CertificateDer<'_>,
    above: &[CertificateDer<'_>],
) -> Result<Result<(), ChainError>, TlsError> {
    let Some(Trust(verifier)) = Trust::new(tls, max_intermediates)? else {
        return Ok(Ok(()));
    };
    let verified = verifier.verify_new(certificate, above, UnixTime::now());
    Ok(verified.map(drop))
}
