//! `[fleet]`

use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt,
    time::Duration,
};

use super::{PLAIN, lines, pki::Pki, reading};
use crate::{Config, Fleet, FleetStore, Problems, Reading, SharedCounts, SharedLimits};

const SECRET: &str = "0123456789abcdef0123456789abcdef";

/// A directory with the files that `[fleet]` names.
fn files() -> Pki {
    let pki = Pki::new();
    for (name, text) in [
        ("fleet.secret", SECRET),
        ("password", "correct horse\n"),
        ("sentinel.password", "battery"),
    ] {
        let path = pki.dir.path().join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
    }
    pki
}

/// [`PLAIN`] with this `[fleet]`.
fn with(fleet: &str) -> String {
    format!("{PLAIN}\n[fleet]\n{fleet}\n")
}

/// A `[fleet]` with this store and these further keys.
fn fleet_with(store: &str, keys: &str) -> String {
    let (member, secret) = ("member = \"lb1\"", "secret = \"fleet.secret\"");
    with(&format!(
        "name = \"edge\"\n{member}\n{secret}\nstore = {store}\n{keys}"
    ))
}

fn read_in(pki: &Pki, text: &str) -> Reading {
    reading(text, pki.dir.path())
}

fn config(pki: &Pki, text: &str) -> Config {
    let reading = read_in(pki, text);
    assert!(reading.problems.is_empty(), "{}", reading.problems);
    reading.config.unwrap()
}

fn fleet(pki: &Pki, store: &str, keys: &str) -> Fleet {
    config(pki, &fleet_with(store, keys)).fleet.unwrap()
}

fn one_line_each(problems: &Problems) -> String {
    problems.lines().collect::<Vec<_>>().join("\n")
}

#[test]
fn fleet_is_off_by_default() {
    assert!(super::config(PLAIN).fleet.is_none());
}

#[test]
fn fleet_has_defaults() {
    let pki = files();
    let fleet = fleet(&pki, "\"redis://127.0.0.1\"", "");
    assert_eq!(&*fleet.name, "edge");
    assert_eq!(&*fleet.member, "lb1");
    assert_eq!(fleet.store.to_string(), "127.0.0.1:6379");
    assert_eq!(fleet.secret.as_bytes(), SECRET.as_bytes());
    assert_eq!((fleet.user, fleet.password, fleet.tls), (None, None, None));
    assert_eq!(fleet.limits, SharedLimits::Fast);
    assert_eq!(fleet.counts, SharedCounts::On);
    assert_eq!(fleet.size.get(), 2);
    assert_eq!(fleet.gone_after, Duration::from_secs(3));
    assert_eq!(fleet.ask_timeout, Duration::from_millis(20));
}

#[test]
fn every_key_of_fleet_is_read() {
    let pki = files();
    let keys = "user = \"leastconn\"\npassword = \"password\"\nlimits = \"exact\"\ncounts = \"off\"\nsize = 3\ngone_after = \"5s\"\nask_timeout = \"100ms\"";
    let fleet = fleet(&pki, "\"unix:///run/valkey.sock\"", keys);
    assert_eq!(fleet.store.to_string(), "unix:/run/valkey.sock");
    assert_eq!(fleet.user.as_deref(), Some("leastconn"));
    assert_eq!(fleet.password.unwrap().as_bytes(), b"correct horse");
    assert_eq!(fleet.limits, SharedLimits::Exact);
    assert_eq!(fleet.counts, SharedCounts::Off);
    assert_eq!(fleet.size.get(), 3);
    assert_eq!(fleet.gone_after, Duration::from_secs(5));
    assert_eq!(fleet.ask_timeout, Duration::from_millis(100));
    assert!(!format!("{:?}", fleet.secret).contains(SECRET));
}

#[test]
fn member_is_the_host_name_by_default() {
    let pki = files();
    let host = rustix::system::uname();
    let host = host.nodename().to_str().unwrap().to_owned();
    let without_member = "name = \"edge\"\nstore = \"unix:///s\"\nsecret = \"fleet.secret\"";
    for member in ["", "member = \"\"", "member = \"${HOSTNAME:-}\""] {
        let text = with(&format!("{without_member}\n{member}"));
        let config = config(&pki, &text);
        assert_eq!(&*config.fleet.unwrap().member, host, "{member}");
    }
}

#[test]
fn store_urls_are_parsed() {
    let pki = files();
    for (url, shown) in [
        ("redis://127.0.0.1:7000", "127.0.0.1:7000"),
        ("redis://localhost/0", "localhost:6379"),
        ("valkey://[::1]", "[::1]:6379"),
        ("unix:///a/b.sock", "unix:/a/b.sock"),
    ] {
        let fleet = fleet(&pki, &format!("{url:?}"), "");
        assert_eq!(fleet.store.to_string(), shown);
    }
}

