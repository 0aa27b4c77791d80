//! Mutual TLS towards clients: what is spoken, who is trusted, and the stream. TLS
//! towards servers is in [`client`].
//!
//! Session resumption is off unless a listener asks for it: rustls resumes without
//! looking at chain, expiry or revocation again, so a client whose certificate was
//! revoked would go on with the session it has. The module `sessions` is what looks again.

mod buffered;
mod chain;
pub mod client;
mod clues;
mod direct;
mod handshake;
mod offer;
pub(crate) mod path;
mod pinned;
mod record;
mod rejected;
mod sessions;
mod stream;
mod unbuffered;
mod verifier;
mod words;

use std::sync::Arc;

use rustls::{
    ServerConfig, SupportedProtocolVersion,
    crypto::CryptoProvider,
    pki_types::{CertificateDer, UnixTime},
    server::NoServerSessionStorage,
};

pub use chain::ChainError;
pub use clues::{Clues, Failed};
pub use handshake::{HandshakeError, Hello, accept, read_hello};
pub use rejected::Claimed;
pub use stream::TlsStream;

use chain::{ChainVerifier, Tolerance, Usage};
use pinned::Pins;
use sessions::{Sessions, Visit};
use verifier::CachingVerifier;

use crate::{
    config::{ClientAuth, MinVersion, Tls, TlsRecords},
    presented::Presented,
    unfit,
};

/// Whom a listener trusts: its authorities and lists, and what they were found to
/// vouch for.
#[derive(Clone, Debug)]
pub struct Trust(Arc<CachingVerifier>);

impl Trust {
    /// For clients that must show a certificate; `None`: they need not.
    ///
    /// # Errors
    /// If rustls refuses the authorities or the lists.
    pub fn new(tls: &Tls) -> Result<Option<Self>, TlsError> {
        if tls.client_auth == ClientAuth::None {
            return Ok(None);
        }
        let material = &tls.material;
        let chains = ChainVerifier::new(
            &material.client_ca,
            Arc::clone(&material.crls),
            provider().signature_verification_algorithms,
            Usage::Client,
        )?;
        let pins = tls.client_pins.iter().map(|pin| pin.as_str().to_owned());
        let verifier = CachingVerifier::new(chains, Pins::new(pins));
        Ok(Some(Self(Arc::new(verifier))))
    }

