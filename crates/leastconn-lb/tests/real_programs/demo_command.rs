use std::{fs, process::Stdio, time::Duration};

use leastconn_testkit::{TempDir, within};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, BufReader},
    time::sleep,
};

use crate::program::{LB, LIMIT, lb, run, tool};

#[tokio::test]
async fn demo_shows_refusals_and_cleans_up() {
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
    // Ninety connections are distributed evenly over three servers.
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
async fn demo_cleans_up_after_broken_pipe() {
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

/// Starts a demo with the longest possible duration, and stops it with `signals`.
async fn stop_with(signals: &[&str]) {
    let dir = TempDir::new().unwrap();
    let longest = u64::MAX.to_string();
    let mut demo = lb(["demo", "--seconds", &longest])
        .env("TMPDIR", dir.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let pid = demo.id().unwrap().to_string();
    let (out, mut err) = (demo.stdout.take().unwrap(), demo.stderr.take().unwrap());
    let session = async {
        let mut lines = BufReader::new(out).lines();
        let first = lines.next_line().await.unwrap();
        assert!(first.is_some(), "the demo ended without a signal");
        for signal in signals {
            // Give the demo time to handle each signal: only the last one may stop it.
            sleep(Duration::from_millis(100)).await;
            run(tool("kill").args(["-s", signal, &pid])).await.ok();
        }
        let mut rest = String::new();
        while let Some(line) = lines.next_line().await.unwrap() {
            rest.push_str(&line);
        }
        let mut stderr = String::new();
        err.read_to_string(&mut stderr).await.unwrap();
        (demo.wait().await.unwrap(), rest, stderr)
    };
    let (status, rest, stderr) = within(LIMIT, "end of the demo", session).await;
    assert_eq!((status.code(), &*stderr), (Some(0), ""), "{signals:?}");
    assert!(rest.contains("Closed connections"), "{rest}");
    assert!(fs::read_dir(dir.path()).unwrap().next().is_none());
}

#[tokio::test]
async fn demo_cleans_up_after_signals() {
    stop_with(&["HUP"]).await;
    stop_with(&["USR1", "USR2", "TERM"]).await;
}