#[test]
fn sentinels_and_clusters_are_read() {
    let pki = files();
    let tls = "ca = \"ca.crt\"\nserver_name = \"valkey\"";
    let sentinel = fleet(
        &pki,
        "{ sentinels = [\"127.0.0.1:26379\", \"[::1]:26379\"], primary = \"mymaster\", sentinel_user = \"s\", sentinel_password = \"sentinel.password\" }",
        tls,
    );
    assert_eq!(
        sentinel.store.to_string(),
        "mymaster of sentinels 127.0.0.1:26379, [::1]:26379"
    );
    let FleetStore::Sentinel { user, password, .. } = sentinel.store else {
        panic!("not sentinels");
    };
    assert_eq!(user.as_deref(), Some("s"));
    assert_eq!(password.unwrap().as_bytes(), b"battery");
    let cluster = fleet(
        &pki,
        "{ cluster = [\"127.0.0.1:1\", \"127.0.0.1:2\"] }",
        tls,
    );
    assert_eq!(
        cluster.store.to_string(),
        "cluster 127.0.0.1:1, 127.0.0.1:2"
    );
}

#[test]
fn ca_enables_tls() {
    let pki = files();
    for store in [
        "\"rediss://valkey.internal\"",
        "{ cluster = [\"n1:6379\"] }",
        "{ sentinels = [\"s1:26379\"], primary = \"mymaster\" }",
    ] {
        let text = fleet_with(store, "ca = \"ca.crt\"\nserver_name = \"valkey\"");
        let config = config(&pki, &text);
        let named: Vec<_> = config.files().collect();
        for file in ["ca.crt", "fleet.secret"] {
            assert!(named.contains(&pki.dir.path().join(file)), "{named:?}");
        }
        let settings = config.fleet.unwrap().tls.unwrap().settings;
        assert_eq!(settings.material.ca.len(), 1, "{store}");
    }
}

#[test]
fn unencrypted_connection_over_a_network_is_a_warning() {
    let pki = files();
    for store in [
        "\"redis://10.0.0.9\"",
        "\"redis://valkey:6379\"",
        "{ cluster = [\"127.0.0.1:6379\", \"n2:6379\"] }",
        // The nodes and the primary may be on other hosts.
        "{ cluster = [\"localhost:6379\"] }",
        "{ sentinels = [\"[::1]:26379\"], primary = \"mymaster\" }",
    ] {
        let reading = read_in(&pki, &fleet_with(store, ""));
        let problems = one_line_each(&reading.problems);
        assert!(problems.contains(" not encrypted"), "{problems}");
        assert!(reading.config.is_some(), "{problems}");
    }
}

#[test]
fn secret_readable_by_others_is_a_warning() {
    let pki = files();
    let files = ["fleet.secret", "password", "sentinel.password"];
    for file in files {
        let path = pki.dir.path().join(file);
        fs::set_permissions(path, Permissions::from_mode(0o644)).unwrap();
    }
    let store =
        "{ sentinels = [\"s1:1\"], primary = \"m\", sentinel_password = \"sentinel.password\" }";
    let reading = read_in(&pki, &fleet_with(store, "password = \"password\""));
    let problems = one_line_each(&reading.problems);
    for file in files {
        let expected = format!("/{file} can be read by every user");
        assert!(problems.contains(&expected), "{problems}");
    }
    assert!(reading.config.is_some(), "{problems}");
}

/// Checks that a `[fleet]` with this store and these keys has one error.
#[track_caller]
fn check_error(pki: &Pki, text: &str, expected: &str) {
    let reading = read_in(pki, text);
    let problems = one_line_each(&reading.problems);
    assert_eq!(reading.problems.errors(), 1, "{text}\n{problems}");
    assert!(problems.contains(expected), "{text}\n{problems}");
}

#[test]
fn invalid_stores_are_errors() {
    let pki = files();
    for (store, expected) in [
        (
            "\"valkey:6379\"",
            "\"valkey:6379\" is not a URL; write \"rediss://HOST:PORT\"",
        ),
        ("\"http://valkey\"", "unknown scheme `http`"),
        ("\"redi://valkey\"", "did you mean `redis://`?"),
        ("\"rediss://valkey\"", "`rediss://` needs `ca`"),
        (
            "\"redis://u:p@valkey\"",
            "use the keys `user` and `password`",
        ),
        ("\"redis://valkey/3\"", "only database 0 is used"),
        ("\"redis://valkey?timeout=3\"", "parameters in the URL"),
        ("\"redis://\"", "not a host name"),
        ("\"redis://valkey:0\"", "the port must be"),
        ("\"unix://run/s\"", "write \"unix:///run/s\""),
        (
            "5",
            "`store`: expected a URL like \"rediss://valkey.internal:6379\" or a table",
        ),
        ("{}", "`store` needs `sentinels` or `cluster`"),
        ("{ cluster = [] }", "`cluster` is an empty list"),
        (
            "{ cluster = [\"n1\"] }",
            "`cluster`: \"n1\": the port is missing",
        ),
        (
            "{ cluster = [\"unix:/s\"] }",
            "a UNIX socket cannot be in a list",
        ),
        (
            "{ primary = \"m\" }",
            "`primary` has no effect without `sentinels`",
        ),
        (
            "{ sentinels = [\"127.0.0.1:1\"] }",
            "`sentinels` without `primary`",
        ),
        (
            "{ sentinels = [\"127.0.0.1:1\"], cluster = [\"127.0.0.1:1\"] }",
            "both `sentinels` and `cluster`",
        ),
        (
            "{ sentinels = [\"127.0.0.1:1\"], primary = \"m\", sentinel_user = \"u\" }",
            "`sentinel_user` needs `sentinel_password`",
        ),
        ("{ sentinel = [\"s:1\"] }", "did you mean `sentinels`?"),
    ] {
        check_error(&pki, &fleet_with(store, ""), expected);
    }
    let other_ca = fleet_with("\"redis://localhost\"", "ca = \"ca.crt\"");
    check_error(&pki, &other_ca, "for TLS, write `rediss://` in `store`");
    let socket = fleet_with("\"unix:///s\"", "ca = \"ca.crt\"");
    check_error(&pki, &socket, "UNIX sockets need no TLS");
    let odd_host = fleet_with("\"rediss://a_b.internal\"", "ca = \"ca.crt\"");
    let reading = read_in(&pki, &odd_host);
    assert!(reading.problems.errors() <= 1, "{}", reading.problems);
}

