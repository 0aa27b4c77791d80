//! Conditions and maps on names.

use super::{
    super::super::{access::Key, model::Kind},
    BIND, Verdict, imported,
};
use crate::cli::import::haproxy::import;

/// Returns the decisions of a listener with these rules, and the number of lines that are left out.
fn decisions(rules: &str) -> (Vec<String>, usize) {
    let text = format!(
        "frontend f\n{BIND}\n{rules}\ndefault_backend b\nbackend b\nserver s 127.0.0.1:1\n\
         backend c\nserver s 127.0.0.1:2\nbackend t_a\nserver s 127.0.0.1:3\n\
         backend t_B\nserver s 127.0.0.1:4"
    );
    let imported = imported(&text);
    let service = &imported.services[0];
    assert_eq!(service.refused, Vec::<String>::new());
    let decisions = service.access.iter().map(|(predicate, verdict)| {
        let keys = predicate.keys();
        let keys = keys.map(|(key, names)| format!("{}={} ", key.name(), names.join("|")));
        let verdict = match verdict {
            Verdict::To(name) => name,
            _ => "refused",
        };
        format!("{}{verdict}", keys.collect::<String>())
    });
    let notes = service.table.notes.iter();
    let left_out = notes.filter(|note| note.kind != Kind::Remark).count();
    (decisions.collect(), left_out)
}

#[test]
fn admissions_that_are_narrower_keep_the_other_clients() {
    for (rules, expected, left_out) in [
        (
            "tcp-request content reject unless { ssl_c_s_dn(cn) -m end .x }",
            "cn=*.x|*.*.x|*.*.*.x b, refused",
            0,
        ),
        (
            "tcp-request content reject if !{ ssl_c_s_dn(cn) -m beg a. }",
            "cn=a.*|a.*.*|a.*.*.* b, refused",
            0,
        ),
        (
            "tcp-request content reject unless { ssl_c_s_dn(cn) -i a } or { ssl_c_s_dn(cn) b }",
            "cn=a b, cn=b b, refused",
            1,
        ),
        (
            "tcp-request content reject unless { ssl_c_s_dn(cn) -m end a.x }",
            "cn=a.x|*.a.x|*.*.a.x|*.*.*.a.x b, refused",
            1,
        ),
        // Unknown parts admit no client, but the others remain.
        (
            "tcp-request content reject unless { ssl_c_s_dn(cn) -m sub a } or { ssl_c_s_dn(cn) b }",
            "cn=b b, refused",
            1,
        ),
        (
            "use_backend c if { ssl_fc_sni -m sub .db. }",
            "sni=*.db.*|*.db.*.*|*.*.db.* c, b",
            0,
        ),
    ] {
        let (decisions, notes) = decisions(rules);
        assert_eq!(
            (decisions.join(", ").as_str(), notes),
            (expected, left_out),
            "{rules}"
        );
    }
}

#[test]
fn refusals_that_are_narrower_refuse_all_clients() {
    for rules in [
        "tcp-request content reject if { ssl_c_s_dn(cn) -m end .x }",
        "tcp-request content reject if { ssl_c_s_dn(cn) -m end x }",
        "tcp-request content reject if { ssl_c_s_dn(cn) -m beg a. }",
        "tcp-request content reject if { ssl_c_s_dn(cn) -m dom a }",
        "tcp-request content reject unless !{ ssl_c_s_dn(cn) -m end .x }",
        "tcp-request content accept unless { ssl_c_s_dn(cn) -m end .x }\n\
         tcp-request content reject",
    ] {
        let (decisions, notes) = decisions(rules);
        let is_open = |decision: &String| !decision.ends_with("refused");
        assert!(!decisions.iter().any(is_open), "{rules}: {decisions:?}");
        assert!(notes > 0, "{rules}");
    }
}

#[test]
fn predefined_conditions() {
    for (rules, expected) in [
        (
            "tcp-request content accept if WAIT_END\ntcp-request content reject",
            "b",
        ),
        (
            "tcp-request content reject unless LOCALHOST",
            "source=127.0.0.0/8|::1 b, refused",
        ),
        ("tcp-request content reject if { nbsrv(b) lt 1 }", "b"),
    ] {
        assert_eq!(decisions(rules).0.join(", "), expected, "{rules}");
    }
}

#[test]
fn names_of_backends_depend_on_the_client() {
    for (rules, expected) in [
        (
            "use_backend t_%[ssl_c_s_dn(cn)]\nuse_backend c",
            "cn=a t_a, cn=B t_B, b",
        ),
        (
            "use_backend t_%[ssl_fc_sni,lower]\nuse_backend c",
            "sni=a t_a, b",
        ),
        (
            "use_backend t_%[ssl_c_s_dn(ou)] if { src 10.0.0.0/8 }\nuse_backend c",
            "ou=a source=10.0.0.0/8 t_a, ou=B source=10.0.0.0/8 t_B, source=10.0.0.0/8 b, c",
        ),
        ("use_backend t_%[src]\nuse_backend c", "b"),
    ] {
        let decisions = decisions(rules).0.join(", ");
        assert_eq!(decisions, expected, "{rules}");
    }
}

