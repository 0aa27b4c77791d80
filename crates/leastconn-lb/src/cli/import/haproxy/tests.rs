use super::{
    super::{
        model::{Imported, Kind, ServerLine, Service},
        plan,
    },
    Value, Verdict, import,
};

const BIND: &str = "bind :8443 ssl crt server.pem ca-file ca.crt verify required";

fn imported(text: &str) -> Imported {
    import(&"t".into(), text, None).unwrap()
}

/// Whether any client may use a listener.
fn is_open(service: &Service) -> bool {
    let mut access = service.access.iter();
    service.refused.is_empty() && access.any(|(_, verdict)| matches!(verdict, Verdict::To(_)))
}

#[test]
fn backends_with_similar_names_stay_apart() {
    let mut imported = imported(
        "frontend f
            bind :1000
            use_backend db:admin if { src 10.0.0.0/8 }
            use_backend db/admin if { src 192.168.0.0/16 }
            default_backend db-admin
        backend db:admin
            server s1 127.0.0.1:1
        backend db-admin
            server s2 127.0.0.1:2",
    );
    let names: Vec<_> = imported.backends.iter().map(|b| b.name.clone()).collect();
    assert_eq!(names, ["db-admin-2", "db-admin"]);
    let access = &imported.services[0].access;
    let targets = access.iter().map(|(_, verdict)| match verdict {
        Verdict::To(name) => name.as_str(),
        _ => "",
    });
    // `db/admin` is not in the file.
    let targets: Vec<_> = targets.collect();
    assert_eq!(targets, ["db-admin-2", "db-admin-3", "db-admin"]);
    let plan = plan::plan(&mut imported).unwrap();
    let servers = plan.upstreams.iter().flat_map(|upstream| &upstream.servers);
    let servers = servers.filter(|line| matches!(line, ServerLine::Server { .. }));
    assert_eq!(servers.count(), 2);
    let allow = plan.rules.iter().map(|rule| rule.allow.join(" "));
    assert_eq!(allow.collect::<Vec<_>>(), ["db-admin-2", "", "db-admin"]);
}

#[test]
fn tests_of_whole_subjects_are_noted() {
    for (line, is_noted) in [
        ("use_backend b if { ssl_c_s_dn -m str /CN=admin }", true),
        ("use_backend b if { ssl_c_s_dn /OU=a/CN=admin }", true),
        ("tcp-request content reject if { ssl_c_s_dn /CN=x }", true),
        (
            "tcp-request content reject unless { ssl_c_s_dn /CN=x }",
            true,
        ),
        ("tcp-request content accept if { ssl_c_s_dn /CN=x }", true),
        ("use_backend b if { ssl_c_s_dn(cn) admin }", false),
    ] {
        let text = format!("frontend f\n{BIND}\n{line}\nbackend b\nserver s 127.0.0.1:1");
        let imported = imported(&text);
        let notes = imported.services[0].table.notes.iter();
        let mut notes = notes.filter(|note| note.kind != Kind::Remark);
        let noted = notes.any(|note| note.reason == super::super::dn::WIDER);
        assert_eq!(noted, is_noted, "{line}");
    }
}

#[test]
fn tests_that_ignore_case_admit_no_other_spelling() {
    for (rules, is_open) in [
        (
            "tcp-request content reject if { ssl_c_s_dn(cn) -i bad }",
            false,
        ),
        (
            "tcp-request content accept unless { ssl_c_s_dn(cn) -i bad }
            tcp-request content reject",
            false,
        ),
        (
            "tcp-request content accept if !{ ssl_c_s_dn(cn) -i bad }
            tcp-request content reject",
            false,
        ),
        (
            "tcp-request content accept if { ssl_c_s_dn(cn) -i good }
            tcp-request content reject",
            true,
        ),
    ] {
        let text = format!(
            "frontend f\n{BIND}\n{rules}\ndefault_backend b\nbackend b\nserver s 127.0.0.1:1"
        );
        let imported = imported(&text);
        let service = &imported.services[0];
        let mut open = service.access.iter();
        let opens = open.any(|(_, verdict)| matches!(verdict, Verdict::To(_)));
        assert_eq!(opens, is_open, "{rules}: {:?}", service.access);
        let mut notes = service.table.notes.iter();
        assert!(notes.any(|note| note.kind != Kind::Remark), "{rules}");
    }
}

/// Returns the keys of the servers of the first upstream.
fn servers(text: &str) -> Vec<(String, Vec<&'static str>)> {
    let backend = imported(text).backends.remove(0);
    let lines = backend.servers.into_iter().filter_map(|line| match line {
        ServerLine::Server { name, table } => {
            Some((name, table.keys.iter().map(|(key, _)| *key).collect()))
        }
        ServerLine::Note(_) => None,
    });
    lines.collect()
}

