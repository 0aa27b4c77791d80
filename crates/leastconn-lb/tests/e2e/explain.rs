//! `explain` predicts the outcome of a connection with a given certificate.

use std::{path::Path, process::Command};

use leastconn_testkit::{Cert, TestCa, Upstream};
use serde_json::Value;

use crate::support::{BIN, CLIENT1, NO_PROBES, Running, Site, TLS, cn, entries, refused, talk};

struct Explained {
    code: Option<i32>,
    out: String,
    err: String,
}

fn explain(lb: &Running, more: &[&str]) -> Explained {
    explain_in(lb.dir(), more)
}

/// Runs `explain` with `leastconn.toml` in `dir`.
fn explain_in(dir: &Path, more: &[&str]) -> Explained {
    let output = Command::new(BIN)
        .arg("explain")
        .args(more)
        .current_dir(dir)
        .output()
        .unwrap();
    Explained {
        code: output.status.code(),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

/// Starts a balancer with one server and one client, `CLIENT1`, and writes the certificate of this
/// client to `client.crt`.
async fn usual() -> (Upstream, Running) {
    let web = Upstream::named("web1").await;
    let lb = Site::usual(&[&web]).start().await;
    lb.ca().leaf(CLIENT1).build().write(lb.dir(), "client");
    (web, lb)
}

/// A plain listener for clients at 127.0.0.1. No balancer runs.
fn plain(servers: &str, allow: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let config = format!(
        "[[listener]]\nname = \"main\"\nbind = \"127.0.0.1:9443\"\nupstream = \"web\"\n\
         [[upstream]]\nname = \"web\"\nservers = [{servers}]\n\
         [[client]]\nname = \"local\"\nmatch = {{ source = \"127.0.0.1\" }}\nallow = [\"{allow}\"]\n"
    );
    std::fs::write(dir.path().join("leastconn.toml"), config).unwrap();
    dir
}

/// Returns the part of the JSON answer for `listener`. Asserts that it agrees with the exit
/// code.
fn verdict(lb: &Running, listener: &str, more: &[&str]) -> Value {
    let args = [&["--json", "--listener", listener], more].concat();
    let explained = explain(lb, &args);
    let answer: Value = serde_json::from_str(&explained.out)
        .unwrap_or_else(|error| panic!("{error}: {} {}", explained.out, explained.err));
    let admitted = answer["admitted"].as_bool().unwrap();
    assert_eq!(explained.code, Some(i32::from(!admitted)), "{answer}");
    let answer = answer["listeners"][0].clone();
    assert_eq!(answer["outcome"] == "ok", admitted, "{answer}");
    answer
}

/// Compares the answer of `explain` with the outcome of a connection.
async fn assert_predicted(lb: &Running, cert: &Cert, outcome: &str) {
    cert.write(lb.dir(), "asked");
    let answer = verdict(lb, "main", &["--cert", "asked.crt"]);
    assert_eq!(answer["outcome"], outcome, "{answer}");
    let before = lb.records().len();
    if outcome == "ok" {
        let stream = lb.client_with(cert).connect(lb.main()).await.unwrap();
        talk(stream).await.unwrap();
    } else {
        let _ = refused(&lb.client_with(cert), lb.main()).await;
    }
    let record = lb.expect_record(before, outcome).await;
    for key in ["detail", "client"] {
        assert_eq!(answer.get(key), record.get(key), "{answer} {record}");
    }
    if outcome == "ok" {
        assert_eq!(answer["identity"], record["identity"]);
        assert_eq!(answer["upstream"], record["upstream"]);
        let servers = answer["servers"].as_array().unwrap();
        assert!(servers.contains(&record["server"]), "{answer} {record}");
    }
}

#[tokio::test]
async fn explain_predicts_each_handshake() {
    let (web, db) = (Upstream::named("web1").await, Upstream::named("db1").await);
    let site = Site::new()
        .listener("main", &["upstream = \"web\"", TLS])
        .upstream("web", &[NO_PROBES], &entries(&[&web]))
        .upstream("db", &[NO_PROBES], &entries(&[&db]))
        .client(
            "old",
            &cn("old.lb.com"),
            "web",
            "expires = 2020-01-01T00:00:00Z",
        )
        .client("tried", &cn(CLIENT1), "db", "mode = \"shadow\"")
        .client("client1", &cn(CLIENT1), "web", "max_conns = 9")
        .client("db", "uri = \"spiffe://td/**\"", "db", "");
    let revoked = site.cert(CLIENT1);
    site.ca.write_crl(&site.dir, &[&revoked]);
    let lb = site.start().await;
    let ca = lb.ca();
    let stranger = TestCa::new("other").leaf(CLIENT1).build();
    let poser = TestCa::from_leaf(&ca.leaf(CLIENT1).build())
        .leaf(CLIENT1)
        .build();
    for (cert, outcome) in [
        (ca.leaf(CLIENT1).build(), "ok"),
        (ca.leaf(CLIENT1).no_eku().build(), "ok"),
        (ca.leaf(CLIENT1).rsa().build(), "ok"),
        (revoked, "revoked_certificate"),
        (stranger, "untrusted_certificate"),
        (poser, "untrusted_certificate"),
        (
            ca.leaf(CLIENT1).eku_server_only().build(),
            "untrusted_certificate",
        ),
        (
            ca.leaf(CLIENT1).validity(-60, -10).build(),
            "expired_certificate",
        ),
        (ca.leaf(CLIENT1).extra_cn("b").build(), "ambiguous_identity"),
        (ca.leaf("nobody").build(), "unknown_client"),
        (ca.leaf("old.lb.com").build(), "unknown_client"),
        (ca.leaf("x").uri("spiffe://td/web").build(), "not_allowed"),
    ] {
        assert_predicted(&lb, &cert, outcome).await;
    }
    assert_eq!(db.accepted(), 0);
    lb.quiet().await;
}

#[tokio::test]
async fn text_output_covers_every_listener() {
    let web = Upstream::named("web1").await;
    let lb = Site::usual(&[&web])
        .listener(
            "plain",
            &[
                "upstream = \"web\"",
                "source_rate_limit = { rate = 5, burst = 9 }",
            ],
        )
        .client(
            "office",
            "source = \"10.0.0.0/8\"",
            "web",
            "rate_limit = { rate = 5 }",
        )
        .start()
        .await;
    lb.ca()
        .leaf(CLIENT1)
        .ou("staff")
        .build()
        .write(lb.dir(), "good");
    lb.ca()
        .leaf("client2.lb.com")
        .build()
        .write(lb.dir(), "other");
    let good = explain(&lb, &["--cert", "good.crt"]);
    assert_eq!(good.code, Some(0), "{}", good.err);
    for text in [
        "identities   cn:client1.lb.com\n",
        "attributes   ou:staff\n",
        "listener main\n  trust        trusted, within its validity period, not revoked\n",
        "1. client1: matches as cn:client1.lb.com\n",
        "(later rules, not evaluated: 1)\n",
        "servers      web1\n",
        "verdict      ok: the connection is accepted\n",
        "listener plain\n",
        "verdict      unknown_client: no client rule matches\n",
    ] {
        assert!(good.out.contains(text), "{text:?} in {}", good.out);
    }
    let by_address = lb.ca().leaf(CLIENT1).dns("10.0.0.7").build();
    by_address.write(lb.dir(), "by_address");
    let by_address = explain(&lb, &["--cert", "by_address.crt"]);
    let hint = "hint         `10.0.0.7` is an IP address given as a DNS name";
    assert!(by_address.out.contains(hint), "{}", by_address.out);
    let other = explain(&lb, &["--cert", "other.crt", "--listener", "main"]);
    assert_eq!(other.code, Some(1));
    let requires = "requires cn `client1.lb.com`; the certificate has `client2.lb.com`";
    assert!(other.out.contains(requires), "{}", other.out);
    assert!(!other.out.contains("listener plain"));
    let office = verdict(&lb, "plain", &["--source", "10.1.2.3"]);
    assert_eq!(office["identity"], "source:10.1.2.3");
    assert_eq!(office["rate_limit"]["burst"], 5);
    let source_limit = &office["source_rate_limit"];
    assert_eq!(source_limit["source"], "10.1.2.3");
    assert_eq!(source_limit["burst"], 9);
    let office = explain(&lb, &["--listener", "plain", "--source", "10.1.2.3"]);
    let limits = "source limit 5 new connections per second, burst 9 from 10.1.2.3";
    assert!(office.out.contains(limits), "{}", office.out);
    let anonymous = verdict(&lb, "main", &["--source", "10.1.2.3"]);
    assert_eq!(anonymous["outcome"], "no_certificate");
    lb.quiet().await;
}

#[tokio::test]
async fn ambiguous_certificate_is_named_by_serial_number() {
    let (_web, lb) = usual().await;
    let cert = lb.ca().leaf(CLIENT1).extra_cn("b").build();
    cert.write(lb.dir(), "two");
    let answer = explain(&lb, &["--cert", "two.crt"]);
    let serial = format!("serial       {}\n", cert.serial_hex.to_uppercase());
    assert!(answer.out.contains(&serial), "{}", answer.out);
    lb.quiet().await;
}

#[tokio::test]
async fn usage_errors_are_not_refusals() {
    let (_web, lb) = usual().await;
    for (args, word) in [
        (&["--cert", "nowhere.crt"][..], "nowhere.crt"),
        (&["--cert", "client.key"], "private key"),
        (
            &["--cert", "client.crt", "--listener", "mian"],
            "there is no listener `mian`; did you mean `main`?",
        ),
        (&["--cert", "client.crt", "--source", "here"], "--source"),
        (&[], "--cert"),
    ] {
        let explained = explain(&lb, args);
        assert_eq!(explained.code, Some(2), "{args:?}");
        assert!(explained.err.contains(word), "{args:?}: {}", explained.err);
        assert_eq!(explained.out, "");
    }
    lb.quiet().await;
}

/// If no rule matches, `explain` shows only the rules that almost match.
#[tokio::test]
async fn many_rules_are_summarized() {
    let web = Upstream::named("web1").await;
    let mut site = Site::new()
        .listener("main", &["upstream = \"web\"", TLS])
        .upstream("web", &[NO_PROBES], &entries(&[&web]));
    for number in 0..3000 {
        let name = format!("client-{number}");
        site = site.client(&name, &cn(&format!("{name}.lb.com")), "web", "");
    }
    let near = format!("{}, source = \"10.0.0.0/8\"", cn("nobody.lb.com"));
    let lb = site.client("near", &near, "web", "").start().await;
    lb.ca()
        .leaf("nobody.lb.com")
        .build()
        .write(lb.dir(), "near");
    let answer = verdict(&lb, "main", &["--cert", "near.crt"]);
    assert_eq!(answer["outcome"], "unknown_client");
    assert_eq!(answer["rules"]["left_out"], 3000);
    let shown = answer["rules"]["shown"].as_array().unwrap();
    assert_eq!(shown.len(), 1, "{answer}");
    assert_eq!(shown[0]["number"], 3001);
    assert_eq!(
        shown[0]["why"],
        "requires source `10.0.0.0/8`; the source is 127.0.0.1"
    );
    // A certificate with a typo in its name.
    lb.ca()
        .leaf("client-1234.lb.co")
        .build()
        .write(lb.dir(), "slip");
    let answer = verdict(&lb, "main", &["--cert", "slip.crt"]);
    assert_eq!(
        answer["rules"]["shown"][0]["client"], "client-1234",
        "{answer}"
    );
    lb.quiet().await;
}

/// The servers come from a file, so `check` cannot know whether a rule names one of them.
#[test]
fn missing_servers_are_explained() {
    let dir = plain("{ file = \"web.json\" }", "web/b");
    for (found, why) in [
        (
            r#"{ "servers": [] }"#,
            "servers      none: upstream `web` has no servers: none were discovered\n",
        ),
        (
            r#"{ "servers": [{ "name": "a", "address": "127.0.0.1:9" }] }"#,
            "servers      none: `allow` of client `local` names none of the servers that upstream `web` \
             has at present: a\n",
        ),
    ] {
        std::fs::write(dir.path().join("web.json"), found).unwrap();
        let Explained { code, out, err } = explain_in(dir.path(), &["--source", "127.0.0.1"]);
        assert_eq!(code, Some(1), "{out} {err}");
        assert!(out.contains(why), "{out} {err}");
        let verdict =
            "verdict      no_server_available: none of the allowed servers is available\n";
        assert!(out.contains(verdict), "{out}");
    }
}

#[test]
fn backup_servers_are_marked() {
    let servers = "\"127.0.0.1:1\", { name = \"spare\", address = \"127.0.0.1:2\", backup = true }";
    let dir = plain(servers, "web");
    let Explained { code, out, .. } = explain_in(dir.path(), &["--source", "127.0.0.1"]);
    assert_eq!(code, Some(0), "{out}");
    assert!(
        out.contains("servers      127.0.0.1:1, spare (backup)\n"),
        "{out}"
    );
    assert!(out.contains("balancer     not reached: "), "{out}");
}