#[test]
fn maps_lead_to_existing_backends_or_the_default() {
    let dir = leastconn_testkit::TempDir::new().unwrap();
    let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
    write("exact.map", "a.x c\nb.x missing\n");
    write("wild.map", "*.x c\n");
    write("end.map", ".a.x c\n.x t_a\n");
    write("beg.map", "a. t_a\na.b. c\n");
    for (rule, expected) in [
        ("%[ssl_c_s_dn(cn),map(exact.map)]", "cn=a.x c, b"),
        (
            "%[ssl_c_s_dn(cn),map_str(exact.map,t_a)]",
            "cn=a.x c, cn=b.x b, t_a",
        ),
        ("%[ssl_c_s_dn(cn),map(exact.map,missing)]", "cn=a.x c, b"),
        ("%[ssl_c_s_dn(cn),map(wild.map)]", "b"),
        (
            "%[ssl_fc_sni,map_end(end.map)]",
            "sni=*.a.x|*.*.a.x|*.*.*.a.x c, sni=*.x|*.*.x|*.*.*.x t_a, b",
        ),
        (
            "%[ssl_c_s_dn(cn),map_beg(beg.map)]",
            "cn=a.b.*|a.b.*.*|a.b.*.*.* c, cn=a.*|a.*.*|a.*.*.* t_a, b",
        ),
    ] {
        let text = format!(
            "frontend f\n{BIND}\nuse_backend {rule}\nuse_backend t_B\ndefault_backend b\n\
             backend b\nserver s 127.0.0.1:1\nbackend c\nserver s 127.0.0.1:2\n\
             backend t_a\nserver s 127.0.0.1:3\nbackend t_B\nserver s 127.0.0.1:4"
        );
        let imported = import(&"t".into(), &text, Some(dir.path())).unwrap();
        let access = imported.services[0].access.iter();
        let access = access.map(|(predicate, verdict)| {
            let names = [Key::Cn, Key::Sni].map(|key| {
                let names = predicate.get(key);
                names.map_or_else(String::new, |names| {
                    format!("{}={} ", key.name(), names.join("|"))
                })
            });
            let verdict = match verdict {
                Verdict::To(name) => name,
                _ => "refused",
            };
            format!("{}{verdict}", names.concat())
        });
        assert_eq!(access.collect::<Vec<_>>().join(", "), expected, "{rule}");
    }
}

#[test]
fn wildcards_do_not_refuse_names_with_wildcards() {
    let is_open = |rule: &str| {
        let text = format!(
            "frontend f\n{BIND}\n{rule}\ndefault_backend b\nbackend b\nserver s 127.0.0.1:1"
        );
        let access = imported(&text).services.remove(0).access;
        access
            .iter()
            .any(|(_, verdict)| matches!(verdict, Verdict::To(_)))
    };
    let label = "^[^.]+\\.bad\\.com$";
    for (rule, expected) in [
        (
            format!("content reject if {{ ssl_c_s_dn(cn) -m reg {label} }}"),
            false,
        ),
        (
            format!("content reject unless !{{ ssl_c_s_dn(cn) -m reg {label} }}"),
            false,
        ),
        (
            format!("content reject unless {{ ssl_c_s_dn(cn) -m reg {label} }}"),
            true,
        ),
        // Handshakes with `*` in the server name (SNI) fail.
        (
            format!("content reject if {{ ssl_fc_sni -m reg {label} }}"),
            true,
        ),
        (
            "content reject if { ssl_c_s_dn(cn) -m reg ^(a|b)$ }".to_owned(),
            true,
        ),
    ] {
        assert_eq!(is_open(&format!("tcp-request {rule}")), expected, "{rule}");
    }
}

#[test]
fn capitals_in_maps_never_match_lowered_names() {
    let dir = leastconn_testkit::TempDir::new().unwrap();
    let decisions = |rule: &str, map: &str| {
        std::fs::write(dir.path().join("m.map"), map).unwrap();
        let text = format!(
            "frontend f\n{BIND}\nuse_backend %[ssl_c_s_dn(cn),{rule}]\n\
             backend b\nserver s 127.0.0.1:1\nbackend c\nserver s 127.0.0.1:2"
        );
        let mut imported = import(&"t".into(), &text, Some(dir.path())).unwrap();
        format!("{:?}", imported.services.remove(0).access)
    };
    for (rule, map) in [
        ("lower,map(m.map)", "Alice b\nbob c"),
        ("lower,map_beg(m.map)", "Alice. b\nbob. c"),
        ("lower,map_end(m.map)", ".Alice b\n.bob c"),
        ("lower,map_reg(m.map)", "^(Alice|bob)$ c"),
    ] {
        let access = decisions(rule, map);
        assert!(
            !access.contains("Alice") && access.contains("bob"),
            "{rule}: {access}"
        );
    }
    // `x` does not exist, and clients without a backend are refused.
    for (rule, map, expected) in [
        ("map_reg(m.map,b)", "^[^.]+\\.bad$ x", false),
        ("map_end(m.map,b)", ".bad x", false),
        ("map_reg(m.map)", "^[^.]+\\.bad$ x\n^.*\\.good$ b", false),
        ("map_beg(m.map)", "bad. x\ngood. b", true),
        ("map(m.map,b)", "bad x", true),
    ] {
        let access = decisions(rule, map);
        assert_eq!(access.contains("To("), expected, "{rule}: {access}");
    }
}
