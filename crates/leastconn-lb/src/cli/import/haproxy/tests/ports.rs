//! Ports, limits and certificates of listeners.

use super::{
    super::super::model::{Imported, Kind, ServerLine, Value},
    BIND, Verdict, imported, open_cases,
};

fn addresses(imported: &Imported) -> Vec<String> {
    let lines = imported
        .backends
        .iter()
        .flat_map(|backend| &backend.servers);
    let addresses = lines.filter_map(|line| match line {
        ServerLine::Server { table, .. } => table.get("address"),
        ServerLine::Note(_) => None,
    });
    let text = |value: &Value| match value {
        Value::Text(text) => text.clone(),
        other => format!("{other:?}"),
    };
    addresses.map(text).collect()
}

#[test]
fn servers_without_a_port_have_that_of_the_listener() {
    for (text, expected) in [
        (
            "listen l\nbind :80\nserver s 10.0.0.1\nserver t 10.0.0.2:81",
            "10.0.0.1:80 10.0.0.2:81",
        ),
        (
            "frontend f\nbind :80\ndefault_backend b\nbackend b\nserver s 10.0.0.1:+1",
            "10.0.0.1:81",
        ),
        (
            "frontend f\nbind :80,:81\ndefault_backend b\nbackend b\nserver s 10.0.0.1",
            "",
        ),
        (
            "frontend f\nbind :80\nuse_backend b\nfrontend g\nbind :81\nuse_backend b\n\
             backend b\nserver s 10.0.0.1",
            "",
        ),
        ("listen l\nbind :80 accept-proxy\nserver s 10.0.0.1", ""),
        ("listen l\nbind :80\nserver s a$b.x:80\nserver t a:+b", ""),
    ] {
        assert_eq!(addresses(&imported(text)).join(" "), expected, "{text}");
    }
}

#[test]
fn rules_by_port_apply_to_listeners_with_this_port() {
    let text = "frontend f
            bind :80,:81
            bind :82 name x
            use_backend b if { dst_port 81:82 }
            default_backend c
        backend b
            server s 10.0.0.1:1
        backend c
            server s 10.0.0.2:1";
    let imported = imported(text);
    let services = imported.services.iter().map(|service| {
        let (_, verdict) = &service.access[0];
        (service.binds.join(" "), verdict.clone())
    });
    let to = |name: &str| Verdict::To(name.to_owned());
    let expected = [
        ("0.0.0.0:80".to_owned(), to("c")),
        ("0.0.0.0:81".to_owned(), to("b")),
        ("0.0.0.0:82".to_owned(), to("b")),
    ];
    assert_eq!(services.collect::<Vec<_>>(), expected);
    let hidden = "listen l\nbind :80 accept-proxy\ntcp-request content reject if { dst_port 80 }\n\
        server s 10.0.0.1:1";
    assert_eq!(open_cases(hidden), [0]);
}

#[test]
fn strictest_rate_is_used() {
    for rules in [
        "{ src_conn_rate gt 10 }\ntcp-request connection reject if { src_sess_rate gt 30 }",
        "{ src_sess_rate gt 30 }\ntcp-request connection reject if { src_conn_rate gt 10 }",
        "{ src_sess_rate gt 30 } or { src_conn_rate gt 10 }",
    ] {
        let text = format!(
            "listen l\n{BIND}\nstick-table type ip size 1m store conn_rate(2s),sess_rate(60s)\n\
             tcp-request connection reject if {rules}\nserver s 10.0.0.1:1"
        );
        let imported = imported(&text);
        let service = &imported.services[0];
        let Some(Value::Table(limit)) = service.table.get("source_rate_limit") else {
            panic!("{rules}: {:?}", service.table);
        };
        assert_eq!(limit[0].1, Value::Float(0.5), "{rules}");
        let notes = service.table.notes.iter();
        assert_eq!(
            notes.filter(|note| note.kind != Kind::Remark).count(),
            1,
            "{rules}"
        );
        assert_eq!(service.refused, Vec::<String>::new(), "{rules}");
    }
}

#[test]
fn tables_of_peers_have_periods() {
    let text = format!(
        "peers p\ntable t type ip size 1m store gpc0,conn_rate(10s)\nlisten l\n{BIND}\n\
         tcp-request connection track-sc0 src table p/t\n\
         tcp-request connection reject if {{ sc_conn_rate(0) gt 20 }}\nserver s 10.0.0.1:1"
    );
    let imported = imported(&text);
    let service = &imported.services[0];
    assert!(service.table.get("source_rate_limit").is_some());
    assert_eq!(open_cases(&text), [1]);
}

