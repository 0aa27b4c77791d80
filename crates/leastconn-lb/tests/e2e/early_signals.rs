//! Signals are handled from the start of the process. None of them has its default action.

use std::{path::Path, process::Stdio};

use leastconn_testkit::{DEADLINE, eventually, within};
use tokio::{
    io::{AsyncBufReadExt, BufReader, Lines},
    process::{Child, ChildStderr, Command},
};

use crate::support::upgrading::signal;
use crate::support::{BIN, many_clients};
use leastconn_testkit::Signal;

const CONFIG: &str = "
[[listener]]
name = \"main\"
bind = \"127.0.0.1:0\"
upstream = \"web\"
[[upstream]]
name = \"web\"
servers = [\"127.0.0.1:9\"]
health_check = { type = \"none\" }
[[client]]
name = \"all\"
match = { source = \"127.0.0.0/8\" }
allow = [\"web\"]
";

/// A balancer process that is still reading its large configuration.
struct Starting {
    child: Child,
    log: Lines<BufReader<ChildStderr>>,
}

async fn starting(path: &Path) -> Starting {
    start(path, &(CONFIG.to_owned() + &many_clients())).await
}

async fn start(path: &Path, config: &str) -> Starting {
    std::fs::write(path, config).unwrap();
    let mut child = Command::new(BIN)
        .args(["run", "--config"])
        .arg(path)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let log = BufReader::new(child.stderr.take().unwrap()).lines();
    let pid = child.id().unwrap();
    // The signal handlers are installed before the process reads any file.
    eventually(DEADLINE, || async move {
        let caught = caught_signals(pid).ok_or_else(|| "it has exited".to_owned())?;
        let last = caught & (1 << (Signal::USR2.as_raw() - 1)) != 0;
        last.then_some(())
            .ok_or_else(|| "not handled yet".to_owned())
    })
    .await
    .unwrap();
    Starting { child, log }
}

/// Returns the mask of handled signals, or `None` if the process has exited.
fn caught_signals(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let caught = status
        .lines()
        .find_map(|line| line.strip_prefix("SigCgt:"))?;
    u64::from_str_radix(caught.trim(), 16).ok()
}

impl Starting {
    fn send(&self, which: Signal) {
        signal(self.child.id().unwrap(), which);
    }

    /// Waits for a line of the log, and returns it.
    async fn wait_line(&mut self, what: &str) -> String {
        within(DEADLINE, what, async {
            while let Some(line) = self.log.next_line().await.unwrap() {
                if line.contains(what) {
                    return line;
                }
            }
            panic!("the process exited without logging {what:?}");
        })
        .await
    }

    async fn wait_exit(&mut self) -> Option<i32> {
        let status = within(DEADLINE, "the exit", self.child.wait()).await;
        status.unwrap().code()
    }
}

#[tokio::test]
async fn signals_during_startup_are_handled_afterwards() {
    let dir = tempfile::tempdir().unwrap();
    let mut lb = starting(&dir.path().join("leastconn.toml")).await;
    lb.send(Signal::HUP);
    lb.send(Signal::USR1);
    lb.wait_line("ready").await;
    lb.wait_line("reloaded").await;
    lb.send(Signal::TERM);
    assert_eq!(lb.wait_exit().await, Some(0));
}

#[tokio::test]
async fn upgrade_during_startup_happens_afterwards() {
    let dir = tempfile::tempdir().unwrap();
    let mut lb = starting(&dir.path().join("leastconn.toml")).await;
    lb.send(Signal::USR2);
    lb.wait_line("starting successor process").await;
    let line = lb.wait_line("took over").await;
    let (_, pid) = line.split_once("pid=").unwrap();
    let pid = pid.split(' ').next().unwrap().parse().unwrap();
    assert_eq!(lb.wait_exit().await, Some(0));
    signal(pid, Signal::TERM);
    lb.wait_line("stopped").await;
}

#[tokio::test]
async fn stop_during_startup_exits_cleanly() {
    for which in [Signal::TERM, Signal::INT] {
        let dir = tempfile::tempdir().unwrap();
        let mut lb = starting(&dir.path().join("leastconn.toml")).await;
        lb.send(which);
        assert_eq!(lb.wait_exit().await, Some(0));
    }
}

#[tokio::test]
async fn stop_does_not_wait_for_servers_to_be_discovered() {
    let directory = tempfile::tempdir().unwrap();
    let config = CONFIG.replace(
        "servers = [\"127.0.0.1:9\"]",
        "servers = [{ file = \"missing.json\" }]\ndiscovery = { start = \"wait\" }",
    );
    // Longer than the deadline of tests, so that waiting for the timeout fails the test.
    let config = format!("[process]\ndrain_timeout = \"10m\"\n{config}");
    let mut process = start(&directory.path().join("leastconn.toml"), &config).await;
    process
        .wait_line("waiting for servers to be discovered")
        .await;
    process.send(Signal::TERM);
    assert_eq!(process.wait_exit().await, Some(0));
}
