//! Sets up the demo: certificates, configuration, servers, balancer and clients.

use std::{
    collections::HashMap,
    fs,
    net::SocketAddr,
    ops::Deref,
    path::{Path, PathBuf},
    time::Duration,
};

use serde_json::Value;
use tokio::time::{sleep, timeout};

use super::{DemoError, client::Client, web::Web};
use crate::pki::{self, Authority, Leaf, Overwrite};
use leastconn_server::{
    logging,
    server::Server,
    telemetry::access_log::{AccessLog, Flusher},
};

/// Common names of the client certificates.
pub(super) const ALICE: &str = "alice.demo";
pub(super) const BOB: &str = "bob.demo";
pub(super) const GREEDY: &str = "greedy.demo";
pub(super) const CAROL: &str = "carol.demo";
pub(super) const STRANGER: &str = "stranger.demo";
pub(super) const MALLORY: &str = "mallory.demo";

/// Connections that [`GREEDY`] can open before its rate limit applies.
pub(super) const BURST: usize = 20;

/// Temporary directory of the demo. It contains private keys, so it is removed on drop, even after
/// a panic.
pub(super) struct Directory(PathBuf);

impl Directory {
    fn create() -> Result<Self, DemoError> {
        let dir = std::env::temp_dir().join(format!("leastconn-demo-{}", std::process::id()));
        fs::create_dir(&dir)
            .map_err(|error| format!("cannot create {}: {error}", dir.display()))?;
        Ok(Self(dir))
    }
}

impl Deref for Directory {
    type Target = Path;