#[test]
fn directories_and_lists_of_certificates() {
    let dir = leastconn_testkit::TempDir::new().unwrap();
    std::fs::create_dir(dir.path().join("certs")).unwrap();
    for file in ["certs/b.pem", "certs/a.pem", "certs/a.pem.ocsp", "c.pem"] {
        std::fs::write(dir.path().join(file), "").unwrap();
    }
    std::fs::write(dir.path().join("one.list"), "# list\nc.pem a.x b.x\n").unwrap();
    std::fs::write(
        dir.path().join("ca.list"),
        "c.pem [verify none] a.x\nd.pem\n",
    )
    .unwrap();
    for (options, expected, is_open, notes) in [
        ("crt certs", Some("certs/a.pem"), true, 1),
        ("crt certs/ crt c.pem", Some("certs/a.pem"), true, 2),
        ("crt missing/", None, false, 2),
        ("crt-list one.list", Some("c.pem"), true, 0),
        ("crt-list ca.list", Some("c.pem"), false, 2),
        ("crt-list missing.list", None, false, 2),
        ("crt c.pem interface eth0", Some("c.pem"), false, 1),
    ] {
        let text = format!("listen l\nbind 127.0.0.1:1 ssl {options}\nserver s 10.0.0.1:1");
        let imported = super::import(&"t".into(), &text, Some(dir.path())).unwrap();
        let service = &imported.services[0];
        let tls = service.tls.as_ref();
        let cert = tls.and_then(|tls| tls.get("cert")).cloned();
        assert_eq!(cert, expected.map(Value::text), "{options}");
        assert_eq!(
            service.refused.is_empty() && !service.binds.is_empty(),
            is_open,
            "{options}"
        );
        let found = tls
            .map_or(&[][..], |tls| &tls.notes)
            .iter()
            .chain(&service.table.notes);
        let found = found.filter(|note| note.kind != Kind::Remark).count();
        assert_eq!(found, notes, "{options}");
    }
}

#[test]
fn interface_of_a_loopback_address_is_not_needed() {
    for (bind, is_open) in [
        ("127.0.0.1:1 interface lo", true),
        (":1 interface lo", false),
        ("127.0.0.1:1 interface eth0", false),
    ] {
        let text = format!("listen l\nbind {bind}\nserver s 10.0.0.1:1");
        assert_eq!(open_cases(&text), [usize::from(is_open)], "{bind}");
    }
}

#[test]
fn other_modes_are_not_translated() {
    for mode in ["log", "http", "spop"] {
        let text = format!("listen l\nmode {mode}\nbind :80\nserver s 10.0.0.1:1");
        let imported = imported(&text);
        assert!(imported.services.is_empty(), "{mode}");
        let notes = imported.notes.iter();
        assert_eq!(
            notes.filter(|note| note.kind != Kind::Remark).count(),
            1,
            "{mode}"
        );
    }
}

#[test]
fn servers_with_the_same_host_name_are_one_source() {
    let text = "resolvers r
            nameserver a 10.0.0.53:53
        listen l
            bind :80
            server s1 a.x:80 resolvers r
            server s2 a.x:80 resolvers r
            server s3 b.x:80 resolvers r
            server s4 10.0.0.1:80
            server s5 10.0.0.1:80";
    let imported = imported(text);
    let lines = imported.backends[0].servers.iter();
    let servers = lines.filter(|line| matches!(line, ServerLine::Server { .. }));
    assert_eq!(servers.count(), 4);
}

#[test]
fn checks_have_a_user_only_if_they_log_in() {
    for (options, server, expected) in [
        ("option pgsql-check user u", "", true),
        ("option pgsql-check user u\noption tcp-check", "", false),
        // The check uses no TLS, so it only connects.
        (
            "option pgsql-check user u",
            "ssl ca-file ca.crt verifyhost a.x port 81",
            false,
        ),
    ] {
        let text = format!("listen l\nbind :80\n{options}\nserver s 10.0.0.1:80 check {server}");
        let imported = imported(&text);
        let Some(Value::Table(check)) = imported.backends[0].table.get("health_check") else {
            panic!("{text}");
        };
        assert_eq!(
            check.iter().any(|(key, _)| *key == "user"),
            expected,
            "{text}"
        );
    }
}
