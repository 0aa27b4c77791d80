//! Backends that become one upstream.

use super::{super::Program, outputs::translated};

/// Two backends, with these lines for the checks of the first and of the second.
fn source(first: &str, second: &str) -> String {
    format!(
        "frontend fe_tls
            bind :1 ssl crt server.pem ca-file ca.crt verify required
            use_backend bk_b if {{ ssl_c_s_dn(cn) b }}
            default_backend bk_a
        frontend fe_pass
            bind :2
            use_backend bk_b if {{ req.ssl_sni x }}
            default_backend bk_a
        backend bk_a
            {first}
            server a 127.0.0.1:1 check
        backend bk_b
            {second}
            server b 127.0.0.1:2 check"
    )
}

/// The text without line ends and comment characters.
fn unwrapped(toml: &str) -> String {
    let words = toml.split_whitespace().filter(|word| *word != "#");
    words.collect::<Vec<_>>().join(" ")
}

#[test]
fn servers_are_not_checked_like_another_backend() {
    let port = "option tcp-check\n tcp-check connect port 9";
    let http = "option httpchk GET /health";
    let mysql = "option mysql-check user haproxy";
    for (first, second, check) in [
        (port, "", "tcp"),
        (http, port, "tcp"),
        (http, http, "http"),
        ("", mysql, "none"),
    ] {
        let toml = translated(Program::Haproxy, &source(first, second)).toml;
        let case = format!("{first}, {second}:\n{toml}");
        let types: Vec<_> = toml.split("type = ").skip(1).collect();
        let is_expected = types
            .iter()
            .all(|text| text.starts_with(&format!("{check:?}")));
        assert!(is_expected && !types.is_empty(), "{case}");
        assert!(!toml.contains("port = 9"), "{case}");
        let is_noted = unwrapped(&toml).contains("differ: these servers are only");
        assert_eq!(is_noted, first != second, "{case}");
    }
}

#[test]
fn closed_listeners_name_the_upstream_that_exists() {
    let toml = translated(Program::Haproxy, &source("", "")).toml;
    let words: Vec<_> = toml
        .split_whitespace()
        .filter(|word| *word != "#")
        .collect();
    let text = words.join(" ");
    assert!(text.contains("whose servers are in `fe_tls`"), "{toml}");
}

#[test]
fn names_in_decrypted_bytes_are_explained() {
    let source = source("", "").replace("ssl_c_s_dn(cn) b", "req.ssl_sni b");
    let toml = translated(Program::Haproxy, &source).toml;
    assert!(unwrapped(&toml).contains("use `ssl_fc_sni`"), "{toml}");
}
