//! Rules without a certificate key at listeners that require certificates.

use super::pki::{ALL, Pki, with_tls};

const BY_NAME: &str = r#"match = { cn = "office" }"#;
const BY_SOURCE: &str = r#"match = { source = "10.0.0.0/8" }"#;

/// Returns the problems of a TLS listener whose client `office` has `rule`.
fn problems(rule: &str) -> Vec<String> {
    problems_with(rule, |text| text)
}

/// Like [`problems`], for a configuration that `change` has changed.
fn problems_with(rule: &str, change: impl Fn(String) -> String) -> Vec<String> {
    let text = with_tls(ALL);
    assert!(text.contains(BY_NAME));
    Pki::new().problems_of(&change(text.replace(BY_NAME, rule)))
}

#[test]
fn rule_that_ignores_the_certificate_is_reported() {
    assert_eq!(
        problems(BY_SOURCE),
        [
            "warning: client `office` is admitted to listener `main` with any certificate that \
             it trusts; `match` has only `source`, so the names in the certificate do not \
             matter; add `cn`, `dns` or `uri` to `match`, or `issuer_cn` to admit every \
             certificate of one CA"
        ]
    );
    for rule in [
        BY_NAME,
        r#"match = { source = "10.0.0.0/8", cn = "office" }"#,
        r#"match = { source = "10.0.0.0/8", issuer_cn = "the CA" }"#,
    ] {
        assert_eq!(problems(rule), [""; 0], "{rule}");
    }
    let in_shadow = format!("{BY_SOURCE}\nmode = \"shadow\"");
    assert_eq!(problems(&in_shadow), [""; 0]);
}

/// The rule is for a plain listener, and its upstream is not that of the TLS listener.
#[test]
fn rule_for_another_listener_is_not_reported() {
    let others = r#"
[[listener]]
name = "plain"
bind = "127.0.0.1:9001"
upstream = "db"

[[upstream]]
name = "db"
servers = ["10.0.0.3:80"]

[[client]]
name = "desk"
match = { cn = "desk" }
allow = ["web"]
"#;
    let change = |text: String| text.replace("allow = [\"web\"]", "allow = [\"db\"]") + others;
    assert_eq!(problems_with(BY_SOURCE, change), [""; 0]);
    // Both listeners lead to the upstream of the rule, which matches only local clients.
    let change = |text: String| change(text).replace("upstream = \"web\"", "upstream = \"db\"");
    let of_web = |line: &String| line.contains("`web`") || line.contains("`desk`");
    for (source, warnings) in [("10.0.0.0/8", 1), ("127.0.0.1", 0)] {
        let rule = format!("match = {{ source = \"{source}\" }}");
        let mut found = problems_with(&rule, change);
        found.retain(|line| !of_web(line));
        assert_eq!(found.len(), warnings, "{found:?}");
    }
}
