//! Tests of loading and checking configurations.

mod algorithms;
mod alpn;
mod authorities;
mod crls;
mod diagnostics;
mod discovery;
mod fleet;
mod help;
mod listener_tls;
mod pins;
mod pki;
mod reference;
mod robustness;
mod routes;
mod shadowed_rules;
mod source_rules;
mod upstream_tls;
mod values;

use std::{env::VarError, path::Path};

use jiff::Timestamp;

use super::{Config, Problems, Reading, read_text};

/// The current time in all tests.
const TODAY: &str = "2026-06-15T12:00:00Z";

fn reading(text: &str, base_dir: &Path) -> Reading {
    let environment = |name: &str| match name {
        "PORT" => Ok("9443".to_owned()),
        "EVIL" => Ok("\u{1b}[2J".to_owned()),
        _ => Err(VarError::NotPresent),
    };
    let now = TODAY.parse::<Timestamp>().unwrap();
    let problems = Problems::new("leastconn.toml", text);
    read_text(problems, text, base_dir, &environment, now)
}

/// Loads a configuration that must have no problems.
fn config(text: &str) -> Config {
    let reading = reading(text, Path::new("/nowhere"));
    assert!(reading.problems.is_empty(), "{}", reading.problems);
    reading.config.unwrap()
}

/// Returns one line per problem, without the file name.
fn lines(text: &str) -> Vec<String> {
    reading(text, Path::new("/nowhere"))
        .problems
        .lines()
        .map(|line| line.trim_start_matches("leastconn.toml:").trim().to_owned())
        .collect()
}

/// A valid file that tests modify.
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

/// Returns [`PLAIN`] with `from` replaced with `to`.
fn changed(from: &str, to: &str) -> String {
    assert!(PLAIN.contains(from), "{from}");
    PLAIN.replacen(from, to, 1)
}
