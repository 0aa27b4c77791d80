use std::fs;

use leastconn_testkit::TempDir;

use crate::program::{lb, run};

#[tokio::test]
async fn the_demo_shows_every_refusal_and_leaves_nothing() {
    let dir = TempDir::new().unwrap();
    let start = leastconn::net::now();
    let mut demo = lb(["demo", "--seconds", "6"]);
    let shown = run(demo.env("TMPDIR", dir.path()).current_dir(dir.path()))
        .await
        .ok();
    assert!(
        start.elapsed().as_secs_f32() < 15.0,
        "{:?}",
        start.elapsed()
    );
    for word in [
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
