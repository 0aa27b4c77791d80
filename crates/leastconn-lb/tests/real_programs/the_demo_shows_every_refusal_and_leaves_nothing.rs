use std::fs;

use leastconn_testkit::TempDir;

use crate::program::{LB, lb, run, tool};

#[tokio::test]
async fn the_demo_shows_every_refusal_and_leaves_nothing() {
    let dir = TempDir::new().unwrap();
    let start = leastconn::net::now();
    let mut demo = lb(["demo", "--seconds", "6"]);
    let shown = run(demo.env("TMPDIR", dir.path()).current_dir(dir.path()))
        .await
        .ok();
    assert!(
        start.elapsed().as_secs_f32() < 30.0,
        "{:?}",
        start.elapsed()
    );
    for word in [
        "dashboard   http://127.0.0.1:",
        "rate_limited",
        "unknown_client",
        "not_allowed",
        "untrusted_certificate",
        "web1",
        "web2",
        "web3",
        "DOWN",
        "30 of 30 served",
    ] {
        assert!(shown.stdout.contains(word), "{word} in:\n{}", shown.stdout);
    }
    // Ninety connections over three servers.
    assert!(
        shown.stdout.matches(" 30 open").count() >= 3,
        "{}",
        shown.stdout
    );
    assert_eq!(shown.stderr, "");
    let left: Vec<_> = fs::read_dir(dir.path()).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
}

#[tokio::test]
async fn a_reader_that_leaves_ends_the_demo_without_a_trace() {
    let dir = TempDir::new().unwrap();
    let mut shell = tool("bash");
    shell
        .args([
            "-c",
            "\"$1\" demo | head -n 3; exit ${PIPESTATUS[0]}",
            "-",
            LB,
        ])
        .env("TMPDIR", dir.path());
    let shown = run(&mut shell).await.ok();
    assert_eq!(shown.stdout.lines().count(), 3, "{shown:?}");
    assert_eq!(shown.stderr, "");
    assert!(fs::read_dir(dir.path()).unwrap().next().is_none());
}
