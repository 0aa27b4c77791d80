//! Fetches that are followed by converters or compared with numbers.

use super::{BIND, Kind, imported, is_open};

/// Returns whether a client is admitted, the reasons with exit code 1, and the names in the rules.
fn admits(rules: &str, bind: &str) -> (bool, Vec<String>, String) {
    let text = format!(
        "backend st
            stick-table type string len 64 size 10k expire 30m store conn_cur,conn_rate(10s)
        frontend f
            {bind}
            {rules}
            default_backend b
        backend b
            server s 127.0.0.1:1"
    );
    let imported = imported(&text);
    let service = &imported.services[0];
    let is_open = is_open(service);
    let notes = service.table.notes.iter();
    let notes = notes.filter(|note| note.kind != Kind::Remark);
    let notes = notes.map(|note| note.reason.clone()).collect();
    (is_open, notes, format!("{:?}", service.access))
}

#[test]
fn converters_without_an_equivalent_refuse_the_clients() {
    let fetches = [
        "ssl_c_s_dn(cn)",
        "ssl_c_s_dn(ou)",
        "ssl_c_i_dn(cn)",
        "ssl_c_i_dn(ou)",
        "ssl_c_s_dn",
        "src",
        "dst_port",
        "ssl_fc_sni",
        "req.ssl_sni",
    ];
    let converters = [
        "map_str(/x.map,none)",
        "map(/x.map)",
        "bytes(0,4)",
        "regsub(a,b)",
        "regsub(a,b),lower",
        "field(1,-)",
        "lower,field(1,-)",
        "word(1,.)",
        "length",
        "upper",
        "lower,upper",
    ];
    for fetch in fetches {
        for converter in converters {
            for rule in [
                "tcp-request content reject if",
                "tcp-request content reject unless",
                "tcp-request content reject unless !",
            ] {
                let rules = format!("{rule} {{ {fetch},{converter} -m str 10.0.0.7 }}");
                let (is_open, notes, access) = admits(&rules, BIND);
                assert!(!is_open, "{rules}: {access}");
                let mut notes = notes.iter();
                assert!(
                    notes.any(|note| note.contains("; the clients are refused")),
                    "{rules}"
                );
                assert!(!access.contains("10.0.0.7"), "{rules}: {access}");
            }
        }
    }
}

#[test]
fn converters_in_backend_rules_refuse_the_clients() {
    let rules = "acl team ssl_c_s_dn(cn),field(1,-) -m str billing\nuse_backend b if team";
    let (is_open, notes, access) = admits(rules, BIND);
    assert!(!is_open, "{access}");
    assert!(notes[0].contains("converters"), "{notes:?}");
}

#[test]
fn malformed_expressions_refuse_the_clients() {
    for fetch in [
        "ssl_c_s_dn(cn)x",
        "ssl_c_s_dn(cn",
        "ssl_c_s_dn(cn),",
        "ssl_c_s_dn(cn,1)",
        "ssl_c_s_dn(f(cn))",
    ] {
        let rules = format!("tcp-request content reject unless {{ {fetch} -m str a }}");
        let (is_open, notes, access) = admits(&rules, BIND);
        assert!(!is_open, "{rules}: {access}");
        assert!(!notes.is_empty(), "{rules}");
    }
}

/// `lower` and `-i` are translated.
#[test]
fn lower_case_names_are_compared() {
    for (test, is_open) in [
        ("ssl_c_s_dn(cn),lower -m str admin", true),
        ("ssl_c_s_dn(cn) -i -m str Admin", true),
        ("ssl_c_s_dn(cn) -u 7 admin", true),
        // The result of `lower` has no capital letters.
        ("ssl_c_s_dn(cn),lower -m str Admin", false),
        // HAProxy reads the keys of a map from the file.
        ("ssl_c_s_dn(cn) -M -f names.map", false),
    ] {
        let rules = format!("tcp-request content reject unless {{ {test} }}");
        let (opens, notes, access) = admits(&rules, BIND);
        assert_eq!(opens, is_open, "{test}: {access}");
        assert!(!access.contains("\"7\""), "{test}: {access}");
        assert!(!notes.is_empty() || test.contains("-u"), "{test}");
    }
}

#[test]
fn operators_are_not_names() {
    for fetch in [
        "ssl_c_s_dn(cn)",
        "ssl_c_s_dn(ou)",
        "ssl_c_i_dn(cn)",
        "ssl_fc_sni",
    ] {
        for operator in ["eq", "ge", "gt", "le", "lt"] {
            for rule in ["reject if", "reject unless"] {
                let rules = format!("tcp-request content {rule} {{ {fetch} {operator} 2 }}");
                let (is_open, notes, access) = admits(&rules, BIND);
                assert!(!is_open, "{rules}: {access}");
                assert!(!notes.is_empty(), "{rules}");
                assert!(
                    !access.contains(&format!("\"{operator}\"")),
                    "{rules}: {access}"
                );
            }
        }
    }
}

#[test]
fn results_of_the_verification_are_compared_as_numbers() {
    for (test, is_open) in [
        ("ssl_c_verify 0", true),
        ("ssl_c_verify eq 0", true),
        ("ssl_c_verify 10", false),
        ("ssl_c_verify gt 0", false),
        ("ssl_c_verify ne 0", false),
        ("ssl_c_used", true),
        ("ssl_c_used 0", false),
        ("ssl_c_used eq 0", false),
    ] {
        let rules = format!("tcp-request content reject unless {{ {test} }}");
        let (opens, _, access) = admits(&rules, BIND);
        assert_eq!(opens, is_open, "{test}: {access}");
    }
}

/// A certificate can have several OUs, and HAProxy compares the first.
#[test]
fn rules_that_accept_by_unit_are_noted() {
    for (rules, is_noted) in [
        (
            "tcp-request content reject unless { ssl_c_s_dn(ou) Guests }",
            true,
        ),
        (
            "tcp-request content accept if { ssl_c_s_dn(ou) Guests }",
            true,
        ),
        ("use_backend b if { ssl_c_s_dn(ou) Guests }", true),
        ("use_backend %[ssl_c_s_dn(ou)]", true),
        // Refuses more clients than the source.
        (
            "tcp-request content reject if { ssl_c_s_dn(ou) Guests }",
            false,
        ),
        (
            "tcp-request content reject unless { ssl_c_s_dn(cn) Guests }",
            false,
        ),
    ] {
        let (is_open, notes, _) = admits(rules, BIND);
        assert!(is_open, "{rules}");
        let mut notes = notes.iter();
        assert_eq!(
            notes.any(|note| note.contains("first OU")),
            is_noted,
            "{rules}"
        );
    }
}
