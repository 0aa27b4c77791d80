//! The stage `connection`, rules about servers, and rules of `listen` sections.

use super::{BIND, Kind, Value, imported, is_open};

/// The `source` entries of a listener, whether clients reach a server, and the value of
/// `proxy_protocol_from`.
fn listener(bind: &str, rules: &str) -> (String, bool, Option<Value>) {
    let imported = imported(&format!(
        "frontend f
            bind :1 {bind}
            stick-table type ip size 100k expire 30s store conn_cur,conn_rate(10s)
            {rules}
            default_backend b
        backend b
            server s 127.0.0.1:1"
    ));
    let service = &imported.services[0];
    let is_open = is_open(service);
    let mut notes = service.table.notes.iter();
    assert_eq!(
        is_open,
        notes.all(|note| note.kind == Kind::Remark),
        "{rules}: {:?}",
        service.table.notes
    );
    let proxies = service.table.get("proxy_protocol_from").cloned();
    (format!("{:?}", service.access), is_open, proxies)
}

#[test]
fn addresses_before_the_proxy_header_are_those_of_proxies() {
    for (rules, expected) in [
        ("connection reject if !{ src 10.0.0.1 }", vec!["10.0.0.1"]),
        (
            "connection reject unless { src 10.0.0.0/8 } or { src 192.168.0.1 }",
            vec!["10.0.0.0/8", "192.168.0.1"],
        ),
        (
            "connection accept if { src 10.0.0.1 }\ntcp-request connection silent-drop",
            vec!["10.0.0.1"],
        ),
        (
            "connection reject unless LOCALHOST",
            vec!["127.0.0.0/8", "::1"],
        ),
    ] {
        let rules = format!("tcp-request {rules}");
        let (access, is_open, proxies) = listener("accept-proxy", &rules);
        assert!(is_open && !access.contains("Source"), "{rules}: {access}");
        let expected: Vec<_> = expected.into_iter().map(str::to_owned).collect();
        assert_eq!(proxies, Some(Value::strings(&expected)), "{rules}");
        let (access, is_open, proxies) = listener("", &rules);
        assert!(is_open && access.contains("Source"), "{rules}: {access}");
        assert_eq!(proxies, None, "{rules}");
    }
    let session = "tcp-request session reject if !{ src 10.0.0.1 }";
    let (access, is_open, proxies) = listener("accept-proxy", session);
    assert!(is_open && access.contains("10.0.0.1"), "{access}");
    assert_eq!(proxies, None);
}

#[test]
fn other_rules_before_the_proxy_header_close_the_listener() {
    for rules in [
        "tcp-request connection reject if { src 10.0.0.1 }",
        "tcp-request connection accept if { src 10.0.0.1 }
        tcp-request connection reject if { src 10.0.0.0/8 }",
        "tcp-request connection reject if { src 10.0.0.1 }
        tcp-request connection reject unless { src 10.0.0.0/8 }",
        "tcp-request connection track-sc0 src
        tcp-request connection reject if { sc0_conn_cur gt 5 }",
        "tcp-request connection track-sc0 src
        tcp-request session reject if { sc_conn_rate(0) gt 5 }",
        "tcp-request connection track-sc0 src
        tcp-request content reject if { src_conn_cur gt 5 }",
        "tcp-request connection track-sc0 src if { src 10.0.0.1 }
        tcp-request session reject if { sc0_conn_cur gt 5 }",
        "tcp-request session track-sc0 src
        tcp-request connection reject if { src_conn_rate gt 5 }",
        "tcp-request session track-sc0 src
        tcp-request connection reject if { src,table_conn_cur(f) gt 5 }",
        "tcp-request connection set-var(sess.a) src
        tcp-request content reject unless { var(sess.a) -m ip 10.0.0.1 }",
    ] {
        let (access, is_open, _) = listener("accept-proxy", rules);
        assert!(!is_open, "{rules}: {access}");
    }
}

#[test]
fn certificates_are_not_known_before_the_handshake() {
    let bind = BIND.trim_start_matches("bind :8443 ");
    for test in ["ssl_c_s_dn(cn) a", "ssl_fc_sni a", "ssl_c_verify 0"] {
        let rule = format!("tcp-request connection reject unless {{ {test} }}");
        assert!(!listener(bind, &rule).1, "{rule}");
        let rule = format!("tcp-request session reject unless {{ {test} }}");
        assert!(listener(bind, &rule).1, "{rule}");
    }
}

#[test]
fn rules_about_servers_of_other_backends_refuse_the_clients() {
    for (rules, expected) in [
        ("tcp-request content reject if { nbsrv(b) lt 1 }", true),
        ("tcp-request content reject if { nbsrv(other) lt 1 }", false),
        ("tcp-request content reject if { nbsrv lt 1 }", false),
        (
            "tcp-request content reject if { nbsrv(b) lt 1 }\nuse_backend c if { src 10.0.0.1 }",
            false,
        ),
        (
            "tcp-request content reject if { nbsrv(b) lt 1 }\nuse_backend b if { src 10.0.0.1 }",
            true,
        ),
    ] {
        let (access, is_open, _) = listener("", rules);
        assert_eq!(is_open, expected, "{rules}: {access}");
    }
}

#[test]
fn rules_of_listen_sections_apply_to_other_clients() {
    let imported = imported(
        "frontend f
            bind :1
            default_backend l
        listen l
            bind :2
            acl bad src 10.0.0.1
            tcp-request connection reject if { src 10.0.0.2 }
            tcp-request content reject if bad
            server s 127.0.0.1:1",
    );
    let [f, l] = imported.services.as_slice() else {
        panic!("{:?}", imported.services);
    };
    let (f, l) = (format!("{:?}", f.access), format!("{:?}", l.access));
    assert!(f.contains("10.0.0.1") && !f.contains("10.0.0.2"), "{f}");
    assert!(l.contains("10.0.0.1") && l.contains("10.0.0.2"), "{l}");
}
