//! What is said of listeners where routes do not decide everything.

use super::{reading, tls::Pki};

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

/// What `check` says of [`START`] and clients with these `allow`, without places.
fn said(allows: &[&str], change: impl Fn(String) -> String) -> Vec<String> {
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
fn who_may_use_several_upstreams_is_refused_where_no_route_leads() {
    let both = r#"["web", "db/10.0.0.2:80"]"#;
    assert_eq!(
        said(&[both, r#"["db"]"#], |text| text),
        [
            "3:8: warning: connections of client `c0` at listener `main` are refused if they match \
             no route; the listener has no `upstream`, so `allow` decides for connections without \
             a route, and must then name servers of exactly one upstream; add `upstream` to the \
             listener for connections without a route, or name one upstream in `allow`"
        ]
    );
    // One warning, however many there are.
    for (clients, others) in [
        (2, " (and of one other client) at"),
        (9, " (and of 8 other clients) at"),
    ] {
        let said = said(&vec![both; clients], |text| text);
        assert!(said.len() == 1 && said[0].contains(others), "{said:?}");
    }
    let with_upstream = |text: String| text.replace("routes =", "upstream = \"web\"\nroutes =");
    assert_eq!(said(&[both], with_upstream), [""; 0]);
}

/// What no route takes goes where the client's own `allow` says, if that is one place.
#[test]
fn who_may_use_one_upstream_gets_there_though_no_route_leads_to_it() {
    assert_eq!(said(&[r#"["web"]"#], |text| text), [""; 0]);
    let other = |text: String| text.replace("routes =", "upstream = \"db\"\nroutes =");
    let said = said(&[r#"["web"]"#], other);
    assert!(
        said.len() == 1
            && said[0].contains("no listener leads to an upstream that client `c0` may use"),
        "{said:?}"
    );
}
