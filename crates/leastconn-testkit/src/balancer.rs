//! Runs the balancer as a child process, and gives access to its log, access log, metrics
//! and signals.
//!
//! The balancer must log JSON to standard error: an event `listening` for each bound socket,
//! and then an event `ready`. The fields of `listening` are `listener`, which is `admin` for
//! the admin address, and `address`. The access log must go to standard output, one JSON
//! object per line.

mod lines;
#[cfg(test)]
mod tests;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::{Pid, WaitId, WaitIdOptions};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;

use crate::metrics::{self, Metrics};
use crate::{DEADLINE, eventually};
use lines::Lines;
pub use rustix::process::Signal;

/// Gauges whose value is zero for all labels when no client is connected.
const GAUGES: [&str; 5] = [
    "leastconn_connections_active",
    "leastconn_server_connections_active",
    "leastconn_client_connections_active",
    "leastconn_handshakes_active",
    "leastconn_handshakes_waiting",
];

/// A running balancer. Dropping this value kills the process. If the process leads its own process
/// group, its successors after an upgrade are killed too.
#[derive(Debug)]
pub struct Balancer {
    pid: Pid,
    child: Mutex<Child>,
    exited: watch::Receiver<bool>,
    stdout: Lines,
    stderr: Lines,
    config: PathBuf,
}

/// The balancer exited, or was not ready in time.
pub struct StartError {
    pub reason: String,
    /// `None` if the process is still running.
    pub status: Option<ExitStatus>,
    pub stderr: String,
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the balancer {}; its standard error:\n{}",
            self.reason, self.stderr
        )
    }
}

// `Debug` prints the same text as `Display`, because `unwrap` prints errors with `Debug`.
impl fmt::Debug for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::error::Error for StartError {}

impl Balancer {
    /// Writes `config` to `DIR/leastconn.toml`, starts `BIN run --config` with it, and
    /// waits until it is ready. Sets the log format to JSON unless `config` sets one.
    ///
    /// # Errors
    /// [`StartError`], with the output of the balancer.
    pub async fn start(
        bin: impl AsRef<Path>,
        config: &str,
        dir: impl AsRef<Path>,
    ) -> Result<Self, StartError> {
        Self::start_with(bin, config, dir, |_| {}).await
    }

