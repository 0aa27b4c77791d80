//! Listeners that no client may use.

use super::{super::Program, outputs::translated};

const SERVERS: &str = "backend web
    server s 127.0.0.1:1001
    .if defined(NO_SUCH_VARIABLE)
    server s2 127.0.0.1:1002
    .endif";

#[test]
fn comments_list_the_rules_for_a_closed_backend() {
    let source = format!(
        "frontend j
            bind :1
            tcp-request connection accept if {{ src 10.0.0.1 }}
            tcp-request connection reject
            default_backend web
        frontend h
            bind :2
            stick-table type ip size 100k expire 30s store conn_cur
            tcp-request connection track-sc0 src
            tcp-request connection reject if {{ sc_conn_cur(0) gt 5 }}
            default_backend web
        {SERVERS}"
    );
    let toml = translated(Program::Haproxy, &source).toml;
    for line in [
        "# - clients with { source = \"10.0.0.1\" }: web",
        "# - all other clients: refused",
        "# - all other clients: web",
        "# - each of these rules: max_conns = 5",
    ] {
        assert_eq!(toml.matches(line).count(), 1, "{line}\n{toml}");
    }
    let reason = "# No client may use this listener: it depends on a condition of the source.";
    assert_eq!(toml.matches(reason).count(), 2, "{toml}");
    assert!(!toml.contains("[[client]]"), "{toml}");
}

#[test]
fn comments_list_the_rules_beside_one_without_an_equivalent() {
    let source = "frontend f
            bind :1 ssl crt server.pem ca-file ca.crt verify required
            tcp-request content reject if { src 10.0.0.1 }
            tcp-request content reject if { req.len 0 }
            use_backend db if { ssl_fc_sni db.x }
            default_backend web
        backend web
            server s 127.0.0.1:1
        backend db
            server s 127.0.0.1:2";
    let toml = translated(Program::Haproxy, source).toml;
    for line in [
        "# - clients with { source = \"10.0.0.1\" }: refused",
        "# - clients with { sni = \"db.x\" }: db",
        "# - all other clients: web",
        "comments below name rules without an equivalent",
    ] {
        assert!(
            toml.replace("\n# ", " ")
                .contains(line.trim_start_matches("# ")),
            "{line}\n{toml}"
        );
    }
    assert!(!toml.contains("[[client]]"), "{toml}");
}

#[test]
fn one_label_expressions_do_not_refuse_wildcard_names() {
    let source = |target: &str, rest: &str| {
        format!(
            "stream {{
                map $ssl_client_s_dn $cn {{ default ''; '~(^|,)CN=(?<name>[^,]+)' $name; }}
                map $cn $target {{ '~^[^.]+\\.bad\\.com$' {target}; default {rest}; }}
                upstream web {{ server 10.0.0.1:80; }}
                server {{
                    listen 1 ssl;
                    ssl_certificate a.pem;
                    ssl_certificate_key a.pem;
                    ssl_client_certificate ca.crt;
                    ssl_verify_client on;
                    proxy_pass $target;
                }}
            }}"
        )
    };
    let refused = translated(Program::Nginx, &source("''", "web"));
    assert_eq!(refused.closed.len(), 1, "{}", refused.toml);
    let admitted = translated(Program::Nginx, &source("web", "''"));
    assert!(admitted.closed.is_empty(), "{}", admitted.toml);
    assert!(
        admitted.toml.contains("cn = \"*.bad.com\""),
        "{}",
        admitted.toml
    );
    assert!(
        admitted.toml.contains("name = \"bad.com\""),
        "{}",
        admitted.toml
    );
}
