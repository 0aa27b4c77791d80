//! Key exchange groups and cipher suites, in order of preference.

use std::ops::Range;

use rustls::{
    CipherSuite, NamedGroup, SignatureAlgorithm, SupportedCipherSuite,
    crypto::aws_lc_rs::{ALL_CIPHER_SUITES, sign::any_supported_type},
    pki_types::PrivateKeyDer,
};

use leastconn_tls::{algorithms::Algorithms, settings::MinVersion};

use super::loader::Loader;
use crate::{
    raw::value::{At, OneOrMany},
    suggest,
};

fn supported(suite: CipherSuite) -> Option<&'static SupportedCipherSuite> {
    ALL_CIPHER_SUITES
        .iter()
        .find(|known| known.suite() == suite)
}

fn is_tls13(suite: CipherSuite) -> bool {
    supported(suite).is_some_and(|suite| suite.tls13().is_some())
}

/// Whether the group is post-quantum, so that only TLS 1.3 supports it.
fn is_only_tls13(group: NamedGroup) -> bool {
    matches!(
        group,
        NamedGroup::X25519MLKEM768 | NamedGroup::secp256r1MLKEM768
    )
}

impl Loader<'_> {
    /// Converts `groups` and `ciphers`. Reports problems, including combinations that do not work
    /// with `min_version` or with the server's key.
    pub(super) fn algorithms(
        &mut self,
        groups: Option<&At<OneOrMany>>,
        ciphers: Option<&At<OneOrMany>>,
        min_version: MinVersion,
        key: Option<&PrivateKeyDer<'static>>,
    ) -> Algorithms {
        let mut algorithms = Algorithms::default();
        if let Some(at) = groups {
            let known: Vec<_> = Algorithms::known_groups().collect();
            let (groups, is_complete) = self.list(
                at,
                "groups",
                "key exchange group",
                &known,
                Algorithms::group,
            );
            algorithms.groups = groups;
            if min_version == MinVersion::Tls12
                && is_complete
                && !algorithms.groups.is_empty()
                && algorithms.groups.iter().all(|group| is_only_tls13(*group))
            {
                self.problems
                    .warning("`groups` has no group for TLS 1.2: clients with TLS 1.2 are refused")
                    .at(at.span.clone())
                    .help("add \"X25519\" and \"P-256\", or write `min_version = \"1.3\"`");
            }
        }
        if let Some(at) = ciphers {
            let known: Vec<_> = Algorithms::known_suites().collect();
            let (suites, is_complete) =
                self.list(at, "ciphers", "cipher suite", &known, Algorithms::suite);
            algorithms.suites = suites;
            if is_complete {
                self.check_cipher_suites(&algorithms.suites, min_version, key, at);
            }
        }
        algorithms
    }

    /// Returns the known values of a list, and whether all its values are valid.
    fn list<T: Copy + PartialEq>(
        &mut self,
        at: &At<OneOrMany>,
        key: &str,
        what: &str,
        known: &[&'static str],
        find: fn(&str) -> Option<T>,
    ) -> (Vec<T>, bool) {
        let texts = at.each();
        let mut is_complete = !self.is_pruned(&at.span);
        if texts.is_empty() && !self.is_pruned(&at.span) {
            self.problems
                .error(format!("`{key}` is an empty list"))
                .at(at.span.clone())
                .help("remove the key to use the default");
        }
        let mut found: Vec<(T, Range<usize>)> = Vec::new();
        for text in &texts {
            let Some(value) = find(text.value) else {
                is_complete = false;
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
        let values = found.into_iter().map(|(value, _)| value).collect();
        (values, is_complete)
    }

    /// Checks that each accepted TLS version has at least one cipher suite.
    fn check_cipher_suites(
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
        let is_usable = |suite: &&CipherSuite| {
            let suite = supported(**suite);
            let usable = |algorithm: SignatureAlgorithm| {
                suite.is_some_and(|suite| suite.usable_for_signature_algorithm(algorithm))
            };
            signature.is_none_or(usable)
        };
        let tls13 = suites.iter().any(|suite| is_tls13(*suite));
        let tls12 = suites.iter().filter(|suite| !is_tls13(**suite));
        let tls12_any = tls12.clone().next().is_some();
        let tls12 = tls12.clone().any(|suite| is_usable(&suite));
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
                        "suites with ECDSA need an ECDSA or Ed25519 key, suites with RSA an RSA key",
                    );
            }
            (MinVersion::Tls12, false, true) => {
                self.problems
                    .warning("`ciphers` has no suite for TLS 1.3: only TLS 1.2 is used")
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
                    .warning(format!("{why}: clients with TLS 1.2 are refused"))
                    .at(at.span.clone())
                    .help("add one, or write `min_version = \"1.3\"`");
            }
            (MinVersion::Tls13, true, _) | (MinVersion::Tls12, true, true) => {}
        }
    }
}
