//! Which peers are trusted: verification of certificate chains against authorities, CRLs
//! and pinned keys.

mod caching_verifier;
mod certificate_limits;
mod chain_error;
mod chain_verifier;
#[cfg(any(test, fuzzing))]
pub(crate) mod drive;
mod explain;
mod issuer_error;
mod issuer_selection;
mod path;
mod path_error;
mod pins;
mod rewrite;
mod validity_cache;
mod webpki_error;

use std::{sync::Arc, time::Duration};

use rustls::pki_types::{CertificateDer, UnixTime};

pub(crate) use caching_verifier::CachingVerifier;
pub use certificate_limits::TooManyElements;
pub use chain_error::{ChainError, ChainErrorKind};
pub(crate) use chain_verifier::{ChainVerifier, Tolerance};
pub use issuer_error::{IssuerError, IssuerProblem};
pub use path_error::PathError;
pub(crate) use pins::{Pins, verify_pinned};
pub(crate) use rewrite::parseable;

use crate::{
    client_chain::ClientChain,
    settings::{ClientAuth, ServerSettings},
    tls_error::TlsError,
};

/// The role of the peer whose certificate is verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Usage {
    Client,
    Server,
}

/// The validity period of a verified chain. All times are in seconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Validity {
    pub(crate) from: i64,
    /// The last second of the validity period of all certificates of the path, including the
    /// authority's.
    pub(crate) until: i64,
    /// The earliest expiry of the CRLs that were consulted.
    pub(crate) crls_until: i64,
}

/// What a listener verifies client certificates against: authorities, CRLs and pinned
/// keys. Caches valid chains.
#[derive(Clone, Debug)]
pub struct Trust(Arc<CachingVerifier>);

impl Trust {
    /// Returns `None` if clients need no certificate. A client may send at most `max_intermediates`
    /// certificates in addition to its own.
    ///
    /// # Errors
    /// If an authority cannot be used as a trust anchor.
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

    /// Whether listeners with these settings accept the same client certificates.
    pub fn same(a: &ServerSettings, b: &ServerSettings) -> bool {
        a.client_auth == b.client_auth
            && a.client_pins == b.client_pins
            && a.material.client_ca == b.material.client_ca
            && a.material.crls == b.material.crls
    }

    /// Verifies the chain of a new connection as of `now`, in seconds since 1970. Some seconds
    /// may have passed since the handshake verified the same chain. Returns the last second at
    /// which all certificates of the path are valid, including the authority's.
    ///
    /// # Errors
    /// If the chain is not accepted.
    pub fn verify(&self, chain: &ClientChain, now: i64) -> Result<i64, ChainError> {
        let tolerance = Tolerance::default();
        let validity = self.0.verify_client_chain(chain, now, tolerance)?;
        Ok(validity.until)
    }

    /// Verifies the chain of an open connection. If the connection may stay open after its
    /// certificates have expired, `kept_from` is the last second at which they were valid.
    ///
    /// An expired CRL does not end open connections: clients with a revoked certificate were
    /// disconnected when the CRL was loaded.
    ///
    /// # Errors
    /// If the chain is no longer accepted.
    pub fn verify_open(
        &self,
        chain: &ClientChain,
        now: i64,
        kept_from: Option<i64>,
    ) -> Result<i64, ChainError> {
        let tolerance = Tolerance {
            crls: true,
            authorities: kept_from.is_some(),
        };
        let at = kept_from.map_or(now, |last| last.min(now));
        let validity = self.0.verify_client_chain(chain, at, tolerance)?;
        Ok(validity.until)
    }

    pub(crate) fn verifier(&self) -> Arc<CachingVerifier> {
        Arc::clone(&self.0)
    }
}

/// Checks, for the `explain` command, whether a listener would now accept a client with this
/// certificate and these intermediates. The check assumes that the client has the key.
///
/// # Errors
/// The outer error means that an authority cannot be used as a trust anchor. The inner error
/// is the reason why the listener would refuse the client.
pub fn trusts(
    tls: &ServerSettings,
    max_intermediates: usize,
    certificate: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
) -> Result<Result<(), ChainError>, TlsError> {
    let Some(Trust(verifier)) = Trust::new(tls, max_intermediates)? else {
        return Ok(Ok(()));
    };
    let verified = verifier.verify_new(certificate, intermediates, UnixTime::now());
    Ok(verified.map(drop))
}

/// Converts to [`UnixTime`]. Times before 1970 become 1970.
fn unix_time(seconds: i64) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(seconds.try_into().unwrap_or(0)))
}

fn seconds(time: UnixTime) -> i64 {
    time.as_secs().try_into().unwrap_or(i64::MAX)
}
