//! Checks of listeners with `routes` and without `upstream`.

use super::{pki::Pki, reading};

const START: &str = r#"
[[listener]]
name = "main"
bind = "127.0.0.1:0"
routes = [{ sni = "db.lb.com", upstream = "db" }]
tls = { cert = "server.crt", key = "server.key", client_ca = "ca.crt" }

[[upstream]]
name = "web"
servers = ["10.0.0.1:80"]

[[upstream]]
name = "db"
servers = ["10.0.0.2:80"]
"#;

/// The problems in [`START`] with clients that have these `allow` lists.
fn problems_with(allows: &[&str], change: impl Fn(String) -> String) -> Vec<String> {
    let clients = allows.iter().enumerate().map(|(n, allow)| {
        format!("\n[[client]]\nname = \"c{n}\"\nmatch = {{ cn = \"c{n}\" }}\nallow = {allow}\n")
    });
    let text = START.to_owned() + &clients.collect::<String>();
    let pki = Pki::new();
    let problems = reading(&change(text), pki.dir.path()).problems;
    let lines = problems.lines();
    lines
        .map(|line| line.replace("leastconn.toml:", ""))
        .collect()
}

#[test]
fn client_with_several_upstreams_needs_a_route() {
    let both = r#"["web", "db/10.0.0.2:80"]"#;
    assert_eq!(
        problems_with(&[both, r#"["db"]"#], |text| text),
        [
            "3:8: warning: connections of client `c0` at listener `main` are refused if they match \
             no route; the listener has no `upstream`, so `allow` decides for connections without \
             a route, and must then name servers of exactly one upstream; add `upstream` to the \
             listener for connections without a route, or name one upstream in `allow`"
        ]
    );
    // There is only one warning, which covers all clients.
    for (clients, others) in [
        (2, " (and of one other client) at"),
        (9, " (and of 8 other clients) at"),
    ] {
        let problems = problems_with(&vec![both; clients], |text| text);
        assert!(
            problems.len() == 1 && problems[0].contains(others),
            "{problems:?}"
        );
    }
    let with_upstream = |text: String| text.replace("routes =", "upstream = \"web\"\nroutes =");
    assert_eq!(problems_with(&[both], with_upstream), [""; 0]);
}

/// Connections that match no route go to the upstream in the client's `allow`.
#[test]
fn client_with_one_upstream_needs_no_route() {
    assert_eq!(problems_with(&[r#"["web"]"#], |text| text), [""; 0]);
    let other = |text: String| text.replace("routes =", "upstream = \"db\"\nroutes =");
    let problems = problems_with(&[r#"["web"]"#], other);
    assert!(
        problems.len() == 1
            && problems[0].contains("no listener leads to an upstream that client `c0` may use"),
        "{problems:?}"
    );
}

/// `upstream = false` refuses connections, so `allow` need not decide.
#[test]
fn refusing_targets_need_no_upstream() {
    let both = r#"["web", "db"]"#;
    for (from, to) in [
        ("routes =", "upstream = false\nroutes ="),
        (
            "}]",
            "}, { sni = \"a.lb.com\", upstream = false }]\nupstream = false",
        ),
        (
            "routes = [{ sni = \"db.lb.com\", upstream = \"db\" }]",
            "upstream = false",
        ),
    ] {
        let problems = problems_with(&[both], |text| text.replace(from, to));
        let is_expected = |line: &String| {
            line.contains("the upstream `db` is not used")
                || line.contains("the upstream `web` is not used")
                || line.contains("no listener leads to an upstream that client `c0` may use")
        };
        assert!(problems.iter().all(is_expected), "{to}: {problems:?}");
    }
    let problems = problems_with(&[both], |text| {
        text.replace("routes =", "upstream = true\nroutes =")
    });
    let expected = "expected the name of an upstream, or false";
    assert!(problems[0].contains(expected), "{problems:?}");
}
