//! Whom a listener trusts.

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

/// Whom a listener trusts: its authorities and lists, and what they were found to
/// vouch for.
#[derive(Clone, Debug)]
pub struct Trust(pub(super) Arc<CachingVerifier>);

impl Trust {
    /// For clients that must show a certificate, with at most `max_intermediates` beside
    /// it; `None`: they need not.
    ///
    /// # Errors
    /// If rustls refuses the authorities or the lists.
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

    /// Whether the verdicts of both are the same, always.
    pub fn same(a: &ServerSettings, b: &ServerSettings) -> bool {
        a.client_auth == b.client_auth
            && a.client_pins == b.client_pins
            && a.material.client_ca == b.material.client_ca
            && a.material.crls == b.material.crls
    }

    /// Verifies the chain of a client that connects, as of `now` in seconds since 1970:
    /// the handshake did so too, but may have taken long since. Returns the last second
    /// in which the certificates are valid, the authority's included.
    ///
    /// # Errors
    /// If it is not good.
    pub fn verify(&self, presented: &ClientChain, now: i64) -> Result<i64, ChainError> {
        let tolerance = Tolerance::default();
        let validity = self.0.verify_presented(presented, now, tolerance)?;
        Ok(validity.until)
    }

    /// Verifies the chain of an open connection. `kept_from`: the last second in which
    /// its certificates were valid, if it may stay open beyond that.
    ///
    /// A list that has expired ends no open connection: nobody new is let in, and those
    /// whom it names were ended when it came.
    ///
    /// # Errors
    /// If it is not good any more.
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

/// Whether a listener would trust a client with this certificate, and those that
/// it sends with it, now. That the client has the key, only a handshake proves.
///
/// # Errors
/// As the handshake would end. If rustls does not take the configuration, the
/// outer one.
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
