//! Redis and Valkey servers without persistence, as child processes on loopback.
//!
//! ```no_run
//! # async fn example() {
//! use leastconn_testkit::{StoreKind, StoreServer};
//! for kind in StoreKind::installed() {
//!     let mut store = StoreServer::start(kind).await;
//!     store.command(&["SET", "key", "value"]).await;
//!     store.pause(); // SIGSTOP
//!     store.resume();
//!     store.restart_empty().await; // on the same port
//!     println!("{}", store.url());
//! }
//! # }
//! ```

mod options;
mod program;
mod resp;
mod sentinel;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::{DEADLINE, Port, eventually};
pub use options::StoreOptions;
pub use program::StoreKind;
pub use resp::Reply;
pub use sentinel::Sentinel;

/// A running server. Dropping this value kills the process.
#[derive(Debug)]
pub struct StoreServer {
    options: StoreOptions,
    dir: TempDir,
    port: Port,
    tls_port: Option<Port>,
    cluster_port: Option<Port>,
    child: Child,
}

impl StoreServer {
    /// A standalone server without a password.
    pub async fn start(kind: StoreKind) -> Self {
        Self::start_with(StoreOptions::new(kind)).await
    }

    /// # Panics
    /// If the server does not answer within [`DEADLINE`].
    pub async fn start_with(options: StoreOptions) -> Self {
        let this = Self::launch(options).await;
        if this.options.cluster {
            this.command(&["CLUSTER", "ADDSLOTSRANGE", "0", "16383"])
                .await;
            this.wait_for(&["CLUSTER", "INFO"], "cluster_state:ok")
                .await;
        }
        this
    }

    /// As [`Self::start_with`] in cluster mode, but without any hash slots. Use
    /// [`Self::join_cluster`] to add the server to a cluster.
    pub async fn start_empty_node(kind: StoreKind) -> Self {
        Self::launch(StoreOptions::new(kind).cluster()).await
    }

    async fn launch(options: StoreOptions) -> Self {
        let dir = TempDir::new().unwrap();
        let port = Port::reserve();
        let tls_port = options.tls.is_some().then(Port::reserve);
        let cluster_port = options.cluster.then(Port::reserve);
        let file = dir.path().join("store.conf");
        let ports = (&port, tls_port.as_ref(), cluster_port.as_ref());
        std::fs::write(&file, options.configuration(dir.path(), ports)).unwrap();
        let child = spawn(options.kind, &file, &[]);
        let this = Self {
            options,
            dir,
            port,
            tls_port,
            cluster_port,
            child,
        };
        this.wait_ready().await;
        this
    }

    /// Adds this node to the cluster of `node`, without hash slots.
    pub async fn join_cluster(&self, node: &Self) {
        let port = node.address().port().to_string();
        let bus = node
            .cluster_port
            .as_ref()
            .unwrap()
            .address
            .port()
            .to_string();
        self.command(&["CLUSTER", "MEET", "127.0.0.1", &port, &bus])
            .await;
        self.wait_for(&["CLUSTER", "INFO"], "cluster_state:ok")
            .await;
        let port = self.address().port().to_string();
        node.wait_for(&["CLUSTER", "NODES"], &format!("127.0.0.1:{port}@"))
            .await;
    }

    pub fn address(&self) -> SocketAddr {
        self.port.address
    }

    /// # Panics
    /// If the server has no TLS.
    pub fn tls_address(&self) -> SocketAddr {
        self.tls_port.as_ref().expect("a TLS port").address
    }

    /// `redis://127.0.0.1:PORT`.
    pub fn url(&self) -> String {
        format!("redis://{}", self.address())
    }

    /// The UNIX socket, which every server has.
    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("store.sock")
    }

    /// Stops the process with SIGSTOP: connections stay open without an answer.
    pub fn pause(&self) {
        self.signal(Signal::STOP);
    }

    /// Resumes the process after [`Self::pause`].
    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    /// Kills the process. Connections are refused until [`Self::restart_empty`].
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Kills the process if it is running, and starts it again on the same ports. All data is
    /// lost.
    pub async fn restart_empty(&mut self) {
        self.kill();
        self.child = spawn(self.options.kind, &self.dir.path().join("store.conf"), &[]);
        self.wait_ready().await;
    }

    /// Sends a command on a new connection and returns the reply.
    ///
    /// # Panics
    /// If the connection fails. An error reply is not a failure of the connection.
    pub async fn try_command(&self, command: &[&str]) -> Reply {
        let password = self.options.password.as_deref();
        let reply = resp::command(self.address(), password, command).await;
        reply.unwrap_or_else(|error| panic!("{command:?}: {error}"))
    }

    /// As [`Self::try_command`], and panics if the reply is an error.
    pub async fn command(&self, command: &[&str]) -> Reply {
        match self.try_command(command).await {
            Reply::Error(error) => panic!("{command:?}: {error}"),
            reply => reply,
        }
    }

    /// All keys, in order.
    pub async fn keys(&self) -> Vec<String> {
        let mut keys = self.command(&["KEYS", "*"]).await.texts();
        keys.sort();
        keys
    }

    /// Makes this server a replica, and waits until it has the data of `primary`.
    pub async fn replicate(&self, primary: &Self) {
        let port = primary.address().port().to_string();
        self.command(&["REPLICAOF", "127.0.0.1", &port]).await;
        self.wait_for(&["INFO", "replication"], "master_link_status:up")
            .await;
    }

    /// Makes this server a primary.
    pub async fn promote(&self) {
        self.command(&["REPLICAOF", "NO", "ONE"]).await;
    }

    /// Repeats a command until its reply contains `text`.
    ///
    /// # Panics
    /// After [`DEADLINE`].
    pub async fn wait_for(&self, command: &[&str], text: &str) {
        let password = self.options.password.as_deref();
        let found = eventually(DEADLINE, || async {
            let reply = resp::command(self.address(), password, command).await;
            let reply = format!("{:?}", reply?);
            match reply.contains(text) {
                true => Ok(()),
                false => Err(format!("{command:?}: {reply}")),
            }
        });
        found.await.unwrap_or_else(|error| panic!("{error}"));
    }

    async fn wait_ready(&self) {
        self.wait_for(&["PING"], "PONG").await;
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }
}

impl Drop for StoreServer {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            let log = std::fs::read_to_string(self.dir.path().join("store.log"));
            eprintln!("--- store log:\n{}\n---", log.unwrap_or_default());
        }
    }
}

fn spawn(kind: StoreKind, file: &Path, arguments: &[&str]) -> Child {
    let program = kind.program().expect("an installed store");
    let mut command = Command::new(&program);
    command.arg(file).args(arguments);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap_or_else(|error| panic!("{}: {error}", program.display()))
}