    /// Whether the verdicts of both are the same, always.
    pub fn same(a: &Tls, b: &Tls) -> bool {
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
    pub fn verify(&self, presented: &Presented, now: i64) -> Result<i64, ChainError> {
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
        presented: &Presented,
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

/// A configuration that rustls does not take, although its files were checked.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// Versions, suites, certificate, key or authorities.
    #[error("TLS: {}", unfit::error(.0))]
    Rustls(#[from] rustls::Error),
}

/// What a listener speaks, and the sessions that its clients may resume.
#[derive(Clone, Debug)]
pub struct Server {
    config: Arc<ServerConfig>,
    sessions: Option<Arc<Sessions>>,
}

/// As `config` has it, and nothing is resumed but what it resumes by itself.
impl From<Arc<ServerConfig>> for Server {
    fn from(config: Arc<ServerConfig>) -> Self {
        Self {
            config,
            sessions: None,
        }
    }
}

impl Server {
    /// Whether records are our own.
    fn is_direct(&self) -> bool {
        self.config.enable_secret_extraction
    }

    /// The configuration for one connection.
    fn terms(&self, hello: &Hello) -> Terms {
        match &self.sessions {
            Some(sessions) if hello.may_resume() => {
                let (config, visit) = sessions.visit(&self.config);
                Terms {
                    config: Arc::new(config),
                    visit: Some(visit),
                }
            }
            _ => Terms::from(Arc::clone(&self.config)),
        }
    }
}

/// What one connection is made with.
struct Terms {
    config: Arc<ServerConfig>,
    /// To be told when the handshake is over.
    visit: Option<Arc<Visit>>,
}

impl From<Arc<ServerConfig>> for Terms {
    fn from(config: Arc<ServerConfig>) -> Self {
        Self {
            config,
            visit: None,
        }
    }
}

/// What a listener speaks, to clients that `trust` vouches for, or to all if there is
/// none: TLS 1.2 and 1.3 or 1.3 alone, with rustls' default
/// suites, which are ECDHE with AES-GCM or ChaCha20-Poly1305 and nothing else.
///
/// The choice of the record layer is in `enable_secret_extraction`, which
/// [`TlsRecords::Direct`] needs and nothing else does.
///
/// # Errors
/// If rustls refuses any part of it.
pub fn server(tls: &Tls, trust: Option<&Trust>, records: TlsRecords) -> Result<Server, TlsError> {
    let provider = Arc::new(provider_for(records));
    let builder = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(versions(tls.min_version))?;
    let material = &tls.material;
    let builder = match trust {
        None => builder.with_no_client_auth(),
        Some(Trust(verifier)) => builder.with_client_cert_verifier(Arc::clone(verifier) as _),
    };
    let mut config =
        builder.with_single_cert(material.cert_chain.clone(), material.key.clone_key())?;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.ignore_client_order = true;
    config.enable_secret_extraction = records == TlsRecords::Direct;
    config.alpn_protocols = tls.alpn.protocols();
    Ok(Server {
        config: Arc::new(config),
        sessions: tls.resumption.map(|lifetime| {
            let verifier = trust.map(|Trust(verifier)| Arc::clone(verifier));
            Arc::new(Sessions::new(verifier, lifetime))
        }),
    })
}

/// Whether a listener would trust a client with this certificate, and those that
/// it sends with it, now. That the client has the key, only a handshake proves.
///
/// # Errors
/// As the handshake would end. If rustls does not take the configuration, the
/// outer one.
pub fn trusts(
    tls: &Tls,
    certificate: &CertificateDer<'_>,
    above: &[CertificateDer<'_>],
) -> Result<Result<(), ChainError>, TlsError> {
    let Some(Trust(verifier)) = Trust::new(tls)? else {
        return Ok(Ok(()));
    };
    let verified = verifier.verify(
        crate::presented::fingerprint_of(certificate, above),
        certificate,
        above,
        UnixTime::now(),
        Tolerance::default(),
    );
    Ok(verified.map(drop))
}

fn versions(min: MinVersion) -> &'static [&'static SupportedProtocolVersion] {
    static BOTH: [&SupportedProtocolVersion; 2] =
        [&rustls::version::TLS13, &rustls::version::TLS12];
    match min {
        MinVersion::Tls12 => &BOTH,
        MinVersion::Tls13 => &BOTH[..1],
    }
}

/// rustls' suites, all of them, in our own order: AES-128-GCM first. Clients put
/// TLS_AES_256_GCM_SHA384 first, whose SHA-384 no processor helps with and which
/// a handshake takes a good deal of: see docs/performance.md.
fn provider() -> CryptoProvider {
    use rustls::CipherSuite::{
        TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
        TLS13_AES_128_GCM_SHA256,
    };
    const FIRST: [rustls::CipherSuite; 3] = [
        TLS13_AES_128_GCM_SHA256,
        TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
        TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
    ];
    let mut provider = rustls::crypto::aws_lc_rs::default_provider();
    // A stable sort: the others stay as they were.
    provider
        .cipher_suites
        .sort_by_key(|suite| !FIRST.contains(&suite.suite()));
    provider
}

/// As [`provider`], for this record layer.
fn provider_for(records: TlsRecords) -> CryptoProvider {
    let mut provider = provider();
    if records == TlsRecords::Rustls {
        buffered::suites::wrap(&mut provider.cipher_suites);
    }
    provider
}

/// Version and suite of an established connection, for the log.
pub fn negotiated(stream: &TlsStream) -> (&'static str, &'static str) {
    use rustls::CipherSuite;
    let version = stream.about().version;
    let version = version.map_or("unknown", clues::version_name);
    let cipher = match stream.about().suite {
        // rustls has a prefix of its own for these.
        Some(CipherSuite::TLS13_AES_128_GCM_SHA256) => "TLS_AES_128_GCM_SHA256",
        Some(CipherSuite::TLS13_AES_256_GCM_SHA384) => "TLS_AES_256_GCM_SHA384",
        Some(CipherSuite::TLS13_CHACHA20_POLY1305_SHA256) => "TLS_CHACHA20_POLY1305_SHA256",
        Some(other) => other.as_str().unwrap_or("unknown"),
        None => "unknown",
    };
    (version, cipher)
}

/// For the fuzz target `tls_record`.
#[cfg(fuzzing)]
pub fn fuzz_records(data: &[u8]) {
    record::drive::drive(data);
}

/// For the fuzz target `tls_stream`.
#[cfg(fuzzing)]
pub fn fuzz_stream(data: &[u8]) {
    direct::drive::drive(data);
}