    fn deref(&self) -> &Path {
        &self.0
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

pub(super) struct Environment {
    pub(super) webs: Vec<Web>,
    pub(super) server: Server,
    pub(super) balancer: SocketAddr,
    pub(super) dashboard: SocketAddr,
    clients: HashMap<&'static str, Client>,
    _log: Flusher,
    /// Declared last, so that it is dropped after everything that writes to the directory.
    pub(super) dir: Directory,
}

impl Environment {
    pub(super) async fn start() -> Result<Self, DemoError> {
        let directory = Directory::create()?;
        let dir = &*directory;
        certificates(dir)?;
        let webs = vec![
            Web::start("web1").await?,
            Web::start("web2").await?,
            Web::start("web3").await?,
        ];
        let text = configuration(&webs);
        let path = dir.join("leastconn.toml");
        fs::write(&path, text)?;
        let config = leastconn_config::load(&path)
            .map_err(|problems| problems.to_string())?
            .config;
        logging::start(&config.log);
        let (log, flusher) = AccessLog::open(&config.log.access)?;
        let server = Server::start(config, log)?;
        let (_, balancer) = *server
            .addresses()
            .first()
            .ok_or("the balancer has no listener")?;
        let dashboard = server
            .admin_address()
            .ok_or("the balancer has no admin address")?;
        let mut clients = HashMap::new();
        for name in [ALICE, BOB, GREEDY, CAROL, STRANGER, MALLORY] {
            clients.insert(
                name,
                Client::new(name, dir, &dir.join(pki::CA_CERT), balancer)?,
            );
        }
        Ok(Self {
            webs,
            server,
            balancer,
            dashboard,
            clients,
            _log: flusher,
            dir: directory,
        })
    }

    pub(super) fn client(&self, name: &str) -> Result<Client, DemoError> {
        self.clients
            .get(name)
            .cloned()
            .ok_or_else(|| format!("there is no client {name}").into())
    }

    /// Returns the name, number of open connections and health of each server.
    pub(super) fn in_flight(&self) -> Vec<(&'static str, u32, bool)> {
        let state = self.server.context().snapshot();
        let web = state
            .upstreams
            .values()
            .find(|upstream| upstream.pool().id().as_str() == "web");
        self.webs
            .iter()
            .filter_map(|server| {
                let status = web?.pool().server(server.name)?.status();
                Some((server.name, status.in_flight, status.is_up()))
            })
            .collect()
    }

    /// Returns the access log lines written so far.
    pub(super) fn log(&self) -> Vec<Value> {
        let text = fs::read_to_string(self.dir.join("access.log")).unwrap_or_default();
        text.lines()
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect()
    }

    /// Waits up to 3 seconds for the access log line of the connection from `source`.
    pub(super) async fn outcome(&self, source: SocketAddr) -> Option<Value> {
        let source = source.to_string();
        let find = async {
            loop {
                if let Some(line) = self
                    .log()
                    .into_iter()
                    .find(|line| line["source"] == *source)
                {
                    return line;
                }
                sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(Duration::from_secs(3), find).await.ok()
    }

    pub(super) async fn stop(self) {
        self.server
            .drain(Duration::ZERO, std::future::ready(()))
            .await;
        for web in &self.webs {
            web.stop().await;
        }
    }
}

fn certificates(dir: &Path) -> Result<(), DemoError> {
    let authority = Authority::create("leastconn demo CA", 2)?;
    authority.save(dir)?;
    let list = pki::RevocationList::new();
    pki::write_public(
        &dir.join(pki::CA_CRL),
        &authority.crl(&list, 2)?,
        Overwrite::Allow,
    )?;
    let leaf = |cn: &str, usage| Leaf {
        cn: cn.to_owned(),
        dns: vec![
            if usage == pki::Usage::Server {
                "localhost"
            } else {
                cn
            }
            .to_owned(),
        ],
        days: 1,
        usage,
        ..Leaf::default()
    };
    let write = |authority: &Authority, file: &str, leaf: &Leaf| -> Result<(), DemoError> {
        let issued = authority.issue(leaf)?;
        pki::write_public(
            &dir.join(format!("{file}.crt")),
            &issued.cert_pem,
            Overwrite::Allow,
        )?;
        pki::write_private(
            &dir.join(format!("{file}.key")),
            &issued.key_pem,
            Overwrite::Allow,
        )?;
        Ok(())
    };
    write(&authority, "server", &leaf("localhost", pki::Usage::Server))?;
    for client in [ALICE, BOB, GREEDY, CAROL, STRANGER] {
        write(&authority, client, &leaf(client, pki::Usage::Client))?;
    }
    let other = Authority::create("another CA", 2)?;
    write(&other, MALLORY, &leaf(MALLORY, pki::Usage::Client))
}

fn configuration(webs: &[Web]) -> String {
    let servers: Vec<_> = webs
        .iter()
        .map(|web| {
            format!(
                "  {{ name = \"{}\", address = \"{}\" }},\n",
                web.name, web.address
            )
        })
        .collect();
    let report_server = webs
        .first()
        .map_or_else(String::new, |web| web.address.to_string());
    format!(
        r#"# Configuration of leastconn-lb demo
[log]
level = "error"
access = "access.log"

[admin]
bind = "127.0.0.1:0"

[[listener]]
name = "main"
bind = "127.0.0.1:0"
upstream = "web"
tls = {{ cert = "server.crt", key = "server.key", client_ca = "ca.crt", crl = "ca.crl" }}

[[upstream]]
name = "web"
health_check = {{ type = "tcp", interval = "200ms", timeout = "100ms", rise = 2, fall = 2 }}
passive = {{ max_fails = 1, fail_timeout = "1s" }}
servers = [
{}]

[[upstream]]
name = "reports"
servers = ["{report_server}"]

[[client]]
name = "alice"
match = {{ cn = "{ALICE}" }}
allow = ["web"]

[[client]]
name = "bob"
match = {{ cn = "{BOB}" }}
allow = ["web/web3"]

[[client]]
name = "greedy"
match = {{ cn = "{GREEDY}" }}
allow = ["web"]
rate_limit = {{ rate = 1, burst = {BURST} }}

[[client]]
name = "carol"
match = {{ cn = "{CAROL}" }}
allow = ["reports"]
"#,
        servers.concat()
    )
}
