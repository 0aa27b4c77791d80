//! Limits on the entries of stick tables.

use super::{
    super::super::{
        access::Verdict,
        model::{Limits, Service},
    },
    BIND, Imported, Kind, imported,
};

const TRACK: &str = "tcp-request content track-sc0 ssl_c_s_dn(cn) table st";

fn source(rules: &str) -> Imported {
    imported(&format!(
        "backend st
            stick-table type string len 64 size 10k expire 30m store conn_cur,conn_rate(10s)
        frontend f
            {BIND}
            acl known ssl_c_s_dn(cn) -m str billing-app reporting
            acl reports ssl_c_s_dn(cn) -m str reporting
            {rules}
            tcp-request content reject unless known
            default_backend b
        backend b
            server s 127.0.0.1:1"
    ))
}

/// Returns the limits and the reasons with exit code 1.
fn limits(rules: &str) -> (Limits, Vec<String>) {
    let mut imported = source(rules);
    let service = imported.services.remove(0);
    assert!(service.refused.is_empty(), "{rules}: {:?}", service.refused);
    let notes = service.table.notes.into_iter();
    let notes = notes.filter(|note| note.kind != Kind::Remark);
    (service.limits, notes.map(|note| note.reason).collect())
}

#[test]
fn table_look_ups_are_limits() {
    let open = format!(
        "{TRACK}\nacl over ssl_c_s_dn(cn),table_conn_cur(st) gt 2\ntcp-request content reject if over"
    );
    let (found, notes) = limits(&open);
    assert_eq!(found.max_conns, Some(2));
    assert!(notes.is_empty(), "{notes:?}");

    let rate = format!(
        "{TRACK}\ntcp-request content reject if {{ ssl_c_s_dn(cn),table_conn_rate(st) gt 5 }}"
    );
    let (found, notes) = limits(&rate);
    assert_eq!(
        found.rate.map(|rate| (rate.rate, rate.burst)),
        Some((0.5, 5))
    );
    assert!(notes.is_empty(), "{notes:?}");
}

#[test]
fn other_table_look_ups_refuse_the_clients() {
    for test in [
        "reject if { ssl_c_s_dn(cn),table_conn_cur(other) gt 2 }",
        "reject if { ssl_c_s_dn(ou),table_conn_cur(st) gt 2 }",
        "reject if { ssl_c_s_dn(cn),table_bytes_in_rate(st) gt 2 }",
        "reject if { ssl_c_s_dn(cn),lower,table_conn_cur(st) gt 2 }",
        "reject unless { ssl_c_s_dn(cn),table_conn_cur(st) lt 3 }",
        "reject if { sc0_conn_cur(other) gt 2 }",
    ] {
        let imported = source(&format!("{TRACK}\ntcp-request content {test}"));
        let service = &imported.services[0];
        let access = format!("{:?}", service.access);
        assert!(!access.contains("To("), "{test}: {access}");
        let mut notes = service.table.notes.iter();
        assert!(notes.any(|note| note.kind != Kind::Remark), "{test}");
    }
}

/// Returns the clients that each conditional limit accepts and refuses.
fn conditional(service: &Service) -> Vec<String> {
    let limits = service.conditional.iter().map(|conditional| {
        let entries = conditional.applies.iter().map(|(predicate, verdict)| {
            let names = predicate.keys().map(|(_, values)| values.join("|"));
            let names: Vec<_> = names.collect();
            let limited = if *verdict == Verdict::Accept { "" } else { "!" };
            format!("{limited}{}", names.join("&"))
        });
        entries.collect::<Vec<_>>().join(", ")
    });
    limits.collect()
}

