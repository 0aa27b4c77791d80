//! Runs a server program, and a balancer in front of it.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use leastconn_testkit::{Balancer, DEADLINE, eventually};
use serde_json::Value;

use crate::{
    program,
    site::{self, Certs, repository},
};

/// Returns whether all of these programs (with their Debian packages) are installed. Prints
/// the missing ones, because the test will be skipped.
pub(crate) fn are_installed(programs: &[(&str, &str)]) -> bool {
    let mut all = true;
    for (name, package) in programs {
        if program::find(name).is_none() {
            eprintln!("skipped: `{name}` is not installed (Debian: {package})");
            all = false;
        }
    }
    all
}

/// Returns whether tests with slow servers are enabled.
pub(crate) fn are_long_tests_on() -> bool {
    let on = std::env::var_os("LEASTCONN_LONG").is_some();
    if !on {
        eprintln!("skipped: runs only with LEASTCONN_LONG=1");
    }
    on
}

/// Returns a Python interpreter that can import `module`: `LEASTCONN_PYTHON`, the one in
/// the environment that `scripts/setup.sh --test` creates, or `python3`.
pub(crate) fn python_with(module: &str) -> Option<PathBuf> {
    let ours = repository().join("target/test-python/bin/python3");
    let candidates = [
        std::env::var_os("LEASTCONN_PYTHON").map(PathBuf::from),
        ours.is_file().then_some(ours),
        program::find("python3"),
    ];
    let found = candidates.into_iter().flatten().find(|python| {
        let import = Command::new(python)
            .args(["-c", &format!("import {module}")])
            .stderr(Stdio::null())
            .status();
        import.is_ok_and(|status| status.success())
    });
    if found.is_none() {
        eprintln!("skipped: Python has no module `{module}`: run scripts/setup.sh --test");
    }
    found
}

/// A server process. Killed when dropped.
pub(crate) struct Service {
    process: Child,
    log: PathBuf,
}

impl Service {
    /// Starts `command` and waits until it accepts connections at `address`. Its output
    /// goes to the file `log`.
    ///
    /// # Panics
    /// If the server ends or does not listen in time. The message contains its output.
    pub(crate) async fn start(mut command: Command, address: SocketAddr, log: &Path) -> Self {
        let output = fs::File::create(log).unwrap();
        let process = command
            .env("LC_ALL", "C")
            .stdin(Stdio::null())
            .stdout(output.try_clone().unwrap())
            .stderr(output)
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let mut this = Self {
            process,
            log: log.to_owned(),
        };
        let up = eventually(3 * DEADLINE, || async {
            let connected = tokio::net::TcpStream::connect(address).await;
            connected.map(drop).map_err(|error| error.to_string())
        });
        if let Err(error) = up.await {
            let status = this.process.try_wait();
            panic!("{command:?}: {error}, {status:?}\n{}", this.output());
        }
        this
    }

    /// The output of the server so far.
    pub(crate) fn output(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    /// Stops the server with SIGTERM, so that it can stop its child processes.
    pub(crate) fn terminate(&mut self) {
        let pid = rustix::process::Pid::from_child(&self.process);
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        let _ = self.process.wait();
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A balancer with one listener, `main`, which requires client certificates, and one
/// server. `client1` may connect.
pub(crate) struct Front {
    pub(crate) certs: Certs,
    pub(crate) balancer: Balancer,
}

impl Front {
    /// Starts the balancer. `listener` contains more lines of the listener's TLS table, and
    /// `health_check` is an inline table.
    pub(crate) async fn start(
        certs: Certs,
        server: SocketAddr,
        listener: &str,
        health_check: &str,
    ) -> Self {
        Self::start_from(certs, &configuration(server, listener, health_check)).await
    }

    /// Like [`Self::start`], with this configuration.
    pub(crate) async fn start_from(certs: Certs, config: &str) -> Self {
        let balancer = site::start(config, &certs).await;
        Self { certs, balancer }
    }

    /// The listener's port on the loopback addresses, as text.
    pub(crate) fn port(&self) -> String {
        self.balancer.address("main").port().to_string()
    }

    /// The files that a client needs: CA, certificate, key.
    pub(crate) fn files(&self) -> [PathBuf; 3] {
        let (cert, key) = self.certs.pair("client1");
        [self.certs.path("ca/ca.crt"), cert, key]
    }

    /// Waits until `count` connections have ended, checks that none was refused or failed,
    /// and stops the balancer. Returns their records.
    pub(crate) async fn finish(self, count: usize) -> Vec<Value> {
        let records = self.balancer.wait_records(count).await;
        assert_eq!(records.len(), count, "{records:#?}");
        for record in &records {
            // Many clients close their connections without close_notify.
            let outcome = record["outcome"].as_str().unwrap();
            assert!(["ok", "client_truncated"].contains(&outcome), "{record:#}");
            assert_eq!(record["client"], "client1");
        }
        site::stop(&self.balancer).await;
        records
    }
}

/// The configuration of [`Front::start`].
pub(crate) fn configuration(server: SocketAddr, listener: &str, health_check: &str) -> String {
    format!(
        r#"
[admin]
bind = "127.0.0.1:0"

[[listener]]
name = "main"
bind = "127.0.0.1:0"
upstream = "servers"

[listener.tls]
cert = "../certs/server/server.crt"
key = "../certs/server/server.key.pem"
client_ca = "../certs/ca/ca.crt"
{listener}

[[upstream]]
name = "servers"
health_check = {health_check}
servers = ["{server}"]

[[client]]
name = "client1"
match = {{ cn = "client1.lb.com" }}
allow = ["servers"]
"#
    )
}

/// Disables health checks, so that every connection to the server comes from a client.
pub(crate) const NO_PROBES: &str = r#"{ type = "none" }"#;

/// Health checks that only connect and close.
pub(crate) const TCP_PROBES: &str = r#"{ type = "tcp", interval = "1s", timeout = "1s" }"#;
