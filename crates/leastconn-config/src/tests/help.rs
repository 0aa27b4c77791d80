//! Common mistakes and the help for each.

use std::path::Path;

use super::{PLAIN, changed, reading};
use crate::Access;

fn rendered(text: &str) -> String {
    reading(text, Path::new("/nowhere")).problems.to_string()
}

fn says(text: &str, parts: &[&str]) {
    let rendered = rendered(text);
    for part in parts {
        assert!(rendered.contains(part), "expected {part:?} in:\n{rendered}");
    }
}

#[test]
fn other_file_formats_are_recognized() {
    let languages = [
        ("---\nlisteners:\n  - name: main\n", "YAML"),
        ("listeners:\n  - name: main\n", "YAML"),
        ("{ \"listener\": [] }\n", "JSON"),
        ("global\n    maxconn 100\n", "an HAProxy configuration"),
        (
            "# lb\nfrontend main\n    bind :80\n",
            "an HAProxy configuration",
        ),
    ];
    for (text, language) in languages {
        says(
            text,
            &[&format!(
                "this looks like {language}; the file must be TOML"
            )],
        );
    }
    let toml = rendered("[[listener]]\nname = \n");
    assert!(!toml.contains("looks like"), "{toml}");
}

#[test]
fn missing_quotes_are_explained() {
    let unquoted = changed("bind = \"127.0.0.1:9000\"", "bind = 127.0.0.1:9000");
    says(
        &unquoted,
        &["write strings in quotes: `bind = \"127.0.0.1:9000\"`"],
    );
    let open = changed("bind = \"127.0.0.1:9000\"", "bind = \"127.0.0.1:9000");
    says(&open, &["a quote is not closed on this line"]);
    let commented = changed(
        "bind = \"127.0.0.1:9000\"",
        "bind = 127.0.0.1:9000 # don\u{2019}t",
    );
    says(
        &commented,
        &["write strings in quotes: `bind = \"127.0.0.1:9000\"`"],
    );
}

#[test]
fn missing_ports_are_explained() {
    let bind = changed("bind = \"127.0.0.1:9000\"", "bind = \"[::1]\"");
    says(&bind, &["the port is missing", "write \"[::1]:9443\""]);
    let server = changed("\"10.0.0.1:80\"", "\"[::1]\"");
    says(&server, &["the port is missing"]);
}

#[test]
fn durations_have_no_spaces() {
    let text = changed(
        "[[listener]]\n",
        "[process]\ndrain_timeout = \"10 s\"\n[[listener]]\n",
    );
    says(&text, &["a duration has no spaces"]);
}

#[test]
fn variable_in_a_default_is_an_error() {
    for default in ["${B}", "$B"] {
        let access = format!("[log]\naccess = \"${{A_UNSET:-{default}}}\"\n[[listener]]\n");
        let text = changed("[[listener]]\n", &access);
        says(
            &text,
            &[
                "error: the default of `${A_UNSET:-…}` contains a `$`",
                "leastconn.toml:3:10",
            ],
        );
    }
}

#[test]
fn unsupported_common_name_patterns_are_reported() {
    let names = [
        ("*", "matches only names of one label"),
        ("^client[0-9]+", "looks like a regular expression"),
        (
            "^client[0-9]+$",
            "error: the text looks like a regular expression, which is not supported",
        ),
        (".*", "looks like a regular expression"),
        (".*.example.com", "looks like a regular expression"),
        ("client.*x", "looks like a regular expression"),
        ("CN=client1,O=Example", "write `cn = \"client1\"`"),
    ];
    for (name, part) in names {
        let rule =
            format!("[[client]]\nname = \"odd\"\nmatch = {{ cn = {name:?} }}\nallow = [\"web\"]\n");
        says(&format!("{PLAIN}{rule}"), &[part]);
    }
    for name in ["*.*.ops", "client.*", "*.client.*.*"] {
        let rule =
            format!("[[client]]\nname = \"ok\"\nmatch = {{ cn = {name:?} }}\nallow = [\"web\"]\n");
        let rendered = rendered(&format!("{PLAIN}{rule}"));
        assert!(!rendered.contains("regular expression"), "{rendered}");
    }
}

