//! If the access log cannot be written, records are lost and counted, but nothing else is
//! affected.

use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use leastconn_testkit::{DEADLINE, Signal, Upstream, eventually};
use rustix::fs::{CWD, FileType, Mode, OFlags, mknodat};

use crate::support::{BIN, Running, Site, talk, tcp};

const LOST: &str = "leastconn_access_log_lines_lost_total";

async fn serve(lb: &Running, count: usize) {
    for _ in 0..count {
        talk(tcp(lb.main()).await).await.unwrap();
    }
}

/// Shuts the balancer down. The access log must not delay the exit.
async fn shut_down(lb: Running) {
    lb.quiet().await;
    assert_eq!(lb.http_get("/readyz").await.0, 200);
    lb.signal(Signal::TERM);
    let status = lb.wait_exit(DEADLINE).await;
    assert_eq!(status.code(), Some(0));
}

fn fifo(dir: &Path) -> PathBuf {
    let path = dir.join("access.fifo");
    mknodat(CWD, &path, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
    path
}

fn reader(path: &Path) -> std::fs::File {
    let nonblocking = OFlags::NONBLOCK.bits() as i32;
    let mut options = std::fs::OpenOptions::new();
    let options = options.read(true).custom_flags(nonblocking);
    options.open(path).unwrap()
}

/// Waits for `n` lines from `reader`.
async fn read_lines(reader: &mut std::fs::File, n: usize) {
    use std::io::Read;
    let mut text = Vec::new();
    eventually(DEADLINE, || {
        let mut bytes = [0; 4096];
        if let Ok(read) = reader.read(&mut bytes) {
            text.extend_from_slice(&bytes[..read]);
        }
        let lines = text.iter().filter(|&&byte| byte == b'\n').count();
        std::future::ready((lines >= n).then_some(()).ok_or(format!("{lines} lines")))
    })
    .await
    .unwrap();
    let text = String::from_utf8(text).unwrap();
    let lines: Vec<serde_json::Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(lines.len(), n, "{text}");
    assert!(lines.iter().all(|line| line["outcome"] == "ok"));
}

#[tokio::test]
async fn full_device_drops_records() {
    let web = Upstream::named("web1").await;
    let site = Site::plain(&[&web]).log("access = \"/dev/full\"");
    let lb = site.start().await;
    serve(&lb, 20).await;
    lb.wait_metric(LOST, 20.0, DEADLINE).await;
    // The message appears only once: a message for each lost record could fill the disk to which
    // standard error is written.
    let message = "access log lines lost";
    let is_warning = |event: &serde_json::Value| event["fields"]["message"] == message;
    let event = lb.wait_log(is_warning, DEADLINE).await;
    assert_eq!(event["level"], "WARN");
    let reason = event["fields"]["reason"].as_str().unwrap();
    assert!(reason.contains("No space left"), "{reason}");
    assert_eq!(lb.stderr().matches(message).count(), 1);
    shut_down(lb).await;
}

#[tokio::test]
async fn closed_stdout_drops_records() {
    let web = Upstream::named("web1").await;
    let without_reader = |command: &mut Command| {
        let mut shell = Command::new("bash");
        // Once `true` has exited, the read end of the pipe is closed.
        let closed_pipe = "exec 3> >(exec true); wait $!; exec \"$0\" \"$@\" >&3 3>&-";
        shell.args(["-c", closed_pipe, BIN]);
        shell.args(command.get_args());
        shell.current_dir(command.get_current_dir().unwrap());
        *command = shell;
    };
    // This is the default value, but `Running::quiet` looks for the key to find the
    // records.
    let site = Site::plain(&[&web]).log("access = \"stdout\"");
    let lb = site.start_with(without_reader).await;
    serve(&lb, 20).await;
    lb.wait_metric(LOST, 20.0, DEADLINE).await;
    shut_down(lb).await;
}

#[tokio::test]
async fn missing_directory_on_reopen_drops_records() {
    let web = Upstream::named("web1").await;
    // A sandbox rule covers the removed directory, but not a new directory with the same name.
    let site = Site::plain(&[&web])
        .log("access = \"log/access.log\"")
        .process("sandbox = \"off\"");
    let dir = site.dir.path().join("log");
    std::fs::create_dir(&dir).unwrap();
    let lb = site.start().await;
    serve(&lb, 1).await;
    std::fs::remove_dir_all(&dir).unwrap();
    lb.signal(Signal::USR1);
    let is_warning = |event: &serde_json::Value| {
        event["level"] == "ERROR"
            && event["fields"]["message"] == "access log not reopened, previous file kept"
    };
    let event = lb.wait_log(is_warning, DEADLINE).await;
    let error = event["fields"]["error"].as_str().unwrap();
    assert!(error.contains("log/access.log"), "{error}");
    serve(&lb, 1).await;

    std::fs::create_dir(&dir).unwrap();
    lb.signal(Signal::USR1);
    // The balancer creates the file immediately, not with the next record, because log rotation
    // waits for the file.
    let path = dir.join("access.log");
    eventually(DEADLINE, || async {
        path.exists().then_some(()).ok_or_else(String::new)
    })
    .await
    .unwrap();
    serve(&lb, 3).await;
    eventually(DEADLINE, || async {
        let text = std::fs::read_to_string(&path).unwrap();
        // The file may also contain record 4, if record 4 was still queued.
        let has_last = text.contains("\"connection\":5,");
        has_last.then_some(()).ok_or(text)
    })
    .await
    .unwrap();
    shut_down(lb).await;
}

#[tokio::test]
async fn fifo_without_reader_does_not_block() {
    let web = Upstream::named("web1").await;
    let site = Site::plain(&[&web]).log("access = \"access.fifo\"");
    let path = fifo(site.dir.path());
    let lb = site.start().await;
    serve(&lb, 3).await;
    lb.wait_metric(LOST, 3.0, DEADLINE).await;
    let mut first = reader(&path);
    serve(&lb, 2).await;
    read_lines(&mut first, 2).await;
    drop(first);
    lb.signal(Signal::USR1);
    serve(&lb, 4).await;
    lb.wait_metric(LOST, 7.0, DEADLINE).await;
    // A reload opens the FIFO again.
    let log = lb.config().replace("access.fifo", "./access.fifo");
    assert_eq!(lb.reload(&log).await, "applied");
    serve(&lb, 1).await;
    lb.wait_metric(LOST, 8.0, DEADLINE).await;
    let mut second = reader(&path);
    serve(&lb, 2).await;
    read_lines(&mut second, 2).await;
    drop(second);
    // Reopening a FIFO that has no reader leaves no descriptor open.
    lb.signal(Signal::USR1);
    shut_down(lb).await;
}

#[tokio::test]
async fn stalled_pipe_reader_does_not_block() {
    let web = Upstream::named("web1").await;
    // The sandbox allows writing to the FIFO, but not to files beside it.
    let site = Site::plain(&[&web])
        .log("access = \"access.fifo\"")
        .process("sandbox = \"off\"");
    let path = fifo(site.dir.path());
    let stopped = reader(&path);
    rustix::pipe::fcntl_setpipe_size(&stopped, 4096).unwrap();
    let lb = site.start().await;
    // About forty records fill the pipe and the buffer of the balancer.
    serve(&lb, 300).await;
    // A reload moves the log to another file although the writer is blocked.
    let file = lb.config().replace("access.fifo", "access.log");
    assert_eq!(lb.reload(&file).await, "applied");
    serve(&lb, 1).await;
    let path = lb.dir().join("access.log");
    eventually(DEADLINE, || async {
        let text = std::fs::read_to_string(&path).unwrap();
        (!text.is_empty()).then_some(()).ok_or(text)
    })
    .await
    .unwrap();
    // Move the log back to the FIFO, to shut down while the writer is blocked.
    assert_eq!(lb.reload(&lb.config()).await, "applied");
    serve(&lb, 300).await;
    shut_down(lb).await;
    drop(stopped);
}
