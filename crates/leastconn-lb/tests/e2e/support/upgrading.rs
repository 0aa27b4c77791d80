//! Helpers for upgrades and for processes that the test did not start itself.

use std::{os::unix::process::CommandExt, path::Path, process::Command};

use leastconn_testkit::client::{TlsStream, read_line, read_to_close, roundtrip};
use leastconn_testkit::{Cert, DEADLINE, Signal, eventually, metrics, within};
use rustix::process::{Pid, kill_process};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::{Running, Site};

/// Starts a balancer. At the end of the test, its successors are killed together with it.
pub(crate) async fn start(site: Site) -> Running {
    site.start_with(own_process_group).await
}

/// Puts the process and its descendants into a separate process group.
pub(crate) fn own_process_group(command: &mut Command) {
    command.process_group(0);
}

pub(crate) fn signal(pid: u32, signal: Signal) {
    kill_process(pid_of(pid), signal).unwrap();
}

pub(crate) fn pid_of(pid: u32) -> Pid {
    Pid::from_raw(i32::try_from(pid).unwrap()).unwrap()
}

/// Upgrades the process `pid`, and returns the PID of its successor.
pub(crate) async fn upgrade(lb: &Running, pid: u32) -> u32 {
    signal(pid, Signal::USR2);
    successor(lb, pid).await
}

/// Waits until another process has taken over from `pid`.
pub(crate) async fn successor(lb: &Running, pid: u32) -> u32 {
    let took_over = |event: &Value| {
        let fields = &event["fields"];
        message(event).starts_with("took over") && fields["from"] == pid
    };
    let event = lb.wait_log(took_over, DEADLINE).await;
    u32::try_from(event["fields"]["pid"].as_u64().unwrap()).unwrap()
}

pub(crate) fn message(event: &Value) -> &str {
    event["fields"]["message"].as_str().unwrap_or_default()
}

pub(crate) type Stream = TlsStream<TcpStream>;

/// Opens a connection that a server has answered.
pub(crate) async fn open(lb: &Running, cert: &Cert) -> Stream {
    let mut stream = lb.client_with(cert).connect(lb.main()).await.unwrap();
    read_line(&mut stream).await.unwrap();
    stream
}

pub(crate) async fn assert_open(stream: &mut Stream) {
    assert_eq!(roundtrip(stream, b"on").await.unwrap(), b"on");
}

/// Waits until the balancer has closed the connection.
pub(crate) async fn wait_closed(mut stream: Stream) {
    let mut rest = Vec::new();
    let _ = within(DEADLINE, "the close", stream.read_to_end(&mut rest)).await;
}

/// Closes a connection cleanly.
pub(crate) async fn finish(mut stream: Stream) {
    stream.shutdown().await.unwrap();
    read_to_close(&mut stream).await.unwrap();
}

/// Waits until the first process has exited, and shuts down the newest one.
pub(crate) async fn shut_down_all(lb: &Running, newest: u32) {
    assert_eq!(lb.wait_exit(DEADLINE).await.code(), Some(0));
    signal(newest, Signal::TERM);
    wait_process_exit(newest).await;
}

pub(crate) fn open_files(pid: u32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd"))
        .unwrap()
        .count()
}

/// Waits until a process has exited. It may remain a zombie, because the test is not its parent.
pub(crate) async fn wait_process_exit(pid: u32) {
    let ended = eventually(DEADLINE, || async {
        let state = std::fs::read_to_string(format!("/proc/{pid}/stat"));
        match state {
            Err(_) => Ok(()),
            Ok(text) if text.rsplit(") ").next().unwrap().starts_with('Z') => Ok(()),
            Ok(_) => Err(format!("process {pid} is still running")),
        }
    });
    ended.await.unwrap();
}

/// Waits until the newest process, `pid`, has no connections and at most `files` open
/// files.
pub(crate) async fn quiet(lb: &Running, pid: u32, files: usize) {
    let quiet = eventually(DEADLINE, || async {
        let metrics = lb.metrics().await;
        let active = metrics::family(&metrics, "leastconn_connections_active").chain(
            metrics::family(&metrics, "leastconn_server_connections_active"),
        );
        for (key, value) in active {
            if value != 0.0 {
                return Err(format!("{key} is {value}"));
            }
        }
        match open_files(pid) {
            now if now <= files => Ok(()),
            now => Err(format!("{now} files are open, expected at most {files}")),
        }
    });
    quiet.await.unwrap();
    assert!(!lb.stderr().contains("panicked"), "{}", lb.stderr());
}

/// Atomically points the symlink `name` to `program`.
pub(crate) fn replace_symlink(name: &Path, program: &Path) {
    let new = name.with_extension("new");
    std::os::unix::fs::symlink(program, &new).unwrap();
    std::fs::rename(new, name).unwrap();
}

/// Writes an executable shell script.
pub(crate) fn write_script(path: &Path, text: &str) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::write(path, format!("#!/bin/sh\n{text}\n")).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
}