#[test]
fn dispatch_keeps_the_defaults_of_later_servers() {
    let servers = servers(
        "backend b
            default-server weight 10 maxconn 5
            dispatch 127.0.0.1:1
            server s1 127.0.0.1:2",
    );
    let expected = [
        ("dispatch".to_owned(), vec!["address"]),
        ("s1".to_owned(), vec!["weight", "max_conns", "address"]),
    ];
    assert_eq!(servers, expected);
}

#[test]
fn templates_have_a_limited_number_of_servers() {
    for (number, expected) in [
        ("3", 3),
        ("1-3", 3),
        ("5-7", 3),
        ("7-5", 1),
        ("18446744073709551615", 65_535),
        ("0-18446744073709551615", 65_535),
    ] {
        let text = format!("backend b\nserver-template s {number} a.x:80");
        let backend = imported(&text).backends.remove(0);
        let discovery = backend.table.get("discovery");
        let expected = Value::Table(vec![("max", Value::Integer(expected))]);
        assert_eq!(discovery, Some(&expected), "{number}");
    }
}

/// Returns the number of cases that reach a server, of each listener.
fn open_cases(text: &str) -> Vec<usize> {
    let services = imported(text).services.into_iter();
    let is_open = |(_, verdict): &&(_, Verdict)| matches!(verdict, Verdict::To(_));
    services
        .map(|service| match service.refused.as_slice() {
            [] => service.access.iter().filter(is_open).count(),
            _ => 0,
        })
        .collect()
}

#[test]
fn sections_that_depend_on_unknown_conditions_are_closed() {
    let front = "bind 127.0.0.1:1\ndefault_backend b";
    let back = "backend b\nserver s 127.0.0.1:2";
    for (text, expected) in [
        (format!("frontend f\n{front}\n{back}"), 1),
        (
            format!(
                "frontend f\n{front}\n.if defined(X)\ntcp-request connection reject if {{ src 10.0.0.0/8 }}\n.endif\n{back}"
            ),
            0,
        ),
        (
            format!(".if defined(X)\nfrontend f\n{front}\n.endif\n{back}"),
            0,
        ),
        (
            format!("defaults\n.if defined(X)\nretries 2\n.endif\nfrontend f\n{front}\n{back}"),
            0,
        ),
        (
            format!("global\n.if defined(X)\nmaxconn 5\n.endif\nfrontend f\n{front}\n{back}"),
            1,
        ),
        (
            format!(
                "frontend f\n{front}\n{back}\n.if defined(X)\ntcp-request content reject\n.endif"
            ),
            0,
        ),
        // The condition concerns only the section after it.
        (
            format!(
                "frontend f\n{front}\n{back}\n.if defined(X)\nfrontend g\nbind 127.0.0.1:3\n.endif"
            ),
            1,
        ),
        (
            format!(
                "frontend f\n{front}\n{back}\n.if 0\n.elif defined(X)\n.else\n.endif\nbackend c"
            ),
            1,
        ),
        (
            format!("defaults\n.if defined(X)\nuserlist g\n.endif\nfrontend f\n{front}\n{back}"),
            1,
        ),
        // The last line belongs to `f` if the condition is false.
        (
            format!(
                "{back}\nfrontend f\n{front}\n.if defined(X)\nfrontend g\nbind 127.0.0.1:3\n.else\ntcp-request content reject\n.endif"
            ),
            0,
        ),
        (
            format!(
                "{back}\nfrontend f\n{front}\n.if defined(X)\nfrontend g\nbind 127.0.0.1:3\n.endif\ntcp-request content reject"
            ),
            0,
        ),
        (
            format!(
                "{back}\nfrontend f\n{front}\n.if defined(X)\n.if defined(Y)\nfrontend g\n.endif\n.endif\ntcp-request content reject"
            ),
            0,
        ),
    ] {
        let closed = imported(&text);
        let backs_open = closed.backends.iter().all(|b| b.refused.is_empty());
        let open = open_cases(&text)[0];
        assert_eq!(if backs_open { open } else { 0 }, expected, "{text}");
    }
}

#[test]
fn disabled_backends_refuse_only_their_own_clients() {
    let text = "frontend f
            bind 127.0.0.1:1
            use_backend old if { src 10.0.0.0/8 }
            default_backend new
        backend old
            disabled
            server s 127.0.0.1:2
        backend new
            server s 127.0.0.1:3";
    assert_eq!(open_cases(text), [1]);
}
mod fetches;
mod limits;
mod names;
mod ports;
mod stages;
