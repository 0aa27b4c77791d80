//! Tests of the summary that `check` prints.

use super::check;

const PLAIN: &str = r#"
[[listener]]
name = "main"
bind = "127.0.0.1:9000"
upstream = "web"

[[upstream]]
name = "web"
servers = ["10.0.0.1:80", "10.0.0.2:80"]

[[client]]
name = "office"
match = { source = "10.0.0.0/8" }
allow = ["web"]
"#;

fn changed(from: &str, to: &str) -> String {
    assert!(PLAIN.contains(from), "{from}");
    PLAIN.replacen(from, to, 1)
}

fn checked(text: &str) -> (String, String, bool) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("leastconn.toml");
    std::fs::write(&path, text).unwrap();
    let (report, summary, ok) = check(&path, false);
    let dir = dir.path().display().to_string() + "/";
    (report.replace(&dir, ""), summary.replace(&dir, ""), ok)
}

#[test]
fn valid_file_is_summarized() {
    assert_eq!(
        checked(PLAIN),
        (
            String::new(),
            "leastconn.toml: ok - 1 listener, 1 upstream with 2 servers, 1 client".to_owned(),
            true
        )
    );
    let (report, summary, ok) = checked(&changed("[\"web\"]", "[]"));
    assert!(report.starts_with("warning: `allow` is empty"), "{report}");
    assert!(summary.ends_with("1 client (1 warning)"), "{summary}");
    assert!(ok);
}

#[test]
fn errors_are_counted() {
    let (report, summary, ok) = checked(&changed("upstream = \"web\"", "upstrem = \"wbe\"\nx = 1"));
    assert!(
        report.starts_with("error: unknown key `upstrem`"),
        "{report}"
    );
    assert_eq!(summary, "leastconn.toml: 2 errors");
    assert!(!ok);
}

#[test]
fn unresolvable_name_is_a_warning() {
    let text = changed("10.0.0.2:80", "nowhere.invalid:80");
    let (report, summary, ok) = checked(&text);
    assert!(
        report.contains("warning: `nowhere.invalid` cannot be resolved"),
        "{report}"
    );
    assert!(report.contains("9:27"), "{report}");
    assert!(summary.ends_with("(1 warning)"), "{summary}");
    assert!(ok);

    let mut loaded =
        leastconn_config::load_text("leastconn.toml", &text, std::path::Path::new("")).unwrap();
    assert!(loaded.warnings.is_empty());
    loaded.warn_of_unresolved_names();
    assert_eq!(loaded.warnings.warnings(), 1);
    assert_eq!(loaded.warnings.errors(), 0);
}
