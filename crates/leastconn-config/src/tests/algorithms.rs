//! `groups` and `ciphers` of listeners.

use super::pki::{ALL, Pki};

#[test]
fn groups_and_ciphers_are_checked() {
    let pki = Pki::new();
    let says = |more: &str| pki.problems(&format!("{ALL}, {more}"));
    for good in [
        r#"groups = ["X25519MLKEM768", "X25519", "P-256", "P-384"]"#,
        r#"groups = "x25519""#,
        r#"groups = ["secp256r1", "secp384r1", "SecP256r1MLKEM768"]"#,
        r#"ciphers = ["TLS_AES_256_GCM_SHA384", "ECDHE-ECDSA-AES256-GCM-SHA384"]"#,
        r#"ciphers = "TLS_CHACHA20_POLY1305_SHA256", min_version = "1.3""#,
    ] {
        assert!(says(good).is_empty(), "{good}: {:?}", says(good));
    }
    for (bad, expected) in [
        ("groups = []", "error: `groups` is an empty list"),
        ("ciphers = []", "error: `ciphers` is an empty list"),
        (
            r#"groups = ["X25519MLKEM786"]"#,
            r#"there is no key exchange group "X25519MLKEM786"; did you mean "X25519MLKEM768"?"#,
        ),
        (
            r#"groups = ["ffdhe2048"]"#,
            r#"there is no key exchange group "ffdhe2048""#,
        ),
        (
            r#"ciphers = ["TLS_AES_128_GCM_SHA265"]"#,
            r#"did you mean "TLS_AES_128_GCM_SHA256"?"#,
        ),
        (
            r#"ciphers = ["RC4-MD5"]"#,
            r#"there is no cipher suite "RC4-MD5""#,
        ),
        (
            r#"ciphers = ["ECDHE-ECDSA-AES256-GCM-SHA384"], min_version = "1.3""#,
            "error: `ciphers` has no suite for TLS 1.3",
        ),
        (
            r#"ciphers = ["ECDHE-ECDSA-AES256-GCM-SHA384"]"#,
            "warning: `ciphers` has no suite for TLS 1.3",
        ),
        (
            r#"ciphers = ["TLS_AES_128_GCM_SHA256"]"#,
            "warning: `ciphers` has no suite for TLS 1.2",
        ),
        (
            r#"ciphers = ["ECDHE-RSA-AES256-GCM-SHA384"]"#,
            "error: no suite of `ciphers` can be used with the key of `cert`",
        ),
        (
            r#"ciphers = ["TLS_AES_128_GCM_SHA256", "ECDHE-RSA-AES256-GCM-SHA384"]"#,
            "warning: `ciphers` has no suite for TLS 1.2 that can be used",
        ),
        (
            r#"groups = ["X25519MLKEM768"]"#,
            "warning: `groups` has no group for TLS 1.2",
        ),
        (
            r#"groups = ["P-256", "prime256v1"]"#,
            r#"warning: `groups` names "prime256v1" twice"#,
        ),
    ] {
        let all = says(bad);
        assert!(
            all.iter().any(|line| line.contains(expected)),
            "{bad}: {all:?}"
        );
    }
}
