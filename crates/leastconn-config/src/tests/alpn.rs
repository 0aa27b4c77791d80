//! `alpn` of listeners.

use super::{
    PLAIN,
    pki::{ALL, Pki, by_name},
};

#[test]
fn alpn_is_checked() {
    let pki = Pki::new();
    let says = |alpn: &str| pki.problems(&format!("{ALL}, alpn = {alpn}"));
    assert!(says("[\"postgresql\", \"h2\", \"http/1.1\", \"mqtt\"]").is_empty());
    assert!(says("\"postgresql\"").is_empty());
    for (alpn, expected) in [
        ("[]", "`alpn` is an empty list"),
        ("[\"\"]", "has 1 to 255 bytes, but this one has 0"),
        ("[\"a b\"]", "\"a b\" is not an application protocol"),
        ("[\"h2\", \"h2\"]", "`alpn` names \"h2\" twice"),
        (
            "[\"http2\"]",
            "no client offers the application protocol \"http2\"",
        ),
        (
            "[\"postgres\"]",
            "no client offers the application protocol \"postgres\"",
        ),
        (
            "[\"H2\"]",
            "no client offers the application protocol \"H2\"",
        ),
    ] {
        let all = says(alpn);
        assert!(
            all.iter().any(|line| line.contains(expected)),
            "{alpn}: {all:?}"
        );
    }
    let long = "x".repeat(256);
    assert!(
        says(&format!("[\"{long}\"]"))
            .iter()
            .any(|line| line.contains("this one has 256"))
    );
}

#[test]
fn starttls_needs_tls_and_the_protocol_postgresql() {
    let pki = Pki::new();
    let says = |lines: &str| {
        let listener = format!("upstream = \"web\"\nstarttls = \"postgres\"\n{lines}");
        let text = PLAIN.replace("upstream = \"web\"\n", &listener);
        pki.problems_of(&if lines.contains("tls") {
            by_name(text)
        } else {
            text
        })
    };
    assert!(
        says("")[0].contains("`starttls` needs `tls`"),
        "{:?}",
        says("")
    );
    assert!(says(&format!("tls = {{ {ALL} }}\n")).is_empty());
    let without = says(&format!("tls = {{ {ALL}, alpn = [\"h2\"] }}\n"));
    assert!(
        without[0].contains("`alpn` lacks \"postgresql\""),
        "{without:?}"
    );
}

#[test]
fn protocol_not_offered_to_servers_is_a_warning() {
    let pki = Pki::new();
    let says = |listener: &str, upstream: &str| {
        let listener = format!("upstream = \"web\"\ntls = {{ {ALL}{listener} }}\n");
        let tls = format!("tls = {{ ca = \"ca.crt\", server_name = \"web\"{upstream} }}\nservers");
        let text = by_name(PLAIN.replace("upstream = \"web\"\n", &listener));
        pki.problems_of(&text.replace("servers", &tls))
    };
    assert!(says("", ", alpn = \"h2\"").is_empty());
    assert!(says(", alpn = \"h2\"", "").is_empty());
    let both = ", alpn = [\"h2\", \"http/1.1\"]";
    assert!(says(both, both).is_empty());
    let warned = says(both, ", alpn = \"http/1.1\"");
    assert_eq!(warned.len(), 1, "{warned:?}");
    assert!(
        warned[0].contains(
            "can negotiate \"h2\", which is not offered to the servers of upstream `web`"
        ),
        "{warned:?}"
    );
}
