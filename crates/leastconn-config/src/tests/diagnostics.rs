//! Diagnostics: message, position and presentation.

mod clients;
mod listeners;
mod syntax;
mod upstreams;

use std::path::Path;

use super::{PLAIN, changed, lines, reading};

fn rendered(text: &str) -> String {
    reading(text, Path::new("/nowhere")).problems.to_string()
}

#[test]
fn problem_shows_line_and_help() {
    assert_eq!(
        rendered(&changed(
            "[[listener]]\n",
            "[process]\nwokers = 4\n\n[[listener]]\n"
        )),
        "\
error: unknown key `wokers` in `[process]`
 --> leastconn.toml:3:1
  |
3 | wokers = 4
  | ^^^^^^
  |
  = help: did you mean `workers`?"
    );
    assert_eq!(
        rendered(&changed("name = \"main\"\n", "")),
        "\
error: `[[listener]]` needs `name`
 --> leastconn.toml:2:1
  |
2 | [[listener]]
  | ^^^^^^^^^^^^"
    );
    assert_eq!(
        rendered(&format!(
            "{PLAIN}\n[[upstream]]\nname = \"web\"\nservers = [\"10.0.0.3:80\"]\n"
        )),
        "\
error: there are two upstreams named `web`
  --> leastconn.toml:17:8
   |
 8 | name = \"web\"
   |        ----- the first
...
17 | name = \"web\"
   |        ^^^^^"
    );
}

#[test]
fn all_problems_are_reported_in_file_order() {
    let text = PLAIN
        .replace(
            "[[listener]]\n",
            "[process]\nmax_handshakes = 0\n[[listener]]\nidle_timeout = 5\n",
        )
        .replace("upstream = \"web\"", "upstream = \"wbe\"")
        .replace("\"10.0.0.1:80\"", "\"10.0.0.1\"")
        .replace("10.0.0.0/8", "10.0.0.1/8");
    assert_eq!(
        lines(&text),
        [
            "3:18: error: `max_handshakes` must be at least 1, not 0",
            "5:16: error: `idle_timeout`: expected a duration like \"10s\", found an integer; \
             write \"5s\" for seconds",
            "8:12: error: there is no upstream named `wbe`; did you mean `web`?",
            "12:12: error: \"10.0.0.1\" is not a server address; the port is missing: \
             write HOST:PORT, for example `webapp1:80`",
            "16:20: error: `source`: the address has bits set beyond its prefix: write \
             `10.0.0.0/8` for the network, or `10.0.0.1` for the one address",
        ]
    );
}

#[test]
fn only_syntax_errors_are_reported_if_any() {
    assert_eq!(
        lines("a = = 1\nb = 5\nb = 6\n[process]\nwokers = 1\n"),
        [
            "1:5: error: extra `=`, expected nothing",
            "3:1: error: duplicate key; remove one of the two lines",
        ]
    );
}

/// Checks that replacing `from` with `to` in [`PLAIN`] causes the expected diagnostic.
fn check_all(cases: &[(&str, &str, &str)]) {
    for (from, to, expected) in cases {
        let lines = lines(&changed(from, to));
        assert!(
            lines.iter().any(|line| line.contains(expected)),
            "{to}\n  expected: {expected}\n  found: {lines:#?}"
        );
    }
}

/// Problems that are only consequences of another mistake are not reported.
#[test]
fn one_mistake_causes_one_error() {
    for (from, to) in [
        ("name = \"main\"", "nmae = \"main\""),
        ("source = \"10.0.0.0/8\"", "ou = \"staff*\""),
        ("allow =", "expires = 2027-01-31\nallow ="),
        ("name = \"web\"", "nmae = \"web\""),
        ("[[upstream]]", "[[upstrem]]"),
        ("\"10.0.0.1:80\", \"10.0.0.2:80\"", "1"),
        ("127.0.0.1:9000", "127.0.0.1:${NOPE}"),
        ("{ source = \"10.0.0.0/8\" }", "{ source = 5 }"),
        ("[\"web\"]", "[5]"),
        ("[[listener]]", "[[listner]]"),
        (
            "servers =",
            "health_check = { type = \"http\", status = [\"x\"] }\nservers =",
        ),
    ] {
        let lines = lines(&changed(from, to));
        let errors: Vec<_> = lines
            .iter()
            .filter(|line| line.contains("error:"))
            .collect();
        assert_eq!(errors.len(), 1, "{to}: {lines:#?}");
    }
}

