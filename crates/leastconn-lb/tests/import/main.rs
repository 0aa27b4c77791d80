//! `leastconn-lb import`: each source file is translated to the expected configuration, which
//! `check` accepts.
//!
//! The expected configuration of `NAME.cfg` is `NAME.toml`. `UPDATE_EXPECTED=1` writes the files
//! instead of comparing them.
// Helpers panic like the tests that call them.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod behaviour;

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use leastconn_testkit::{Cert, TempDir, TestCa};

const LB: &str = env!("CARGO_BIN_EXE_leastconn-lb");

/// Runs the program with the working directory `dir`.
fn run(dir: &Path, args: &[&str]) -> Output {
    Command::new(LB)
        .args(args)
        .current_dir(dir)
        .env_remove("LISTEN_ADDRESS")
        .output()
        .unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// Creates a directory with the source files and the certificates that they refer to.
fn site(program: &str) -> TempDir {
    let dir = TempDir::new().unwrap();
    let ca = TestCa::new("import test CA");
    let server = ca.write_set(&dir, &["lb.example.com"]);
    write_pem(&server, dir.path(), "server");
    let client = ca.leaf("lb.example.com").build();
    write_pem(&client, dir.path(), "client");
    copy(&sources(program), dir.path());
    dir
}

/// Writes certificate and key to `STEM.crt` and `STEM.key`, and both to `STEM.pem`.
fn write_pem(cert: &Cert, dir: &Path, stem: &str) {
    cert.write(dir, stem);
    let both = format!("{}{}", cert.cert_pem, cert.key_pem);
    fs::write(dir.join(format!("{stem}.pem")), both).unwrap();
}

fn copy(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap();
        if path.is_dir() {
            fs::create_dir_all(to.join(name)).unwrap();
            copy(&path, &to.join(name));
        } else {
            fs::copy(&path, to.join(name)).unwrap();
        }
    }
}

fn sources(program: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/import")
        .join(program)
}

/// Replaces hashes of keys, which differ in each run.
fn without_pins(toml: &str) -> String {
    let is_pin = |word: &str| word.len() == 64 && word.chars().all(|c| c.is_ascii_hexdigit());
    let words = toml.split('"');
    let words: Vec<_> = words
        .map(|word| if is_pin(word) { "PIN" } else { word })
        .collect();
    words.join("\"")
}

/// Imports all files of a program that end with `ending`. Returns their number.
fn import_all(program: &str, ending: &str) -> usize {
    let site = site(program);
    let mut names: Vec<_> = fs::read_dir(sources(program))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.ends_with(ending))
        .collect();
    names.sort();
    for name in &names {
        let output = run(site.path(), &["import", program, name]);
        let (toml, summary) = (text(&output.stdout), text(&output.stderr));
        let kinds = ["#   not carried over: ", "#   differs: "];
        let left_out: usize = kinds.iter().map(|kind| toml.matches(kind).count()).sum();
        assert_eq!(
            output.status.code(),
            Some(i32::from(left_out > 0)),
            "{name}: {summary}"
        );
        assert!(
            summary.contains(&format!("left out: {left_out}\n")),
            "{name}: {summary}\n{toml}"
        );
        let toml = without_pins(&toml);
        let expected = sources(program).join(name.replace(ending, ".toml"));
        if std::env::var_os("UPDATE_EXPECTED").is_some() {
            fs::write(&expected, &toml).unwrap();
        }
        let file = site.path().join("imported.toml");
        fs::write(&file, &output.stdout).unwrap();
        let check = run(site.path(), &["check", "--config", "imported.toml"]);
        assert!(
            check.status.success(),
            "{name}: {}\n{toml}",
            text(&check.stderr)
        );
        assert_eq!(fs::read_to_string(&expected).unwrap(), toml, "{name}");
    }
    names.len()
}

#[test]
fn haproxy_files() {
    assert_eq!(import_all("haproxy", ".cfg"), 26);
}

#[test]
fn nginx_files() {
    assert_eq!(import_all("nginx", ".conf"), 13);
}

#[test]
fn stunnel_files() {
    assert_eq!(import_all("stunnel", ".conf"), 6);
}

#[test]
fn ghostunnel_command_lines() {
    assert_eq!(import_all("ghostunnel", ".sh"), 6);
}

/// The dashboard replaces a page of statistics, and a section with only a stick table is not needed.
#[test]
fn statistics_and_tables_do_not_count_as_left_out() {
    let dir = TempDir::new().unwrap();
    let source = "defaults\n  mode http\nlisten stats\n  bind :7000\n  stats enable\n\
        backend sources\n  stick-table type ip size 1m store conn_cur\n\
        listen web\n  mode tcp\n  bind :8000\n  server web1 10.0.0.11:80\n";
    fs::write(dir.path().join("lb.cfg"), source).unwrap();
    let output = run(dir.path(), &["import", "haproxy", "lb.cfg"]);
    let summary = text(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{summary}");
    assert!(summary.contains("left out: 0"), "{summary}");
}

#[test]
fn summary_is_sorted_by_line() {
    let site = site("haproxy");
    let output = run(site.path(), &["import", "haproxy", "merged-backends.cfg"]);
    let summary = text(&output.stderr);
    let lines = summary.lines().skip(1).map(|line| {
        let number = line.strip_prefix("merged-backends.cfg:").unwrap();
        number.split(':').next().unwrap().parse::<usize>().unwrap()
    });
    let lines: Vec<_> = lines.collect();
    assert!(lines.len() >= 7, "{summary}");
    assert!(lines.is_sorted(), "{summary}");
}

#[test]
fn errors_name_wrong_programs_and_directories() {
    let site = site("haproxy");
    for (args, hint) in [
        (
            ["import", "stunnel", "leastconn.cfg"],
            "is this a stunnel configuration?",
        ),
        (["import", "haproxy", "."], "is a directory: name one file"),
    ] {
        let output = run(site.path(), &args);
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        let error = text(&output.stderr);
        assert!(error.contains(hint), "{args:?}: {error}");
    }
}

/// The source has only sections in mode http, so there is nothing to run.
#[test]
fn files_in_mode_http_are_out_of_scope() {
    let dir = TempDir::new().unwrap();
    let source = "defaults\n  mode http\nfrontend www\n  bind :80\n  default_backend www\n\
        backend www\n  server web1 10.0.0.11:80\n";
    fs::write(dir.path().join("www.cfg"), source).unwrap();
    let output = run(dir.path(), &["import", "haproxy", "www.cfg"]);
    assert_eq!(output.status.code(), Some(1));
    let (toml, summary) = (text(&output.stdout), text(&output.stderr));
    assert!(toml.contains("mode http is out of scope"), "{toml}");
    assert!(!toml.contains("[[listener]]"), "{toml}");
    assert!(summary.contains("no listener was translated"), "{summary}");
}

#[test]
fn unreadable_sources_are_wrong_usage() {
    let site = site("haproxy");
    for args in [
        &["import", "haproxy", "missing.cfg"][..],
        &["import", "haproxy", "networks.txt"],
        &["import", "haproxy"],
        &["import", "apache", "leastconn.cfg"],
    ] {
        let output = run(site.path(), args);
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        assert_eq!(text(&output.stdout), "");
        assert_ne!(text(&output.stderr), "");
    }
}
