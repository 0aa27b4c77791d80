//! Names of cipher suites and key exchange groups in OpenSSL's notation.

use super::model::{Table, Value};

/// Supported cipher suites by their OpenSSL names.
const CIPHERS: [&str; 9] = [
    "TLS_AES_128_GCM_SHA256",
    "TLS_AES_256_GCM_SHA384",
    "TLS_CHACHA20_POLY1305_SHA256",
    "ECDHE-ECDSA-AES128-GCM-SHA256",
    "ECDHE-ECDSA-AES256-GCM-SHA384",
    "ECDHE-ECDSA-CHACHA20-POLY1305",
    "ECDHE-RSA-AES128-GCM-SHA256",
    "ECDHE-RSA-AES256-GCM-SHA384",
    "ECDHE-RSA-CHACHA20-POLY1305",
];

/// The cipher suites of TLS 1.3. The source programs configure them separately.
const TLS13: [&str; 3] = [
    "TLS_AES_128_GCM_SHA256",
    "TLS_AES_256_GCM_SHA384",
    "TLS_CHACHA20_POLY1305_SHA256",
];

/// OpenSSL's names of groups, with their names in the configuration.
const GROUPS: [(&str, &str); 8] = [
    ("x25519mlkem768", "X25519MLKEM768"),
    ("secp256r1mlkem768", "SecP256r1MLKEM768"),
    ("x25519", "X25519"),
    ("p-256", "P-256"),
    ("prime256v1", "P-256"),
    ("secp256r1", "P-256"),
    ("p-384", "P-384"),
    ("secp384r1", "P-384"),
];

/// Explains why a list of cipher suites sets no `ciphers`.
pub(crate) const ALL_SUITES: &str = "this list allows all supported cipher suites of TLS 1.2, so \
    `ciphers` is not set";

/// A list of cipher suites in OpenSSL's notation.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct CipherList {
    /// The selected suites in order of preference. Empty if the list selects all supported suites.
    pub(crate) names: Vec<String>,
    /// Entries that select no supported suite.
    pub(crate) unsupported: Vec<String>,
}

/// Translates a list of cipher suites: names, keywords such as `HIGH` and `ECDHE+AESGCM`, and
/// exclusions such as `!aNULL`.
pub(crate) fn ciphers(list: &str) -> CipherList {
    let mut chosen: Vec<&str> = Vec::new();
    let mut ciphers = CipherList::default();
    let mut has_keyword = false;
    let mut excluded: Vec<&str> = Vec::new();
    for entry in list.split([':', ',', ' ']).filter(|name| !name.is_empty()) {
        if let Some(name) = entry.strip_prefix(['!', '-']) {
            excluded.push(name);
            continue;
        }
        // `+ECDHE` and `@STRENGTH` change the order only.
        if entry.starts_with(['+', '@']) {
            continue;
        }
        has_keyword |= !CIPHERS.contains(&entry);
        let mut found = CIPHERS
            .iter()
            .filter(|suite| selects(entry, suite))
            .peekable();
        if found.peek().is_none() {
            ciphers.unsupported.push(entry.to_owned());
        }
        for suite in found {
            if !chosen.contains(suite) {
                chosen.push(suite);
            }
        }
    }
    chosen.retain(|suite| !excluded.iter().any(|entry| selects(entry, suite)));
    // Suites of TLS 1.3 are named one by one, never selected by a keyword.
    let tls12 = CIPHERS.len() - TLS13.len();
    if !has_keyword || chosen.len() < tls12 {
        ciphers.names = chosen.into_iter().map(str::to_owned).collect();
    }
    ciphers
}

/// Whether an entry of a list selects a cipher suite: its name, or keywords that are joined by `+`
/// and all apply to it.
fn selects(entry: &str, suite: &str) -> bool {
    if TLS13.contains(&suite) || entry.contains('-') {
        return entry == suite;
    }
    entry.split('+').all(|keyword| match keyword {
        "ALL" | "DEFAULT" | "HIGH" | "FIPS" | "AEAD" | "TLSv1.2" | "ECDHE" | "EECDH" | "kECDHE"
        | "kEECDH" | "PROFILE=SYSTEM" => true,
        "AES" | "AESGCM" => suite.contains("-AES"),
        "AES128" | "AES256" | "CHACHA20" | "ECDSA" | "SHA256" | "SHA384" => {
            suite.contains(&format!("-{keyword}"))
        }
        "aECDSA" => suite.contains("-ECDSA-"),
        "aRSA" => suite.contains("-RSA-"),
        _ => false,
    })
}

