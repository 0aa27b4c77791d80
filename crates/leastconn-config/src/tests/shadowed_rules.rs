//! Warnings about rules that are shadowed by an earlier rule.

use super::{PLAIN, changed, lines};

#[test]
fn shadowed_rule_is_a_warning() {
    let text = format!(
        "{PLAIN}\n[[client]]\nname = \"desk\"\nmatch = {{ source = \"10.1.0.0/16\" }}\nallow = [\"web\"]\n"
    );
    assert_eq!(
        lines(&text),
        ["18:9: warning: the rule of client `desk` never decides"]
    );
}

/// Whether a rule for a network causes a warning, because it follows a rule for a wider
/// network. `first` and `second` are further keys of the two rules.
fn is_shadowed(first: &str, second: &str) -> bool {
    let text = changed(
        "match = { source = \"10.0.0.0/8\" }",
        &format!("match = {{ source = \"10.0.0.0/8\" }}\n{first}"),
    );
    let text = format!(
        "{text}\n[[client]]\nname = \"desk\"\nmatch = {{ source = \"10.1.0.0/16\" }}\nallow = [\"web\"]\n{second}\n"
    );
    let lines = lines(&text);
    assert!(
        lines
            .iter()
            .all(|line| line.contains("warning: the rule of client `desk` never")),
        "{lines:?}"
    );
    !lines.is_empty()
}

#[test]
fn expiring_or_shadow_rule_shadows_no_other() {
    let sooner = "expires = 2027-01-31T00:00:00Z";
    let later = "expires = 2027-01-31T00:00:00-01:00";
    let shadow = "mode = \"shadow\"";
    for (first, second, shadowed) in [
        ("", "", true),
        (sooner, "", false),
        ("", sooner, true),
        (sooner, later, false),
        (later, sooner, true),
        (sooner, sooner, true),
        (shadow, "", false),
        ("", shadow, true),
        (shadow, shadow, true),
    ] {
        assert_eq!(is_shadowed(first, second), shadowed, "{first} {second}");
    }
}

#[test]
fn less_specific_rule_shadows_later_rule() {
    let key = "ab".repeat(32);
    let keys = format!("spki = [\"{key}\", \"{}\"]", "cd".repeat(32));
    let key = format!("spki = \"{}\"", key.to_uppercase());
    for (first, second, shadowed) in [
        (&*keys, &*key, true),
        (&*key, &*keys, false),
        (
            "uri = \"spiffe://td/ns/**\"",
            "uri = \"spiffe://td/ns/a/sa/b\"",
            true,
        ),
        (
            "uri = \"spiffe://td/a\"",
            "uri = [\"spiffe://td/a\"], cn = \"x\"",
            true,
        ),
        (
            "uri = \"spiffe://td/*\"",
            "uri = \"spiffe://td/a/b\"",
            false,
        ),
        ("ou = \"a\"", "cn = \"x\", ou = \"a\"", true),
        ("ou = \"a\"", "cn = \"x\", ou = [\"a\", \"b\"]", false),
        (
            "issuer_cn = \"CA\"",
            "dns = \"*.x\", issuer_cn = \"CA\"",
            true,
        ),
        (
            "issuer_cn = \"CA\", ou = \"a\"",
            "issuer_cn = \"CA\"",
            false,
        ),
    ] {
        let text = changed("source = \"10.0.0.0/8\"", first);
        let text = format!(
            "{text}\n[[client]]\nname = \"desk\"\nmatch = {{ {second} }}\nallow = [\"web\"]\n"
        );
        let warned = lines(&text)
            .iter()
            .any(|line| line.contains("never decides"));
        assert_eq!(warned, shadowed, "{first}; {second}");
    }
}

#[test]
fn only_some_of_many_problems_are_shown() {
    use std::fmt::Write;

    let mut text = PLAIN.to_owned();
    for number in 0..1000 {
        write!(
            text,
            "\n[[client]]\nname = \"k{number}\"\nmatch = {{ source = \"10.1.0.0/16\" }}\nallow = [\"web\"]\n"
        )
        .unwrap();
    }
    let problems = super::reading(&text, std::path::Path::new("")).problems;
    assert_eq!(problems.warnings(), 1000);
    let lines: Vec<_> = problems.lines().collect();
    assert_eq!(lines.len(), 101);
    assert!(lines[99].contains("the rule of client `k99` never decides"));
    assert!(lines[100].ends_with("warning: 900 more warnings, not shown"));
    assert_eq!(problems.error_lines().count(), 0);
    let rendered = problems.render(false);
    assert_eq!(rendered.matches("never decides").count(), 100);
    assert!(
        rendered.contains("900 more warnings, not shown"),
        "{rendered}"
    );
}
