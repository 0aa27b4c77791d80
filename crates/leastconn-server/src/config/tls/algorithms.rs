//! Key exchange groups and cipher suites, in order of preference.

use std::ops::Range;

use rustls::{
    CipherSuite, NamedGroup, SignatureAlgorithm, SupportedCipherSuite,
    crypto::aws_lc_rs::{ALL_CIPHER_SUITES, sign::any_supported_type},
    pki_types::PrivateKeyDer,
};

use super::{MinVersion, load::Loader};
use crate::config::{
    raw::value::{At, OneOrMany},
    suggest,
};

/// What is offered or chosen, preferred first. Neither list is empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Algorithms {
    /// Key exchange groups.
    pub groups: Vec<NamedGroup>,
    /// Cipher suites of both TLS versions.
    pub suites: Vec<CipherSuite>,
}

impl Default for Algorithms {
    fn default() -> Self {
        Self {
            groups: DEFAULT_GROUPS.to_vec(),
            suites: SUITES.iter().map(|(_, _, suite)| *suite).collect(),
        }
    }
}

impl Algorithms {
    /// The names of `groups`, as the configuration takes them.
    pub fn group_names(&self) -> impl Iterator<Item = &'static str> + '_ {
        let name = |group: &NamedGroup| GROUPS.iter().find(|(_, known)| known == group);
        self.groups.iter().filter_map(name).map(|(name, _)| *name)
    }

    /// The names of `suites`, as the configuration takes them.
    pub fn suite_names(&self) -> impl Iterator<Item = &'static str> + '_ {
        let name = |suite: &CipherSuite| SUITES.iter().find(|(_, _, known)| known == suite);
        self.suites.iter().filter_map(name).map(|(name, ..)| *name)
    }
}

/// Post-quantum first: what is recorded today must stay secret when there are quantum
/// computers.
const DEFAULT_GROUPS: [NamedGroup; 4] = [
    NamedGroup::X25519MLKEM768,
    NamedGroup::X25519,
    NamedGroup::secp256r1,
    NamedGroup::secp384r1,
];

const GROUPS: [(&str, NamedGroup); 5] = [
    ("X25519MLKEM768", NamedGroup::X25519MLKEM768),
    ("SecP256r1MLKEM768", NamedGroup::secp256r1MLKEM768),
    ("X25519", NamedGroup::X25519),
    ("P-256", NamedGroup::secp256r1),
    ("P-384", NamedGroup::secp384r1),
];

/// Names of the same groups elsewhere, in lower case.
const GROUP_ALIASES: [(&str, &str); 6] = [
    ("p256", "P-256"),
    ("secp256r1", "P-256"),
    ("prime256v1", "P-256"),
    ("p384", "P-384"),
    ("secp384r1", "P-384"),
    ("curve25519", "X25519"),
];

/// Name, OpenSSL's name, suite: all that there are, in the default order. AES-128 comes
/// first: the SHA-384 of the AES-256 suites makes handshakes noticeably slower.
const SUITES: [(&str, &str, CipherSuite); 9] = [
    (
        "TLS_AES_128_GCM_SHA256",
        "TLS_AES_128_GCM_SHA256",
        CipherSuite::TLS13_AES_128_GCM_SHA256,
    ),
    (
        "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
        "ECDHE-ECDSA-AES128-GCM-SHA256",
        CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
    ),
    (
        "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
        "ECDHE-RSA-AES128-GCM-SHA256",
        CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
    ),
    (
        "TLS_AES_256_GCM_SHA384",
        "TLS_AES_256_GCM_SHA384",
        CipherSuite::TLS13_AES_256_GCM_SHA384,
    ),
    (
        "TLS_CHACHA20_POLY1305_SHA256",
        "TLS_CHACHA20_POLY1305_SHA256",
        CipherSuite::TLS13_CHACHA20_POLY1305_SHA256,
    ),
    (
        "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384",
        "ECDHE-ECDSA-AES256-GCM-SHA384",
        CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
    ),
    (
        "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256",
        "ECDHE-ECDSA-CHACHA20-POLY1305",
        CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
    ),
    (
        "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384",
        "ECDHE-RSA-AES256-GCM-SHA384",
        CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
    ),
    (
        "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256",
        "ECDHE-RSA-CHACHA20-POLY1305",
        CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
    ),
];

fn supported(suite: CipherSuite) -> Option<&'static SupportedCipherSuite> {
    ALL_CIPHER_SUITES
        .iter()
        .find(|known| known.suite() == suite)
}

fn is_tls13(suite: CipherSuite) -> bool {
    supported(suite).is_some_and(|suite| suite.tls13().is_some())
}

/// A post-quantum group, which TLS 1.2 does not have.
fn is_only_tls13(group: NamedGroup) -> bool {
    matches!(
        group,
        NamedGroup::X25519MLKEM768 | NamedGroup::secp256r1MLKEM768
    )
}

