//! Key exchange groups and cipher suites, in order of preference.

use rustls::{CipherSuite, NamedGroup};

/// Algorithms in order of preference. Each list has at least one entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Algorithms {
    pub groups: Vec<NamedGroup>,
    /// Cipher suites of TLS 1.2 and TLS 1.3.
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
    /// The names of [`Self::groups`], as the configuration spells them.
    pub fn group_names(&self) -> impl Iterator<Item = &'static str> + '_ {
        let name = |group: &NamedGroup| GROUPS.iter().find(|(_, known)| known == group);
        self.groups.iter().filter_map(name).map(|(name, _)| *name)
    }

    /// The names of [`Self::suites`], as the configuration spells them.
    pub fn suite_names(&self) -> impl Iterator<Item = &'static str> + '_ {
        let name = |suite: &CipherSuite| SUITES.iter().find(|(_, _, known)| known == suite);
        self.suites.iter().filter_map(name).map(|(name, ..)| *name)
    }
}

/// Post-quantum groups come first, so that traffic recorded today cannot be decrypted with a future
/// quantum computer.
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

/// Aliases of key exchange groups, in lower case.
const GROUP_ALIASES: [(&str, &str); 6] = [
    ("p256", "P-256"),
    ("secp256r1", "P-256"),
    ("prime256v1", "P-256"),
    ("p384", "P-384"),
    ("secp384r1", "P-384"),
    ("curve25519", "X25519"),
];

/// The supported cipher suites, each with its IANA and OpenSSL names, in the default order. AES-128
/// suites come first, because the AES-256 suites use SHA-384, which makes handshakes noticeably
/// slower.
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

impl Algorithms {
    pub fn known_groups() -> impl Iterator<Item = &'static str> {
        GROUPS.iter().map(|(name, _)| *name)
    }

    pub fn known_suites() -> impl Iterator<Item = &'static str> {
        SUITES.iter().map(|(name, ..)| *name)
    }

    /// Finds a group by its name or by an alias. Case does not matter.
    pub fn group(text: &str) -> Option<NamedGroup> {
        let lower = text.to_ascii_lowercase();
        let alias = GROUP_ALIASES.iter().find(|(alias, _)| *alias == lower);
        let name = alias.map_or(text, |(_, name)| name);
        let same = |(known, _): &&(&str, NamedGroup)| known.eq_ignore_ascii_case(name);
        GROUPS.iter().find(same).map(|(_, group)| *group)
    }

    /// Finds a cipher suite by its IANA or OpenSSL name. Case does not matter.
    pub fn suite(text: &str) -> Option<CipherSuite> {
        let same = |(name, openssl, _): &&(&str, &str, CipherSuite)| {
            name.eq_ignore_ascii_case(text) || openssl.eq_ignore_ascii_case(text)
        };
        SUITES.iter().find(same).map(|(.., suite)| *suite)
    }
}