    /// As [`Self::start`]; `adjust` may change the command, for example its environment.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub async fn start_with(
        bin: impl AsRef<Path>,
        config: &str,
        dir: impl AsRef<Path>,
        adjust: impl FnOnce(&mut Command),
    ) -> Result<Self, StartError> {
        let path = dir.as_ref().join("leastconn.toml");
        std::fs::write(&path, with_json_log(config)).unwrap();
        let mut command = Command::new(bin.as_ref());
        command
            .args(["run", "--config"])
            .arg(&path)
            .current_dir(dir.as_ref());
        adjust(&mut command);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command
            .spawn()
            .unwrap_or_else(|e| panic!("{:?}: {e}", bin.as_ref()));
        let pid = Pid::from_child(&child);
        let stdout = Lines::of(child.stdout.take().unwrap());
        let stderr = Lines::of(child.stderr.take().unwrap());
        let exited = watch_exit(pid);
        let this = Self {
            pid,
            child: Mutex::new(child),
            exited,
            stdout,
            stderr,
            config: path,
        };

        let ready = this
            .stderr
            .find(DEADLINE, |line| message(line).as_deref() == Some("ready"));
        match ready.await {
            Ok(_) => Ok(this),
            Err(_) => Err(this.failure().await),
        }
    }

    async fn failure(self) -> StartError {
        let closed = self.stderr.is_closed();
        let status = match closed {
            true => self.try_wait_exit(DEADLINE).await,
            false => None,
        };
        let reason = match status {
            Some(status) => format!("exited before it was ready ({status})"),
            None if closed => "closed its standard error".to_owned(),
            None => format!("was not ready within {DEADLINE:?}"),
        };
        StartError {
            reason,
            status,
            stderr: self.stderr(),
        }
    }

    pub fn pid(&self) -> u32 {
        self.pid.as_raw_nonzero().get().unsigned_abs()
    }

    /// The address of a listener.
    ///
    /// # Panics
    /// If the log has no `listening` event of this listener.
    pub fn address(&self, listener: &str) -> SocketAddr {
        self.try_address(listener)
            .unwrap_or_else(|| panic!("no listener {listener:?} in:\n{}", self.stderr()))
    }

    /// The most recent address of a listener, even if it has been closed since.
    pub fn try_address(&self, listener: &str) -> Option<SocketAddr> {
        self.stderr.with(|lines| {
            lines
                .iter()
                .rev()
                .find_map(|line| listening(line, listener))
        })
    }

    /// Waits for the address of a listener, for example after a reload.
    ///
    /// # Panics
    /// After [`DEADLINE`].
    pub async fn wait_address(&self, listener: &str) -> SocketAddr {
        let found = self
            .stderr
            .find(DEADLINE, |line| listening(line, listener).is_some())
            .await;
        let line = found.unwrap_or_else(|e| panic!("listener {listener:?}: {e}"));
        listening(&line, listener).unwrap()
    }

    /// Waits until a listener has this address. Tests need this method after a reload, because
    /// the result of the reload may arrive before the log lines.
    ///
    /// # Panics
    /// After [`DEADLINE`].
    pub async fn wait_listening(&self, listener: &str, at: SocketAddr) {
        let found = self
            .stderr
            .find(DEADLINE, |line| listening(line, listener) == Some(at))
            .await;
        found.unwrap_or_else(|e| panic!("listener {listener:?} at {at}: {e}"));
    }

    /// The admin address.
    ///
    /// # Panics
    /// If the balancer has none.
    pub fn admin(&self) -> SocketAddr {
        self.address("admin")
    }

    /// Returns the access records so far.
    ///
    /// # Panics
    /// If a line is not a JSON object.
    pub fn records(&self) -> Vec<Value> {
        self.stdout
            .with(|lines| lines.iter().map(|line| record(line)).collect())
    }

    /// Waits for an access record that `matches`. Also finds records written before the
    /// call.
    ///
    /// # Panics
    /// After `limit`, with all records in the message.
    pub async fn wait_record(&self, matches: impl Fn(&Value) -> bool, limit: Duration) -> Value {
        let found = self.stdout.find(limit, |line| matches(&record(line))).await;
        record(&found.unwrap_or_else(|e| panic!("no such record: {e}")))
    }

    /// Waits for at least `n` access records, and returns all records so far.
    ///
    /// # Panics
    /// After [`DEADLINE`], with all records in the message.
    pub async fn wait_records(&self, n: usize) -> Vec<Value> {
        let reached = self
            .stdout
            .wait(DEADLINE, |lines| (lines.len() >= n).then_some(()))
            .await;
        reached.unwrap_or_else(|e| panic!("fewer than {n} records: {e}"));
        self.records()
    }

    /// Returns the lines that the process has written to standard error so far.
    pub fn stderr(&self) -> String {
        self.stderr.with(|lines| lines.join("\n"))
    }

    /// Waits for a log event that `matches`. Also finds events logged before the call.
    /// Lines that are not JSON are ignored.
    ///
    /// # Panics
    /// After `limit`, with the log in the message.
    pub async fn wait_log(&self, matches: impl Fn(&Value) -> bool, limit: Duration) -> Value {
        let matches = |line: &str| serde_json::from_str(line).is_ok_and(|event| matches(&event));
        let found = self.stderr.find(limit, matches).await;
        serde_json::from_str(&found.unwrap_or_else(|e| panic!("no such event: {e}"))).unwrap()
    }

    /// Sends `GET path` to the admin address; returns status and body.
    ///
    /// # Errors
    /// On connection errors and malformed responses.
    pub async fn try_http_get(&self, path: &str) -> io::Result<(u16, String)> {
        let addr = self
            .try_address("admin")
            .ok_or(io::ErrorKind::NotConnected)?;
        http_get(addr, path).await
    }

    /// As [`Self::try_http_get`].
    ///
    /// # Panics
    /// If the request fails.
    pub async fn http_get(&self, path: &str) -> (u16, String) {
        self.try_http_get(path)
            .await
            .unwrap_or_else(|e| panic!("GET {path}: {e}"))
    }

    /// The servers that `/api/v1/servers` lists.
    ///
    /// # Panics
    /// If they cannot be fetched.
    pub async fn servers(&self) -> Vec<Value> {
        let (_, body) = self.http_get("/api/v1/servers").await;
        let mut answer: Value = serde_json::from_str(&body).unwrap();
        match answer["servers"].take() {
            Value::Array(servers) => servers,
            _ => panic!("no servers in {body}"),
        }
    }

    /// The names of [`Self::servers`], in the same order.
    ///
    /// # Panics
    /// As [`Self::servers`].
    pub async fn server_names(&self) -> Vec<String> {
        let servers = self.servers().await;
        let names = servers.iter().map(|s| s["server"].as_str().unwrap());
        names.map(ToOwned::to_owned).collect()
    }

    /// The metrics, with labels in alphabetical order; see [`metrics::normalise`].
    ///
    /// # Panics
    /// If the metrics cannot be fetched.
    pub async fn metrics(&self) -> Metrics {
        let (status, body) = self.http_get("/metrics").await;
        assert_eq!(status, 200, "{body}");
        metrics::parse(&body)
    }

    /// Waits until a metric has this value. Labels may be in any order; a missing
    /// metric is 0.
    ///
    /// # Panics
    /// After `limit`.
    pub async fn wait_metric(&self, name: &str, value: f64, limit: Duration) {
        let key = metrics::normalise(name);
        let reached = eventually(limit, || async {
            let metrics = self.metrics().await;
            match metrics.get(&key).copied().unwrap_or(0.0) {
                now if now == value => Ok(()),
                now => Err(format!("{key} is {now}, not {value}")),
            }
        });
        reached.await.unwrap_or_else(|e| panic!("{e}"));
    }

    /// Waits until the balancer reports no connections or handshakes, and has no more
    /// than `baseline_fds` open files.
    ///
    /// # Panics
    /// After [`DEADLINE`].
    pub async fn assert_idle(&self, baseline_fds: usize) {
        let idle = eventually(DEADLINE, || async {
            if self.try_address("admin").is_some() {
                let metrics = self.metrics().await;
                for (key, value) in GAUGES
                    .iter()
                    .flat_map(|name| metrics::family(&metrics, name))
                {
                    if value != 0.0 {
                        return Err(format!("{key} is {value}"));
                    }
                }
            }
            match self.open_fds() {
                now if now <= baseline_fds => Ok(()),
                now => Err(format!(
                    "{now} files are open, not {baseline_fds}: {:?}",
                    self.open_files()
                )),
            }
        });
        idle.await.unwrap_or_else(|e| panic!("{e}"));
    }

    /// Number of file descriptors that the balancer process has open.
    pub fn open_fds(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.pid()))
            .unwrap()
            .count()
    }

    fn open_files(&self) -> Vec<String> {
        let entries = std::fs::read_dir(format!("/proc/{}/fd", self.pid())).unwrap();
        // A descriptor may have been closed since the directory was read.
        let names = entries.filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok());
        names.map(|name| name.display().to_string()).collect()
    }

    /// Replaces the configuration file. The balancer reads it at the next reload.
    pub fn write_config(&self, config: &str) {
        let new = self.config.with_extension("toml.new");
        std::fs::write(&new, with_json_log(config)).unwrap();
        std::fs::rename(new, &self.config).unwrap();
    }

    /// Sends a signal, unless the process has ended.
    pub fn signal(&self, signal: Signal) {
        let mut child = self.child.lock().unwrap();
        // The child is reaped only under this lock, so its process ID cannot be reused
        // before the signal is sent.
        if child.try_wait().unwrap().is_none() {
            rustix::process::kill_process(self.pid, signal).unwrap();
        }
    }

    /// Waits until the process has ended.
    ///
    /// # Panics
    /// After `limit`.
    pub async fn wait_exit(&self, limit: Duration) -> ExitStatus {
        self.try_wait_exit(limit)
            .await
            .unwrap_or_else(|| panic!("still running after {limit:?}:\n{}", self.stderr()))
    }

    /// As [`Self::wait_exit`], but also waits until all output has been read, so that records
    /// and log are complete. Do not use this method after an upgrade, because the successor
    /// keeps the pipes open.
    ///
    /// # Panics
    /// After `limit`.
    pub async fn wait_end(&self, limit: Duration) -> ExitStatus {
        let status = self.wait_exit(limit).await;
        for output in [&self.stdout, &self.stderr] {
            let end = |_: &[String]| output.is_closed().then_some(());
            let read = output.wait(DEADLINE, end).await;
            read.unwrap_or_else(|e| panic!("another process still holds the pipe: {e}"));
        }
        status
    }

    async fn try_wait_exit(&self, limit: Duration) -> Option<ExitStatus> {
        let mut exited = self.exited.clone();
        tokio::time::timeout(limit, exited.wait_for(|exited| *exited))
            .await
            .ok()?
            .ok()?;
        Some(self.child.lock().unwrap().wait().unwrap())
    }
}

