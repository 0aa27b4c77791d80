//! Cipher suites, key exchange groups and protocol versions for rustls.

use rustls::{NamedGroup, SupportedProtocolVersion, crypto::CryptoProvider};

use crate::{
    algorithms::Algorithms,
    buffered::suites,
    settings::{MinVersion, RecordLayer},
};

/// The aws-lc-rs crypto provider, restricted to `algorithms`.
pub(super) fn provider(algorithms: &Algorithms, records: RecordLayer) -> CryptoProvider {
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
        suites::wrap(&mut cipher_suites);
    }
    CryptoProvider {
        cipher_suites,
        kx_groups: algorithms.groups.iter().filter_map(group).collect(),
        ..default_provider()
    }
}

/// The protocol versions, starting with `min`, that have a cipher suite.
pub(super) fn versions(
    min: MinVersion,
    provider: &CryptoProvider,
) -> Vec<&'static SupportedProtocolVersion> {
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