/// Adds all suites of a TLS version of which `names` has none: the source programs restrict the
/// versions separately. With `only_tls13`, removes the suites of TLS 1.2. An empty list stays empty.
pub(crate) fn with_both_versions(names: Vec<String>, only_tls13: bool) -> Vec<String> {
    if names.is_empty() {
        return names;
    }
    let is_tls13 = |name: &str| TLS13.contains(&name);
    let all = CIPHERS.map(str::to_owned).into_iter();
    let (all13, all12): (Vec<_>, Vec<_>) = all.partition(|name| is_tls13(name));
    let (own13, own12): (Vec<_>, Vec<_>) = names.into_iter().partition(|name| is_tls13(name));
    let tls13 = if own13.is_empty() { all13 } else { own13 };
    let tls12 = if only_tls13 {
        Vec::new()
    } else if own12.is_empty() {
        all12
    } else {
        own12
    };
    [tls13, tls12].concat()
}

/// Whether these are all supported suites in the order of the default of `ciphers`.
pub(crate) fn are_all(names: &[String]) -> bool {
    names == CIPHERS
}

/// Whether a `tls` table accepts no version before TLS 1.3.
pub(crate) fn requires_tls13(tls: &Table) -> bool {
    matches!(tls.get("min_version"), Some(Value::Text(version)) if version == "1.3")
}

/// Splits a list of groups into supported and unsupported ones.
pub(crate) fn groups(list: &str) -> (Vec<String>, Vec<String>) {
    let (mut known, mut unknown) = (Vec::new(), Vec::new());
    for name in list.split([':', ',']).filter(|name| !name.is_empty()) {
        let lower = name.to_ascii_lowercase();
        match GROUPS.iter().find(|(theirs, _)| *theirs == lower) {
            Some((_, ours)) if known.iter().any(|known| known == ours) => {}
            Some((_, ours)) => known.push((*ours).to_owned()),
            None => unknown.push(name.to_owned()),
        }
    }
    (known, unknown)
}

#[cfg(test)]
mod tests {
    use super::{ciphers, groups, with_both_versions};

    #[test]
    fn supported_names_are_kept_in_order() {
        let list = ciphers("ECDHE-RSA-AES256-GCM-SHA384:DHE-RSA-AES256-GCM-SHA384:!aNULL");
        assert_eq!(list.names, ["ECDHE-RSA-AES256-GCM-SHA384"]);
        assert_eq!(list.unsupported, ["DHE-RSA-AES256-GCM-SHA384"]);
        let (known, unknown) = groups("X25519:prime256v1:P-256:secp521r1");
        assert_eq!(known, ["X25519", "P-256"]);
        assert_eq!(unknown, ["secp521r1"]);
    }

    #[test]
    fn versions_are_restricted_separately() {
        let tls12 = with_both_versions(vec!["ECDHE-RSA-AES128-GCM-SHA256".to_owned()], false);
        assert_eq!(tls12.len(), 4);
        let suite = vec!["TLS_AES_128_GCM_SHA256".to_owned()];
        assert_eq!(with_both_versions(suite.clone(), false).len(), 7);
        assert_eq!(with_both_versions(suite.clone(), true), suite);
        assert!(with_both_versions(Vec::new(), false).is_empty());
    }

    #[test]
    fn cipher_keywords_select_suites() {
        for (list, expected) in [
            ("HIGH:!aNULL:!MD5", ""),
            ("PROFILE=SYSTEM", ""),
            ("ECDHE+AESGCM:ECDHE+CHACHA20", ""),
            ("ECDHE-RSA-AES128-GCM-SHA256:HIGH", ""),
            ("EECDH+aRSA+AES256:!SHA256", "ECDHE-RSA-AES256-GCM-SHA384"),
            (
                "ECDSA+CHACHA20:ECDHE-RSA-AES128-GCM-SHA256",
                "ECDHE-ECDSA-CHACHA20-POLY1305 ECDHE-RSA-AES128-GCM-SHA256",
            ),
            ("TLS_AES_128_GCM_SHA256", "TLS_AES_128_GCM_SHA256"),
        ] {
            let ciphers = ciphers(list);
            assert_eq!(ciphers.names.join(" "), expected, "{list}");
            assert!(ciphers.unsupported.is_empty(), "{list}");
        }
        assert_eq!(ciphers("RC4:DHE+AESGCM").unsupported, ["RC4", "DHE+AESGCM"]);
    }
}
