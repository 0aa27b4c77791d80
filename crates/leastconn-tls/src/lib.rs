//! Mutual TLS towards clients: what is spoken, who is trusted, and the stream. TLS
//! towards servers is in [`client`].
//!
//! Session resumption is off unless a listener asks for it: rustls resumes without
//! looking at chain, expiry or revocation again, so a client whose certificate was
//! revoked would go on with the session it has. The module `sessions` is what looks again.

pub mod algorithms;
pub mod alpn;
mod buffered;
pub mod certificate;
mod chain;
pub mod client;
pub mod client_chain;
mod clues;
pub mod crl;
mod direct;
mod handshake;
mod hello;
pub mod instead;
mod intermediates;
pub mod names;
mod offer;
pub mod path;
pub mod pattern;
pub mod permit;
mod pinned;
mod record;
mod rejected;
mod sessions;
pub mod settings;
pub mod spiffe;
mod stream;
mod unbuffered;
pub mod unfit;
mod verifier;
mod words;
pub mod x509;

use std::sync::Arc;

use rustls::{
    NamedGroup, ServerConfig, SupportedProtocolVersion,
    crypto::{CryptoProvider, SupportedKxGroup},
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

use algorithms::Algorithms;
use client_chain::ClientChain;
use settings::{ClientAuth, MinVersion, RecordLayer, ServerSettings};

/// Whom a listener trusts: its authorities and lists, and what they were found to
/// vouch for.
#[derive(Clone, Debug)]
pub struct Trust(Arc<CachingVerifier>);

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
    /// The same for each key exchange group alone, preferred first: rustls chooses by the
    /// client's preference.
    by_group: Arc<[(NamedGroup, Arc<ServerConfig>)]>,
    sessions: Option<Arc<Sessions>>,
}

/// As `config` has it, and nothing is resumed but what it resumes by itself.
impl From<Arc<ServerConfig>> for Server {
    fn from(config: Arc<ServerConfig>) -> Self {
        Self {
            config,
            by_group: Arc::default(),
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
        let config = hello
            .preferred_group(self.by_group.iter().map(|(group, _)| *group))
            .and_then(|group| self.by_group.iter().find(|(known, _)| *known == group))
            .map_or(&self.config, |(_, config)| config);
        match &self.sessions {
            Some(sessions) if hello.may_resume() => {
                let (config, visit) = sessions.visit(config);
                Terms {
                    config: Arc::new(config),
                    visit: Some(visit),
                }
            }
            _ => Terms::from(Arc::clone(config)),
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
/// none.
///
/// The choice of the record layer is in `enable_secret_extraction`, which
/// [`RecordLayer::Direct`] needs and nothing else does.
///
/// # Errors
/// If rustls refuses any part of it.
pub fn server(
    tls: &ServerSettings,
    trust: Option<&Trust>,
    records: RecordLayer,
) -> Result<Server, TlsError> {
    let all = provider(&tls.algorithms, records);
    let versions = versions(tls.min_version, &all);
    let spoken = |group: &&&'static dyn SupportedKxGroup| {
        let mut versions = versions.iter();
        versions.any(|version| group.usable_for_version(version.version))
    };
    let by_group = all.kx_groups.iter().filter(spoken).map(|group| {
        let provider = CryptoProvider {
            kx_groups: vec![*group],
            ..all.clone()
        };
        let config = server_config(tls, trust, provider, &versions, records)?;
        Ok((group.name(), Arc::new(config)))
    });
    let by_group = by_group.collect::<Result<_, TlsError>>()?;
    let config = server_config(tls, trust, all, &versions, records)?;
    Ok(Server {
        by_group,
        config: Arc::new(config),
        sessions: tls.resumption.map(|lifetime| {
            let verifier = trust.map(|Trust(verifier)| Arc::clone(verifier));
            Arc::new(Sessions::new(verifier, lifetime))
        }),
    })
}

fn server_config(
    tls: &ServerSettings,
    trust: Option<&Trust>,
    provider: CryptoProvider,
    versions: &[&'static SupportedProtocolVersion],
    records: RecordLayer,
) -> Result<ServerConfig, TlsError> {
    let builder =
        ServerConfig::builder_with_provider(Arc::new(provider)).with_protocol_versions(versions)?;
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
    config.enable_secret_extraction = records == RecordLayer::Direct;
    config.alpn_protocols = tls.alpn.protocols();
    Ok(config)
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

/// Cryptography for these algorithms, and this record layer.
fn provider(algorithms: &Algorithms, records: RecordLayer) -> CryptoProvider {
    use rustls::crypto::aws_lc_rs::{ALL_CIPHER_SUITES, ALL_KX_GROUPS, default_provider};
    let suite = |name: &rustls::CipherSuite| {
        let mut all = ALL_CIPHER_SUITES.iter();
        all.find(|suite| suite.suite() == *name).copied()
    };
    let group = |name: &NamedGroup| {
        let mut all = ALL_KX_GROUPS.iter();
        all.find(|group| group.name() == *name).copied()
    };
    let mut cipher_suites = algorithms
        .suites
        .iter()
        .filter_map(suite)
        .collect::<Vec<_>>();
    if records == RecordLayer::Rustls {
        buffered::suites::wrap(&mut cipher_suites);
    }
    CryptoProvider {
        cipher_suites,
        kx_groups: algorithms.groups.iter().filter_map(group).collect(),
        ..default_provider()
    }
}

/// The versions from `min` on that there are suites for.
fn versions(min: MinVersion, provider: &CryptoProvider) -> Vec<&'static SupportedProtocolVersion> {
    let all: &[_] = match min {
        MinVersion::Tls12 => &[&rustls::version::TLS13, &rustls::version::TLS12],
        MinVersion::Tls13 => &[&rustls::version::TLS13],
    };
    let has_suite = |version: &&&'static SupportedProtocolVersion| {
        let mut suites = provider.cipher_suites.iter();
        suites.any(|suite| suite.version() == **version)
    };
    all.iter().filter(has_suite).copied().collect()
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

/// For the fuzz target `patterns`.
#[cfg(fuzzing)]
pub fn fuzz_patterns(wide: &str, narrow: &str, name: &str) {
    pattern::drive::drive(wide, narrow, name);
}
