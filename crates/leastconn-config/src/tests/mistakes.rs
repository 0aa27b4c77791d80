//! What people get wrong, and what they are told.

mod clients;

use std::path::Path;

use super::{PLAIN, changed, lines, reading};

fn rendered(text: &str) -> String {
    reading(text, Path::new("/nowhere")).problems.to_string()
}

#[test]
fn a_problem_shows_the_line_and_what_to_do() {
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
fn all_problems_are_reported_at_once_in_the_file_s_order() {
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
fn syntax_errors_are_all_reported_and_alone() {
    assert_eq!(
        lines("a = = 1\nb = 5\nb = 6\n[process]\nwokers = 1\n"),
        [
            "1:5: error: extra `=`, expected nothing",
            "3:1: error: duplicate key",
        ]
    );
}

/// Each line of the list: what to change in the plain file, to what, and what is said.
#[test]
fn mistakes_and_what_is_said() {
    let cases: &[(&str, &str, &str)] = &[
        // Keys
        (
            "bind =",
            "bindd =",
            "error: unknown key `bindd` in `[[listener]]`; did you mean `bind`?",
        ),
        (
            "bind =",
            "cert = \"x\"\nbind =",
            "error: unknown key `cert` in `[[listener]]`; `cert` belongs in `listener.tls` or `upstream.tls`",
        ),
        (
            "bind =",
            "zzzzzz = 1\nbind =",
            "error: unknown key `zzzzzz` in `[[listener]]`; the keys are `bind`, `bind_mode`, `half_close_timeout`",
        ),
        (
            "[[listener]]",
            "[listener]",
            "error: `listener`: expected a list of tables, found a table; write `[[listener]]` for each table",
        ),
        (
            "[[listener]]",
            "[[listner]]",
            "error: unknown key `listner` in the top level; did you mean `listener`?",
        ),
        (
            "allow = [\"web\"]\n",
            "",
            "error: `[[client]]` needs `allow`",
        ),
        // Types
        (
            "\"127.0.0.1:9000\"",
            "9000",
            "error: `bind`: expected a string or a list of strings, found an integer; write \
             \"0.0.0.0:9000\" for all IPv4 addresses, \"127.0.0.1:9000\" for this machine only",
        ),
        (
            "\"127.0.0.1:9000\"",
            "[9000]",
            "error: `bind`: expected a string, found an integer",
        ),
        (
            "[\"10.0.0.1:80\", ",
            "[{ adress = \"10.0.0.1:80\" }, ",
            "error: unknown key `adress` in `upstream.servers`; did you mean `address`?",
        ),
        (
            "[\"10.0.0.1:80\", ",
            "[true, ",
            "error: `servers`: expected an address like \"webapp1:80\" or a table, found a boolean",
        ),
        (
            "bind =",
            "routes = {}\nbind =",
            "error: `routes`: expected a list of tables, found a table",
        ),
        (
            "[[listener]]",
            "[process]\nworkers = \"many\"\n[[listener]]",
            "error: `workers` cannot be \"many\"; it must be \"auto\"",
        ),
        (
            "[[listener]]",
            "[process]\nworkers = \"4\"\n[[listener]]",
            "error: `workers`: expected \"auto\" or an integer, found a string; write 4, without quotes",
        ),
        (
            "[[listener]]",
            "[process]\nmax_connections = \"500\"\n[[listener]]",
            "error: `max_connections`: expected an integer, found a string; write 500, without quotes",
        ),
        (
            "bind =",
            "source_rate_limit = 50\nbind =",
            "error: `source_rate_limit`: expected a table, found an integer; write `source_rate_limit = { rate = 50 }`",
        ),
        (
            "[[listener]]",
            "[process]\nworkers = 0\n[[listener]]",
            "error: `workers` must be from 1 to 1024, not 0",
        ),
        (
            "[[listener]]",
            "[process]\nmax_connections = 99999999999\n[[listener]]",
            "error: `max_connections` must be at most 4294967295, not 99999999999",
        ),
        (
            "[[listener]]",
            "[process]\nmax_connections = 99999999999999999999\n[[listener]]",
            "error: `max_connections`: the number is too large",
        ),
        (
            "[[listener]]",
            "[process]\ntls_records = \"own\"\n[[listener]]",
            "error: `tls_records` cannot be \"own\"; it must be \"direct\" or \"rustls\"",
        ),
        (
            "[[listener]]",
            "[process]\nsandbox = \"strict\"\n[[listener]]",
            "error: `sandbox` cannot be \"strict\"; it must be \"on\" or \"off\"",
        ),
        (
            "[[listener]]",
            "[process]\nsandbox = true\n[[listener]]",
            "error: `sandbox`: expected \"on\" or \"off\", found a boolean",
        ),
        (
            "[[listener]]",
            "[log]\nlevel = \"warning\"\n[[listener]]",
            "error: `level` cannot be \"warning\"; it must be \"error\", \"warn\", \"info\", \"debug\" or \"trace\"",
        ),
        (
            "[[listener]]",
            "[log]\naccess = \"nowhere/access.log\"\n[[listener]]",
            "error: \"nowhere/access.log\" cannot be the access log: there is no directory /nowhere/nowhere",
        ),
        // Durations
        (
            "upstream =",
            "idle_timeout = \"10\"\nupstream =",
            "error: `idle_timeout`: the unit is missing: \"10s\", \"10ms\"?",
        ),
        (
            "upstream =",
            "idle_timeout = \"1.5h\"\nupstream =",
            "error: `idle_timeout`: durations are whole numbers",
        ),
        (
            "upstream =",
            "idle_timeout = \"0s\"\nupstream =",
            "error: `idle_timeout` cannot be zero; the default is \"1h\"",
        ),
        // PROXY headers
        (
            "upstream =",
            "proxy_protocol = \"required\"\nupstream =",
            "warning: everyone who can reach this listener can claim any address; `source` rules",
        ),
        (
            "upstream =",
            "proxy_protocol_from = \"10.0.0.0/8\"\nupstream =",
            "error: `proxy_protocol_from` has no effect: PROXY headers are not read; add `proxy_protocol = \"required\"`",
        ),
        (
            "upstream =",
            "proxy_protocol = \"off\"\nproxy_protocol_from = \"10.0.0.0/8\"\nupstream =",
            "error: `proxy_protocol_from` has no effect: PROXY headers are not read",
        ),
        (
            "upstream =",
            "proxy_protocol = \"required\"\nproxy_protocol_from = []\nupstream =",
            "error: `proxy_protocol_from` is an empty list: it would match no client",
        ),
        (
            "upstream =",
            "proxy_protocol = \"required\"\nproxy_protocol_from = \"10.0.0.1/8\"\nupstream =",
            "error: `proxy_protocol_from`: the address has bits set beyond its prefix",
        ),
        (
            "upstream =",
            "proxy_protocol = \"v2\"\nupstream =",
            "error: `proxy_protocol` cannot be \"v2\"; it must be \"off\" or \"required\"",
        ),
        (
            "servers =",
            "proxy_protocol = \"required\"\nservers =",
            "error: `proxy_protocol` cannot be \"required\"; it must be \"off\", \"v1\", \"v2\", \"v2-tls\" or \"v2-tls-full\"",
        ),
        // Addresses
        (
            "127.0.0.1:9000",
            ":9000",
            "error: the address is missing; write \"0.0.0.0:9000\" for all IPv4 addresses, \"[::]:9000\"",
        ),
        (
            "127.0.0.1:9000",
            "localhost:9000",
            "error: `bind` takes an IP address, not a name; write \"127.0.0.1:9000\"",
        ),
        (
            "127.0.0.1:9000",
            "127.0.0.1",
            "error: the port is missing; write \"127.0.0.1:9443\"",
        ),
        (
            "127.0.0.1:9000",
            "::1:9000",
            "error: an IPv6 address is written in brackets: `[::1]:80`",
        ),
        (
            "127.0.0.1:9000",
            "127.0.0.1:99999",
            "error: the port must be a number from 1 to 65535",
        ),
        (
            "bind = \"127.0.0.1:9000\"",
            "bind = []",
            "error: `bind` is an empty list",
        ),
        (
            "bind = \"127.0.0.1:9000\"",
            "bind = [\"127.0.0.1:9000\", \"0.0.0.0:9000\"]",
            "error: 0.0.0.0:9000 and 127.0.0.1:9000 overlap",
        ),
        (
            "[[listener]]",
            "[admin]\nbind = \"127.0.0.1:9000\"\n[[listener]]",
            "error: 127.0.0.1:9000 is used by two listeners",
        ),
        (
            "[[listener]]",
            "[admin]\nbind = \"0.0.0.0:9901\"\n[[listener]]",
            "warning: the admin address 0.0.0.0:9901 is not a loopback address",
        ),
        (
            "[[listener]]",
            "[admin]\n[[listener]]",
            "error: `[admin]` needs `bind` or `socket`",
        ),
        (
            "10.0.0.1:80",
            "http://10.0.0.1:80",
            "error: \"http://10.0.0.1:80\" is not a server address; write HOST:PORT",
        ),
        // Names
        (
            "\"main\"",
            "\"ma in\"",
            "error: the name of the listener contains ' '",
        ),
        (
            "\"main\"",
            "\"\"",
            "error: the name of the listener is empty",
        ),
        (
            "\"office\"",
            "\"a/b\"",
            "error: the name of the client contains '/'",
        ),
        (
            "\"10.0.0.2:80\"",
            "\"10.0.0.1:80\"",
            "error: there are two servers named `10.0.0.1:80`",
        ),
        (
            "\"10.0.0.2:80\"",
            "{ name = \"b\", address = \"10.0.0.1:80\" }",
            "warning: two servers have the address 10.0.0.1:80",
        ),
        // Upstreams
        (
            "servers = [\"10.0.0.1:80\", \"10.0.0.2:80\"]",
            "servers = []",
            "error: the upstream has no servers",
        ),
        (
            "\"10.0.0.2:80\"",
            "{ address = \"10.0.0.2:80\", weight = 0 }",
            "error: `weight` must be from 1 to 65535, not 0; to stop new connections to a server, drain it",
        ),
        (
            "servers =",
            "health_check = { type = \"tpc\" }\nservers =",
            "error: `type` cannot be \"tpc\"; it must be \"none\", \"tcp\", \"http\", \"mysql\", \"postgres\" or \"redis\"; did you mean \"tcp\"?",
        ),
        (
            "servers =",
            "health_check = { path = \"/\" }\nservers =",
            "error: `path` belongs to health checks of type \"http\"",
        ),
        (
            "servers =",
            "health_check = { type = \"http\", path = \"up\" }\nservers =",
            "error: \"up\" is not a request path",
        ),
        (
            "servers =",
            "health_check = { type = \"http\", path = \"/a\\r\\nX: y\" }\nservers =",
            "error: \"/a\\r\\nX: y\" is not a request path",
        ),
        (
            "servers =",
            "health_check = { timeout = \"20s\" }\nservers =",
            "warning: `timeout` of the health check is longer than its `interval`",
        ),
        (
            "servers =",
            "health_check = { rise = 0 }\nservers =",
            "error: `rise` must be from 1 to 1000, not 0",
        ),
        // Together
        (
            "source = \"10.0.0.0/8\"",
            "cn = \"a\"",
            "warning: no client can connect to listener `main`",
        ),
        (
            "upstream = \"web\"",
            "routes = [{ sni = \"a.b\", upstream = \"web\" }]",
            "error: `routes` need the TLS server name, but the listener has no `tls`",
        ),
        (
            "upstream = \"web\"",
            "upstream = \"web\"\nmax_lifetime = \"1\"",
            "error: `max_lifetime`: ",
        ),
        (
            "upstream = \"web\"",
            "upstream = \"web\"\non_expiry = \"closed\"",
            "error: `on_expiry` cannot be \"closed\"",
        ),
        // Balancing
        (
            "servers =",
            "balance = \"leastconn\"\nservers =",
            "error: `balance` cannot be \"leastconn\"; it must be \"least_conn\", \"p2c\", \"round_robin\", \"random\" or \"source_hash\"; did you mean \"least_conn\"?",
        ),
        (
            "servers =",
            "balance = \"round-robin\"\nservers =",
            "error: `balance` cannot be \"round-robin\"; it must be \"least_conn\", \"p2c\", \"round_robin\", \"random\" or \"source_hash\"; did you mean \"round_robin\"?",
        ),
        (
            "servers =",
            "slow_start = 30\nservers =",
            "error: `slow_start`: expected a duration",
        ),
        // Environment
        (
            "127.0.0.1:9000",
            "127.0.0.1:${NOPE}",
            "error: the environment variable `NOPE` is not set; set it, or give a default: `${NOPE:-default}`",
        ),
        (
            "127.0.0.1:9000",
            "127.0.0.1:$PORT",
            "error: `$` is neither part of `${NAME}` nor of `$$`",
        ),
    ];
    are_told(cases);
}

fn are_told(cases: &[(&str, &str, &str)]) {
    for (from, to, said) in cases {
        let lines = lines(&changed(from, to));
        assert!(
            lines.iter().any(|line| line.contains(said)),
            "{to}\n  should say: {said}\n  says: {lines:#?}"
        );
    }
}

/// One mistake is one problem, and not an avalanche.
#[test]
fn one_mistake_is_reported_once() {
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
    ] {
        let lines = lines(&changed(from, to));
        let errors: Vec<_> = lines
            .iter()
            .filter(|line| line.contains("error:"))
            .collect();
        assert_eq!(errors.len(), 1, "{to}: {lines:#?}");
    }
}

#[test]
fn a_listener_that_leads_nowhere_needs_clients_that_do() {
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
    // Those that cannot connect there do not matter.
    let text = text.replace("source = \"10.0.0.0/8\"", "cn = \"a\"");
    assert_eq!(reading(&text, Path::new("/nowhere")).problems.errors(), 0);
}

#[test]
fn a_byte_order_mark_moves_no_column() {
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
fn an_empty_file_says_what_is_missing() {
    assert_eq!(
        lines(""),
        [
            "error: there is no `[[listener]]`: no client can connect",
            "warning: there is no `[[client]]`: all clients will be refused",
        ]
        .map(str::to_owned)
    );
}

#[test]
fn what_a_terminal_would_obey_is_made_visible() {
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
fn colours_are_an_option() {
    let problems = reading("a = 1", Path::new("/nowhere")).problems;
    assert!(problems.render(true).contains("\u{1b}["));
    assert!(!problems.render(false).contains('\u{1b}'));
    assert!(problems.render(false).is_ascii());
}
