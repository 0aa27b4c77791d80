//! No signal has its default action, however soon it comes.

use std::{fs::OpenOptions, io::Write, path::Path, process::Stdio};

use leastconn_testkit::{DEADLINE, within};
use rustix::fs::{CWD, FileType, Mode, mknodat};
use tokio::{
    io::{AsyncBufReadExt, BufReader, Lines},
    process::{Child, ChildStderr, Command},
};

use crate::support::BIN;
use crate::upgrading::signal;
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

/// A balancer that reads its configuration from a pipe into which nobody has written.
struct Starting {
    child: Child,
    log: Lines<BufReader<ChildStderr>>,
    pipe: std::fs::File,
}

/// Waits until somebody reads.
async fn opened(path: &Path) -> std::fs::File {
    let path = path.to_owned();
    let opening = tokio::task::spawn_blocking(move || OpenOptions::new().write(true).open(path));
    within(DEADLINE, "a reader", opening)
        .await
        .unwrap()
        .unwrap()
}

async fn starting(path: &Path) -> Starting {
    mknodat(CWD, path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    let mut child = Command::new(BIN)
        .args(["run", "--config"])
        .arg(path)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let log = BufReader::new(child.stderr.take().unwrap()).lines();
    let pipe = opened(path).await;
    Starting { child, log, pipe }
}

impl Starting {
    /// It is there before whatever the process does next.
    fn send(&self, which: Signal) {
        signal(self.child.id().unwrap(), which);
    }

    async fn says(&mut self, what: &str) {
        within(DEADLINE, what, async {
            while let Some(line) = self.log.next_line().await.unwrap() {
                if line.contains(what) {
                    return;
                }
            }
            panic!("it has ended without having said {what:?}");
        })
        .await;
    }

    async fn ends(&mut self) -> Option<i32> {
        let status = within(DEADLINE, "its end", self.child.wait()).await;
        status.unwrap().code()
    }
}

#[tokio::test]
async fn what_is_asked_for_meanwhile_is_done_then() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("leastconn.toml");
    let mut lb = starting(&path).await;
    lb.send(Signal::HUP);
    lb.send(Signal::USR1);
    lb.pipe.write_all(CONFIG.as_bytes()).unwrap();
    lb.pipe = opened(Path::new("/dev/null")).await;
    lb.says("ready").await;
    let mut again = opened(&path).await;
    again.write_all(CONFIG.as_bytes()).unwrap();
    drop(again);
    lb.says("reloaded").await;
    lb.send(Signal::TERM);
    assert_eq!(lb.ends().await, Some(0));
}

#[tokio::test]
async fn an_upgrade_too() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("leastconn.toml");
    let mut lb = starting(&path).await;
    lb.send(Signal::USR2);
    lb.pipe.write_all(CONFIG.as_bytes()).unwrap();
    lb.pipe = opened(Path::new("/dev/null")).await;
    lb.says("SIGUSR2: starting a new process").await;
    let mut again = opened(&path).await;
    // So that there is no new process to be looked after.
    again.write_all(b"nonsense").unwrap();
    drop(again);
    lb.says("no upgrade, this process goes on").await;
    lb.send(Signal::TERM);
    assert_eq!(lb.ends().await, Some(0));
}

#[tokio::test]
async fn who_is_told_to_stop_ends_at_once_and_in_order() {
    for which in [Signal::TERM, Signal::INT] {
        let dir = tempfile::tempdir().unwrap();
        let mut lb = starting(&dir.path().join("leastconn.toml")).await;
        lb.send(which);
        assert_eq!(lb.ends().await, Some(0));
    }
}
