use std::net::SocketAddr;
use std::process::Child;

use tempfile::TempDir;

use super::{Reply, StoreKind, StoreServer, resp, spawn};
use crate::{DEADLINE, Port, eventually};

/// A Sentinel that monitors a primary under the name `mymaster`. It alone decides on a failover,
/// after the primary has not answered for 500 ms. Dropping this value kills the process.
#[derive(Debug)]
pub struct Sentinel {
    port: Port,
    child: Child,
    password: Option<String>,
    _dir: TempDir,
}

impl Sentinel {
    /// Starts a sentinel, and waits until it knows `replicas` replicas.
    ///
    /// # Panics
    /// After [`DEADLINE`].
    pub async fn start(kind: StoreKind, primary: &StoreServer, replicas: usize) -> Self {
        Self::start_with(kind, primary, replicas, None).await
    }

    /// As [`Self::start`]. If `password` is given, the sentinel requires it from its clients.
    pub async fn start_with(
        kind: StoreKind,
        primary: &StoreServer,
        replicas: usize,
        password: Option<&str>,
    ) -> Self {
        let dir = TempDir::new().unwrap();
        let port = Port::reserve();
        let address = primary.address();
        let mut lines = vec![
            "bind 127.0.0.1".to_owned(),
            format!("port {}", port.address.port()),
            format!("dir {}", dir.path().display()),
            format!("logfile {}/sentinel.log", dir.path().display()),
            format!(
                "sentinel monitor mymaster {} {} 1",
                address.ip(),
                address.port()
            ),
            "sentinel down-after-milliseconds mymaster 500".to_owned(),
            "sentinel failover-timeout mymaster 3000".to_owned(),
        ];
        if let Some(password) = &primary.options.password {
            lines.push(format!("sentinel auth-pass mymaster {password}"));
        }
        if let Some(password) = password {
            lines.push(format!("requirepass {password}"));
        }
        let file = dir.path().join("sentinel.conf");
        std::fs::write(&file, lines.join("\n") + "\n").unwrap();
        let this = Self {
            port,
            child: spawn(kind, &file, &["--sentinel"]),
            password: password.map(str::to_owned),
            _dir: dir,
        };
        let known = eventually(DEADLINE, || async {
            let reply = this.command(&["SENTINEL", "REPLICAS", "mymaster"]).await?;
            match reply {
                Reply::Array(found) if found.len() >= replicas => Ok(()),
                reply => Err(format!("{reply:?}")),
            }
        });
        known.await.unwrap_or_else(|error| panic!("{error}"));
        this
    }

    pub fn address(&self) -> SocketAddr {
        self.port.address
    }

    /// The address of the primary, as the sentinel reports it.
    pub async fn primary(&self) -> SocketAddr {
        let command = ["SENTINEL", "GET-MASTER-ADDR-BY-NAME", "mymaster"];
        let reply = self.command(&command).await.unwrap().texts();
        format!("{}:{}", reply[0], reply[1]).parse().unwrap()
    }

    /// Promotes a replica while the primary is still working.
    pub async fn fail_over(&self) {
        let before = self.primary().await;
        let reply = self.command(&["SENTINEL", "FAILOVER", "mymaster"]).await;
        assert_eq!(reply, Ok(Reply::Text("OK".to_owned())));
        self.wait_primary_other_than(before).await;
    }

    /// Waits until a replica has been promoted.
    ///
    /// # Panics
    /// After [`DEADLINE`].
    pub async fn wait_primary_other_than(&self, before: SocketAddr) -> SocketAddr {
        let changed = eventually(DEADLINE, || async {
            let now = self.primary().await;
            if now == before {
                Err(format!("still {now}"))
            } else {
                Ok(now)
            }
        });
        changed.await.unwrap_or_else(|error| panic!("{error}"))
    }

    async fn command(&self, command: &[&str]) -> Result<Reply, String> {
        resp::command(self.address(), self.password.as_deref(), command).await
    }
}

impl Drop for Sentinel {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