#[test]
fn invalid_keys_of_fleet_are_errors() {
    let pki = files();
    for (name, text) in [("empty", " \n"), ("short", "0123"), ("lines", "a\nb")] {
        fs::write(pki.dir.path().join(name), text).unwrap();
    }
    let store = "\"unix:///s\"";
    for (from, to, expected) in [
        (
            "\"edge\"",
            "\"{edge}\"",
            "the name of the fleet contains '{'",
        ),
        ("\"edge\"", "\"\"", "the name of the fleet is empty"),
        ("\"lb1\"", "\"lb 1\"", "the name of the member contains ' '"),
        ("\"fleet.secret\"", "\"missing\"", "No such file"),
        ("\"fleet.secret\"", "\"empty\"", "the file is empty"),
        (
            "\"fleet.secret\"",
            "\"short\"",
            "shorter than 16 characters",
        ),
    ] {
        let text = fleet_with(store, "");
        assert!(text.contains(from), "{from}");
        check_error(&pki, &text.replace(from, to), expected);
    }
    for (keys, expected) in [
        ("size = 0", "`size` must be from 1 to 1000, not 0"),
        ("limits = \"fats\"", "did you mean \"fast\"?"),
        ("counts = true", "expected \"on\" or \"off\""),
        ("user = \"u\"", "`user` needs `password`"),
        (
            "user = \"\"\npassword = \"password\"",
            "`user` is not the name of a user",
        ),
        ("password = \"empty\"", "the file is empty"),
        ("password = \"lines\"", "it must contain one line of text"),
        (
            "gone_after = \"500ms\"",
            "`gone_after` must be from \"1s\" to \"10m\"",
        ),
        (
            "gone_after = \"1h\"",
            "`gone_after` must be from \"1s\" to \"10m\"",
        ),
        ("ask_timeout = \"0s\"", "`ask_timeout` cannot be zero"),
        (
            "ask_timeout = \"1s\"",
            "`ask_timeout` must be at most \"250ms\"",
        ),
        ("ca = \"ca.crt\"", "`ca` has no effect without TLS"),
        ("passwort = \"x\"", "did you mean `password`?"),
    ] {
        check_error(&pki, &fleet_with(store, keys), expected);
    }
    for key in ["name", "store", "secret"] {
        let text = fleet_with(store, "");
        let text: Vec<_> = text.lines().collect();
        let start = text.iter().position(|line| *line == "[fleet]").unwrap();
        let line = text[start..].iter().position(|line| line.starts_with(key));
        let mut text = text.clone();
        text.remove(start + line.unwrap());
        let expected = format!("`[fleet]` needs `{key}`");
        check_error(&pki, &text.join("\n"), &expected);
    }
}

#[test]
fn ask_timeout_is_shorter_than_the_handshake_timeout() {
    let pki = files();
    let text = fleet_with("\"unix:///s\"", "");
    let text = text.replace("bind =", "handshake_timeout = \"20ms\"\nbind =");
    let expected =
        "`ask_timeout` (20ms) is not shorter than `handshake_timeout` of listener `main` (20ms)";
    check_error(&pki, &text, expected);
}

#[test]
fn missing_files_of_fleet_are_reported_with_their_position() {
    let text = fleet_with("\"unix:///s\"", "password = \"password\"");
    let lines = lines(&text);
    assert!(lines.len() == 2, "{lines:#?}");
    let secret = "no secret in /nowhere/fleet.secret: No such file or directory";
    assert!(lines[0].contains(secret), "{lines:#?}");
    assert!(lines[0].contains("create one, and copy it to all members"));
    assert!(lines[1].contains("no password in /nowhere/password"));
}