/// Sends `GET path` to an HTTP server; returns status and body.
///
/// # Errors
/// On connection errors and malformed responses.
pub async fn http_get(addr: SocketAddr, path: &str) -> io::Result<(u16, String)> {
    let exchange = async {
        let mut stream = TcpStream::connect(addr).await?;
        // Use HTTP/1.0, so that the response is not chunked and the server closes the
        // connection.
        let request = format!("GET {path} HTTP/1.0\r\nhost: {addr}\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        let (head, body) = answer
            .split_once("\r\n\r\n")
            .ok_or_else(|| io::Error::other(answer.clone()))?;
        let status = head
            .split(' ')
            .nth(1)
            .and_then(|status| status.parse().ok());
        Ok((
            status.ok_or_else(|| io::Error::other(head.to_owned()))?,
            body.to_owned(),
        ))
    };
    tokio::time::timeout(DEADLINE, exchange).await?
}

impl Drop for Balancer {
    fn drop(&mut self) {
        let child = self.child.get_mut().unwrap();
        // Kill successors as well, if the child leads a process group. The group ID cannot be
        // reused until the child is reaped and all members have ended.
        let _ = rustix::process::kill_process_group(self.pid, Signal::KILL);
        let _ = child.kill();
        let _ = child.wait();
        if std::thread::panicking() {
            eprintln!("--- balancer log:\n{}\n---", self.stderr());
        }
    }
}

/// Starts a thread that reports the end of the process without reaping it. The process ID
/// must not be reused while signals may be sent to it.
fn watch_exit(pid: Pid) -> watch::Receiver<bool> {
    let (sender, receiver) = watch::channel(false);
    std::thread::spawn(move || {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
        let wait = || rustix::process::waitid(WaitId::Pid(pid), options).err();
        while wait() == Some(Errno::INTR) {}
        sender.send_replace(true);
    });
    receiver
}

fn message(line: &str) -> Option<String> {
    let event: Value = serde_json::from_str(line).ok()?;
    Some(event["fields"]["message"].as_str()?.to_owned())
}

fn listening(line: &str, listener: &str) -> Option<SocketAddr> {
    let event: Value = serde_json::from_str(line).ok()?;
    let fields = &event["fields"];
    let matches = fields["message"] == "listening" && fields["listener"] == listener;
    matches.then(|| fields["address"].as_str()?.parse().ok())?
}

fn record(line: &str) -> Value {
    match serde_json::from_str(line) {
        Ok(record @ Value::Object(_)) => record,
        _ => panic!("not an access record: {line:?}"),
    }
}

/// Adds `format = "json"` unless a format is set.
fn with_json_log(config: &str) -> String {
    let mut lines: Vec<&str> = config.lines().collect();
    let header = |line: &&str| line.trim_start().starts_with('[');
    match lines.iter().position(|line| line.trim() == "[log]") {
        None => lines.extend(["", "[log]", "format = \"json\""]),
        Some(at) => {
            let mut table = lines[at + 1..].iter().take_while(|line| !header(line));
            if !table.any(|line| line.trim_start().starts_with("format")) {
                lines.insert(at + 1, "format = \"json\"");
            }
        }
    }
    lines.join("\n") + "\n"
}