/// As above, for values in `tls` tables. None of the files exist, so each table causes one error
/// for each missing file and one more error.
#[test]
fn one_mistake_in_tls_causes_one_error() {
    const LISTENER: &str = "bind =";
    const UPSTREAM: &str = "servers =";
    const FILES: &str = "cert = \"c\", key = \"k\", client_ca = \"a\"";
    const TLS12: &str = "\"TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256\"";
    for (before, table, missing_files) in [
        (LISTENER, format!("{FILES}, alpn = [1]"), 3),
        (LISTENER, format!("{FILES}, groups = [1]"), 3),
        (LISTENER, format!("{FILES}, ciphers = [1]"), 3),
        (LISTENER, format!("{FILES}, client_pins = [1]"), 3),
        (
            LISTENER,
            format!("{FILES}, min_version = \"1.3\", ciphers = [1, {TLS12}]"),
            3,
        ),
        (
            LISTENER,
            format!("{FILES}, min_version = \"1.3\", ciphers = [\"TLS_AES\", {TLS12}]"),
            3,
        ),
        (
            LISTENER,
            "cert = \"c\", key = \"k\", client_ca = 1".to_owned(),
            2,
        ),
        (UPSTREAM, "ca = 1".to_owned(), 0),
        (UPSTREAM, "pin = [1]".to_owned(), 0),
        (UPSTREAM, "ca = \"a\", uri = [1]".to_owned(), 1),
        (UPSTREAM, "ca = \"a\", cert = 1, key = \"k\"".to_owned(), 2),
    ] {
        let text = changed(before, &format!("tls = {{ {table} }}\n{before}"));
        let lines = lines(&text);
        let errors = lines.iter().filter(|line| line.contains("error:")).count();
        assert_eq!(errors, missing_files + 1, "{table}: {lines:#?}");
    }
}

#[test]
fn listener_without_upstream_needs_unambiguous_clients() {
    let text = format!(
        "{}\n[[upstream]]\nname = \"db\"\nservers = [\"10.0.0.9:5432\"]\n",
        changed("upstream = \"web\"\n", "").replace("[\"web\"]", "[\"web\", \"db\"]")
    );
    assert_eq!(
        lines(&text),
        [
            "13:9: error: no upstream is set for connections of client `office` at listener \
             `main`; `allow` must then name servers of exactly one upstream, but it names `db`, \
             `web`; add `upstream` or `routes` to the listener, or name one upstream in `allow` \
             of `office`"
        ]
    );
    // Rules that cannot match connections at the listener are not checked.
    let text = text.replace("source = \"10.0.0.0/8\"", "cn = \"a\"");
    assert_eq!(reading(&text, Path::new("/nowhere")).problems.errors(), 0);
}

#[test]
fn byte_order_mark_does_not_shift_columns() {
    for text in [
        "lgo = 1\n",
        "[[[",
        "x = ",
        "",
        "\n[lgo]\n",
        "[log] # ü\nx = 1",
    ] {
        let marked = format!("\u{feff}{text}");
        assert_eq!(lines(&marked), lines(text), "{text:?}");
        let render = |text: &str| reading(text, Path::new("/nowhere")).problems.render(false);
        assert_eq!(render(&marked), render(text), "{text:?}");
    }
}

#[test]
fn empty_file_lists_what_is_missing() {
    assert_eq!(
        lines(""),
        [
            "error: there is no `[[listener]]`: no client can connect; write a first configuration with \
             `leastconn-lb init`",
            "warning: there is no `[[client]]`: all clients will be refused; add a `[[client]]` table with \
             `name`, `match = { cn = \"NAME\" }` and `allow = [\"UPSTREAM\"]`",
        ]
        .map(str::to_owned)
    );
}

#[test]
fn terminal_control_characters_are_escaped() {
    let text = changed("\"main\"", "\"${EVIL}\"");
    let rendered = rendered(&text);
    assert!(rendered.contains("\\u{1b}"), "{rendered}");
    for text in [text, "a = \"\u{1b}[2J\u{202e}\" 5\n\u{9b} = 1".to_owned()] {
        let problems = reading(&text, Path::new("/nowhere")).problems;
        for shown in problems.lines().chain([problems.render(false)]) {
            assert!(
                !shown
                    .chars()
                    .any(|c| (c.is_control() && c != '\n') || c == '\u{202e}'),
                "{shown:?}"
            );
        }
    }
}

#[test]
fn colours_are_optional() {
    let problems = reading("a = 1", Path::new("/nowhere")).problems;
    assert!(problems.render(true).contains("\u{1b}["));
    assert!(!problems.render(false).contains('\u{1b}'));
    assert!(problems.render(false).is_ascii());
}
