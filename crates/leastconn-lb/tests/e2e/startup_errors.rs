//! Exit codes and error messages when the start fails.

use std::process::{Command, Output};

use leastconn_testkit::{Balancer, Upstream};

use crate::support::{BIN, Site};

fn run(args: &[&str]) -> Output {
    Command::new(BIN).args(args).output().unwrap()
}

fn assert_exit_2(args: &[&str], text: &str) {
    let output = run(args);
    assert_eq!(output.status.code(), Some(2), "{args:?}: {output:?}");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(stderr.contains(text), "{args:?}: {stderr}");
}

#[test]
fn usage_error_exits_2() {
    assert_exit_2(&["run", "--no-such-flag"], "--no-such-flag");
    assert_exit_2(&["rnu"], "rnu");
    assert_exit_2(&[], "Usage");
    assert_exit_2(
        &["run", "--config", "/nowhere/leastconn.toml"],
        "/nowhere/leastconn.toml",
    );
}

#[tokio::test]
async fn broken_configuration_exits_2_with_all_errors() {
    let web = Upstream::named("web1").await;
    let site = Site::usual(&[&web])
        .process("max_conections = 5")
        .listener("other", &["upstream = \"wbe\""]);
    let error = Balancer::start(BIN, &site.config(), &site.dir)
        .await
        .unwrap_err();
    assert_eq!(error.status.unwrap().code(), Some(2), "{error}");
    for text in [
        "max_conections",
        "max_connections",
        "wbe",
        "leastconn.toml:3:1",
    ] {
        assert!(error.stderr.contains(text), "{text} is missing in {error}");
    }
    // The summary is on a separate line.
    let last = error.stderr.lines().last().unwrap();
    assert!(last.starts_with("leastconn-lb: "), "{last:?}");
}

#[tokio::test]
async fn address_in_use_exits_1() {
    let web = Upstream::named("web1").await;
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = taken.local_addr().unwrap();
    let bind = format!("bind = \"{addr}\"");
    let site = Site::plain(&[&web]).listener("second", &["upstream = \"web\"", &bind]);
    let error = Balancer::start(BIN, &site.config(), &site.dir)
        .await
        .unwrap_err();
    assert_eq!(error.status.unwrap().code(), Some(1), "{error}");
    for text in ["`second`", &addr.to_string(), "in use"] {
        assert!(error.stderr.contains(text), "{text} is missing in {error}");
    }
}

#[tokio::test]
async fn access_log_in_missing_directory_exits_2() {
    let web = Upstream::named("web1").await;
    let site = Site::plain(&[&web]).log("access = \"no/such/directory.log\"");
    let error = Balancer::start(BIN, &site.config(), &site.dir)
        .await
        .unwrap_err();
    assert_eq!(error.status.unwrap().code(), Some(2), "{error}");
    assert!(error.stderr.contains("no/such/directory.log"), "{error}");
}
