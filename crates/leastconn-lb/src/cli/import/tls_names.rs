//! Names of cipher suites and key exchange groups in OpenSSL's notation.

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
pub(crate) const TLS13: [&str; 3] = [
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

/// Splits a list of cipher suites into supported and unsupported ones. Exclusions
/// (`!aNULL`) are dropped, because the list of supported suites is complete.
pub(crate) fn ciphers(list: &str) -> (Vec<String>, Vec<String>) {
    let names = list
        .split([':', ',', ' '])
        .filter(|name| !name.is_empty() && !name.starts_with(['!', '-', '@']));
    let (known, unknown): (Vec<_>, Vec<_>) = names
        .map(str::to_owned)
        .partition(|name| CIPHERS.contains(&name.as_str()));
    (known, unknown)
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
    use super::{ciphers, groups};

    #[test]
    fn supported_names_are_kept_in_order() {
        let (known, unknown) =
            ciphers("ECDHE-RSA-AES256-GCM-SHA384:HIGH:!aNULL:TLS_AES_128_GCM_SHA256");
        assert_eq!(
            known,
            ["ECDHE-RSA-AES256-GCM-SHA384", "TLS_AES_128_GCM_SHA256"]
        );
        assert_eq!(unknown, ["HIGH"]);
        let (known, unknown) = groups("X25519:prime256v1:P-256:secp521r1");
        assert_eq!(known, ["X25519", "P-256"]);
        assert_eq!(unknown, ["secp521r1"]);
    }
}
