//! Exit codes and messages when there is nothing to run.

use std::process::{Command, Output};

use leastconn_testkit::{Balancer, Upstream};

use crate::support::{BIN, Site};

fn run(args: &[&str]) -> Output {
    Command::new(BIN).args(args).output().unwrap()
}

fn is_wrong(args: &[&str], said: &str) {
    let output = run(args);
    assert_eq!(output.status.code(), Some(2), "{args:?}: {output:?}");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(stderr.contains(said), "{args:?}: {stderr}");
}

#[test]
fn usage_error_exits_2() {
    is_wrong(&["run", "--no-such-flag"], "--no-such-flag");
    is_wrong(&["rnu"], "rnu");
    is_wrong(&[], "Usage");
    is_wrong(
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
    for said in [
        "max_conections",
        "max_connections",
        "wbe",
        "leastconn.toml:3:1",
    ] {
        assert!(error.stderr.contains(said), "no {said} in {error}");
    }
    // The closing word stands on a line of its own.
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
    for said in ["`second`", &addr.to_string(), "in use"] {
        assert!(error.stderr.contains(said), "no {said} in {error}");
    }
}

#[tokio::test]
async fn unusable_access_log_exits_1() {
    let web = Upstream::named("web1").await;
    let site = Site::plain(&[&web]).log("access = \"no/such/directory.log\"");
    let error = Balancer::start(BIN, &site.config(), &site.dir)
        .await
        .unwrap_err();
    let code = error.status.unwrap().code();
    // Found when reading or when opening.
    assert!(matches!(code, Some(1 | 2)), "{error}");
    assert!(error.stderr.contains("no/such/directory.log"), "{error}");
}
