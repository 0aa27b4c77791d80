//! If PID 1 of a container exits, all other processes of the container end. Therefore PID 1
//! keeps running after an upgrade, and forwards signals to the newest process. It exits when
//! the newest process exits, with the same exit code.

use std::process::{Command, Stdio};

use leastconn_testkit::client::{read_line, read_to_close, roundtrip};
use leastconn_testkit::{DEADLINE, Signal, Upstream, eventually};
use tokio::io::AsyncWriteExt;

use crate::support::upgrading::{message, own_process_group, signal, write_script};
use crate::support::{BIN, CLIENT1, Running, Site, talk};

/// Starts the balancer as PID 1 of a namespace, and returns its PID outside of the
/// namespace. Returns `None` if namespaces are not permitted.
async fn start(site: Site) -> Option<(Running, u32)> {
    let unshare = "unshare --pid --fork --kill-child";
    let mut try_it = Command::new("sh");
    try_it
        .args(["-c", &format!("{unshare} true")])
        .stderr(Stdio::null());
    if !try_it.status().is_ok_and(|status| status.success()) {
        eprintln!("skipped: `{unshare}` is not possible here");
        return None;
    }
    let bin = site.dir.path().join("contained");
    write_script(&bin, &format!("exec {unshare} {BIN} \"$@\""));
    let lb = site.start_as(&bin, own_process_group).await;
    let first = children(lb.pid())[0];
    Some((lb, first))
}

/// Returns the PIDs of a process's children, whichever thread started them.
fn children(pid: u32) -> Vec<u32> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task"));
    let files = tasks.into_iter().flatten().flatten();
    let texts = files.filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok());
    let numbers = |text: String| -> Vec<u32> {
        let numbers = text.split_whitespace();
        numbers.map(|number| number.parse().unwrap()).collect()
    };
    texts.flat_map(numbers).collect()
}

/// Waits until the first process has this many children.
async fn wait_children(first: u32, count: usize) -> Vec<u32> {
    eventually(DEADLINE, || async {
        match children(first) {
            all if all.len() == count => Ok(all),
            all => Err(format!("{all:?}")),
        }
    })
    .await
    .unwrap()
}

/// Sends the upgrade signal to the first process, and waits until `n` processes in total
/// have taken over.
async fn upgrade(lb: &Running, first: u32, n: usize) {
    signal(first, Signal::USR2);
    eventually(DEADLINE, || async {
        let log = lb.stderr();
        match log.matches("took over from predecessor").count() {
            count if count == n => Ok(()),
            count => Err(format!("{count} processes have taken over")),
        }
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn first_process_waits_for_the_newest() {
    let web = Upstream::named("web1").await;
    let Some((lb, first)) = start(Site::usual(&[&web])).await else {
        return;
    };
    let client = lb.client(CLIENT1);
    upgrade(&lb, first, 1).await;
    let second = wait_children(first, 1).await[0];
    upgrade(&lb, first, 2).await;
    // The second process has exited, and its successor was reparented to PID 1.
    let third = eventually(DEADLINE, || async {
        match children(first)[..] {
            [pid] if pid != second => Ok(pid),
            ref all => Err(format!("{all:?}")),
        }
    })
    .await
    .unwrap();
    lb.wait_log(
        |event| message(event).starts_with("forwarding signals to a new process"),
        DEADLINE,
    )
    .await;
    talk(client.connect(lb.main()).await.unwrap())
        .await
        .unwrap();
    // The newest process answers, because the first process has closed its listening sockets.
    assert_eq!(lb.http_get("/readyz").await.0, 200);

    let mut open = client.connect(lb.main()).await.unwrap();
    read_line(&mut open).await.unwrap();
    signal(first, Signal::HUP);
    lb.wait_metric(
        "leastconn_config_reloads_total{outcome=\"applied\"}",
        1.0,
        DEADLINE,
    )
    .await;
    signal(first, Signal::TERM);
    lb.wait_log(|event| message(event).starts_with("draining"), DEADLINE)
        .await;
    assert_eq!(roundtrip(&mut open, b"x").await.unwrap(), b"x");
    open.shutdown().await.unwrap();
    assert!(read_to_close(&mut open).await.unwrap().is_empty());
    assert_eq!(lb.wait_exit(DEADLINE).await.code(), Some(0));
    assert!(!std::fs::exists(format!("/proc/{third}")).unwrap());
}

#[tokio::test]
async fn first_process_exits_when_the_newest_crashes() {
    let web = Upstream::named("web1").await;
    let Some((lb, first)) = start(Site::usual(&[&web])).await else {
        return;
    };
    let mut open = lb.client(CLIENT1).connect(lb.main()).await.unwrap();
    read_line(&mut open).await.unwrap();
    upgrade(&lb, first, 1).await;
    // The connection of the first process stays open.
    assert_eq!(roundtrip(&mut open, b"x").await.unwrap(), b"x");
    let newest = wait_children(first, 1).await[0];
    signal(newest, Signal::KILL);
    assert_eq!(lb.wait_exit(DEADLINE).await.code(), Some(128 + 9));
    assert!(read_to_close(&mut open).await.is_err());
}