#[test]
fn memory_limit_is_a_size() {
    let with = |limit: &str| {
        changed(
            "[[listener]]\n",
            &format!("[process]\nmemory_limit = \"{limit}\"\n[[listener]]\n"),
        )
    };
    for good in ["auto", "off", "32MiB", "2GiB"] {
        let rendered = rendered(&with(good));
        assert!(!rendered.contains("memory_limit"), "{rendered}");
    }
    says(&with("1MiB"), &["the minimum is 32MiB"]);
    for bad in ["512", "512MB", "many"] {
        says(&with(bad), &["memory_limit"]);
    }
}

#[test]
fn tcp_checks_of_mysql_are_a_warning() {
    let server = |check: &str| {
        changed("\"10.0.0.1:80\"", "\"10.0.0.1:3306\"")
            .replace("servers = [", &format!("{check}\nservers = ["))
    };
    says(
        &server(""),
        &["block it after `max_connect_errors`", "type = \"mysql\""],
    );
    says(
        &server("health_check = { type = \"http\" }"),
        &["max_connect_errors"],
    );
    for fine in ["mysql", "none"] {
        let rendered = rendered(&server(&format!("health_check = {{ type = \"{fine}\" }}")));
        assert!(!rendered.contains("max_connect_errors"), "{rendered}");
    }
    says(
        &server("health_check = { type = \"redis\", user = \"x\" }"),
        &["`user` belongs to"],
    );
}

#[test]
fn streams_of_other_processes_are_refused() {
    let with = |access: &str| {
        changed(
            "[[listener]]\n",
            &format!("[log]\naccess = \"{access}\"\n[[listener]]\n"),
        )
    };
    says(&with("/proc/1/fd/1"), &["write \"stdout\""]);
    for (name, access) in [
        ("stdout", Access::Stdout),
        ("/dev/stdout", Access::Stdout),
        ("/proc/self/fd/1", Access::Stdout),
        ("/dev/fd/2", Access::Stderr),
        ("/dev/stderr", Access::Stderr),
        ("stderr", Access::Stderr),
    ] {
        let config = reading(&with(name), Path::new("/nowhere")).config.unwrap();
        assert_eq!(config.log.access, access, "{name}");
    }
}

#[test]
fn duplicate_tables_are_explained() {
    let again = format!("[log]\nlevel = \"info\"\n{PLAIN}\n[log]\nformat = \"json\"\n");
    says(
        &again,
        &["duplicate key", "`[log]` begins in line 1 already"],
    );
    let tls = "[listener.tls]\ncert = \"a\"\n";
    let second = format!("[[listener]]\n{tls}\n[[listener]]\nname = \"b\"\n{tls}{tls}");
    says(&second, &["`[listener.tls]` begins in line 7 already"]);
    let single = format!("{PLAIN}\n[listener]\nname = \"b\"\n");
    says(
        &single,
        &["duplicate key", "write `[[listener]]` for each table"],
    );
}

#[test]
fn frequent_syntax_errors_are_explained() {
    for (from, to, help) in [
        (
            "\"office\"",
            "\u{201c}office\u{201d}",
            "write straight quotes",
        ),
        ("name = \"office\"", "name \"office\"", "write `name = …`"),
        (
            "servers = [",
            "servers = \n[",
            "the value of `servers` is missing",
        ),
        (
            "{ source = \"10.0.0.0/8\" }",
            "{ source = \"10.0.0.0/8\"",
            "a `}` or a comma is missing",
        ),
    ] {
        says(&changed(from, to), &[help]);
    }
}

#[test]
fn ipv6_addresses_get_brackets() {
    for port in [80, 19443] {
        let bind = changed("127.0.0.1:9000", &format!("fd00::1:{port}"));
        says(&bind, &[&format!("write \"[fd00::1]:{port}\"")]);
        let server = changed("10.0.0.1:80", &format!("fd00::1:{port}"));
        says(&server, &[&format!("in brackets: \"[fd00::1]:{port}\"")]);
    }
}