/// The source limits only some clients: the rules of these clients have the limit, or no client is
/// limited and a note says so.
#[test]
fn limits_of_some_clients_are_conditional_or_noted() {
    for (rules, all, some, noted) in [
        (
            "track-sc0 ssl_c_s_dn(cn) table st\nREJECT { sc_conn_cur(0) gt 2 }",
            true,
            &[][..],
            "",
        ),
        (
            "track-sc0 ssl_c_s_dn(cn) table st if { ssl_c_used }\nREJECT { sc_conn_cur(0) gt 2 }",
            true,
            &[],
            "",
        ),
        (
            "track-sc0 ssl_c_s_dn(cn) table st if reports\nREJECT { sc_conn_cur(0) gt 2 }",
            false,
            &["reporting, !"],
            "",
        ),
        (
            "track-sc0 ssl_c_s_dn(cn) table st if reports\nREJECT { sc_conn_rate(0,st) gt 10 }",
            false,
            &["reporting, !"],
            "",
        ),
        (
            "track-sc0 ssl_c_s_dn(cn) table st unless reports\nREJECT { sc0_conn_cur gt 2 }",
            false,
            &["!reporting, "],
            "",
        ),
        (
            "track-sc0 ssl_c_s_dn(cn) table st if reports\n\
             REJECT { ssl_c_s_dn(cn),table_conn_cur(st) gt 2 }",
            false,
            &["reporting, !"],
            "",
        ),
        (
            "track-sc0 ssl_c_s_dn(cn) table st\n\
             REJECT reports { ssl_c_s_dn(cn),table_conn_cur(st) gt 2 }",
            false,
            &["reporting, !"],
            "",
        ),
        // An accepted client is not limited, unless the rule that accepts it comes later.
        (
            "track-sc0 ssl_c_s_dn(cn) table st\ntcp-request content accept if reports\n\
             REJECT { sc_conn_cur(0) gt 2 }",
            false,
            &["!reporting, "],
            "",
        ),
        (
            "accept if reports\ntcp-request content track-sc0 ssl_c_s_dn(cn) table st\n\
             tcp-request session reject if { sc_conn_cur(0) gt 2 }",
            false,
            &["!reporting, "],
            "",
        ),
        (
            "track-sc0 ssl_c_s_dn(cn) table st\nREJECT { sc_conn_cur(0) gt 2 }\n\
             tcp-request content accept if reports",
            true,
            &[],
            "",
        ),
        // An address may have entries of clients that are counted, and of others.
        (
            "track-sc0 src if reports\nREJECT { src_conn_cur gt 2 }",
            false,
            &[],
            "no client is limited",
        ),
        (
            "track-sc0 ssl_c_s_dn(cn) table st if { ssl_c_s_dn(st) x }\n\
             REJECT { sc_conn_cur(0) gt 2 }",
            false,
            &[],
            "no client is limited",
        ),
        (
            "track-sc0 src table st if { src 10.0.0.0/8 }\nREJECT { src_conn_rate(st) gt 2 }",
            false,
            &[],
            "`source_rate_limit = {",
        ),
        (
            "track-sc0 ssl_c_s_dn(cn) table st if reports\n\
             tcp-request content track-sc0 ssl_c_s_dn(cn) table st\n\
             REJECT { sc_conn_cur(0) gt 2 }",
            true,
            &[],
            "",
        ),
    ] {
        let rules = rules.replace("REJECT", "tcp-request content reject if");
        let rules = format!("tcp-request content {rules}");
        let (found, notes) = limits(&rules);
        assert_eq!(found.max_conns.is_some(), all, "{rules}: {notes:?}");
        let service = source(&rules).services.remove(0);
        assert_eq!(conditional(&service), some, "{rules}: {notes:?}");
        let notes = notes.join("\n");
        assert_eq!(notes.is_empty(), noted.is_empty(), "{rules}: {notes}");
        assert!(notes.contains(noted), "{rules}: {notes}");
    }
}

/// The limits of a backend apply to the clients that are sent to it.
#[test]
fn limits_of_backends_concern_their_clients() {
    let imported = imported(&format!(
        "frontend f
            {BIND}
            use_backend a if {{ ssl_c_s_dn(cn) -m str alice }}
            default_backend b
        backend a
            stick-table type string len 64 size 10k store conn_cur
            tcp-request content track-sc0 ssl_c_s_dn(cn)
            tcp-request content reject if {{ sc0_conn_cur gt 2 }}
            server s 127.0.0.1:1
        backend b
            server s 127.0.0.1:2"
    ));
    let service = &imported.services[0];
    assert_eq!(service.limits, Limits::default());
    assert_eq!(conditional(service), ["alice, !"]);
}

/// The key depends on the client.
#[test]
fn counters_with_several_keys_have_no_equivalent() {
    let imported = source(
        "tcp-request content track-sc0 src if reports
            tcp-request content track-sc0 ssl_c_s_dn(cn) table st
            tcp-request content reject if { sc_conn_cur(0) gt 2 }",
    );
    assert!(!imported.services[0].refused.is_empty());
}