impl Loader<'_> {
    /// What `groups` and `ciphers` say, for `min_version` and the server's key, if there
    /// is one. What is wrong with them is reported.
    pub(super) fn algorithms(
        &mut self,
        groups: Option<&At<OneOrMany>>,
        ciphers: Option<&At<OneOrMany>>,
        min_version: MinVersion,
        key: Option<&PrivateKeyDer<'static>>,
    ) -> Algorithms {
        let mut algorithms = Algorithms::default();
        if let Some(at) = groups {
            let known: Vec<_> = GROUPS.iter().map(|(name, _)| *name).collect();
            algorithms.groups = self.list(at, "groups", "key exchange group", &known, group);
            if min_version == MinVersion::Tls12
                && !algorithms.groups.is_empty()
                && algorithms.groups.iter().all(|group| is_only_tls13(*group))
            {
                self.problems
                    .warning("`groups` has no group for TLS 1.2: its clients are refused")
                    .at(at.span.clone())
                    .help("add \"X25519\" and \"P-256\", or write `min_version = \"1.3\"`");
            }
        }
        if let Some(at) = ciphers {
            let known: Vec<_> = SUITES.iter().map(|(name, ..)| *name).collect();
            algorithms.suites = self.list(at, "ciphers", "cipher suite", &known, suite);
            self.versions_are_covered(&algorithms.suites, min_version, key, at);
        }
        algorithms
    }

    fn list<T: Copy + PartialEq>(
        &mut self,
        at: &At<OneOrMany>,
        key: &str,
        what: &str,
        known: &[&'static str],
        find: fn(&str) -> Option<T>,
    ) -> Vec<T> {
        let texts = at.each();
        if texts.is_empty() {
            self.problems
                .error(format!("`{key}` is an empty list"))
                .at(at.span.clone())
                .help("remove the key for the default");
        }
        let mut found: Vec<(T, Range<usize>)> = Vec::new();
        for text in &texts {
            let Some(value) = find(text.value) else {
                let problem = self
                    .problems
                    .error(format!("there is no {what} {:?}", text.value))
                    .at(text.span.clone());
                match suggest::nearest(text.value, known.iter().copied()) {
                    Some(meant) => problem.help(format!("did you mean {meant:?}?")),
                    None => problem.help(format!("there are {}", known.join(", "))),
                };
                continue;
            };
            if let Some((_, first)) = found.iter().find(|(other, _)| *other == value) {
                self.problems
                    .warning(format!("`{key}` names {:?} twice", text.value))
                    .at(text.span.clone())
                    .related(first.clone(), "first here");
                continue;
            }
            found.push((value, text.span.clone()));
        }
        found.into_iter().map(|(value, _)| value).collect()
    }

    /// Whether each version that is spoken has a suite.
    fn versions_are_covered(
        &mut self,
        suites: &[CipherSuite],
        min_version: MinVersion,
        key: Option<&PrivateKeyDer<'static>>,
        at: &At<OneOrMany>,
    ) {
        if suites.is_empty() {
            return;
        }
        let signature = key.and_then(|key| any_supported_type(key).ok());
        let signature = signature.map(|key| key.algorithm());
        let fits = |suite: &&CipherSuite| {
            let suite = supported(**suite);
            let usable = |algorithm: SignatureAlgorithm| {
                suite.is_some_and(|suite| suite.usable_for_signature_algorithm(algorithm))
            };
            signature.is_none_or(usable)
        };
        let tls13 = suites.iter().any(|suite| is_tls13(*suite));
        let tls12 = suites.iter().filter(|suite| !is_tls13(**suite));
        let tls12_any = tls12.clone().next().is_some();
        let tls12 = tls12.clone().any(|suite| fits(&suite));
        match (min_version, tls13, tls12) {
            (MinVersion::Tls13, false, _) => {
                self.problems
                    .error("`ciphers` has no suite for TLS 1.3, and `min_version` is \"1.3\"")
                    .at(at.span.clone())
                    .help("add \"TLS_AES_128_GCM_SHA256\"");
            }
            (MinVersion::Tls12, false, false) => {
                self.problems
                    .error("no suite of `ciphers` can be used with the key of `cert`")
                    .at(at.span.clone())
                    .help(
                        "suites with ECDSA need an ECDSA or Ed25519 key, those with RSA an RSA key",
                    );
            }
            (MinVersion::Tls12, false, true) => {
                self.problems
                    .warning("`ciphers` has no suite for TLS 1.3: only TLS 1.2 is spoken")
                    .at(at.span.clone())
                    .help("add \"TLS_AES_128_GCM_SHA256\"");
            }
            (MinVersion::Tls12, true, false) => {
                let why = if tls12_any {
                    "`ciphers` has no suite for TLS 1.2 that can be used with the key of `cert`"
                } else {
                    "`ciphers` has no suite for TLS 1.2"
                };
                self.problems
                    .warning(format!("{why}: its clients are refused"))
                    .at(at.span.clone())
                    .help("add one, or write `min_version = \"1.3\"`");
            }
            (MinVersion::Tls13, true, _) | (MinVersion::Tls12, true, true) => {}
        }
    }
}

fn group(text: &str) -> Option<NamedGroup> {
    let lower = text.to_ascii_lowercase();
    let alias = GROUP_ALIASES.iter().find(|(alias, _)| *alias == lower);
    let name = alias.map_or(text, |(_, name)| name);
    let same = |(known, _): &&(&str, NamedGroup)| known.eq_ignore_ascii_case(name);
    GROUPS.iter().find(same).map(|(_, group)| *group)
}

fn suite(text: &str) -> Option<CipherSuite> {
    let same = |(name, openssl, _): &&(&str, &str, CipherSuite)| {
        name.eq_ignore_ascii_case(text) || openssl.eq_ignore_ascii_case(text)
    };
    SUITES.iter().find(same).map(|(.., suite)| *suite)
}
