//! What the demo plays on: certificates, servers, the balancer.

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

use super::{Trouble, client::Client, web::Web};
use crate::pki::{self, Authority, Leaf, Overwrite};
use leastconn_server::{
    config, logging,
    server::Server,
    telemetry::access_log::{AccessLog, Flusher},
};

/// Who plays.
pub(super) const ALICE: &str = "alice.demo";
pub(super) const BOB: &str = "bob.demo";
pub(super) const GREEDY: &str = "greedy.demo";
pub(super) const CAROL: &str = "carol.demo";
pub(super) const STRANGER: &str = "stranger.demo";
pub(super) const MALLORY: &str = "mallory.demo";

/// Connections that `greedy` may open at once.
pub(super) const BURST: usize = 20;

/// The demo's files. There are keys among them, so they go however it ends, by a panic
/// too.
pub(super) struct Directory(PathBuf);

impl Directory {
    fn make() -> Result<Self, Trouble> {
        let dir = std::env::temp_dir().join(format!("leastconn-demo-{}", std::process::id()));
        fs::create_dir(&dir).map_err(|error| format!("cannot make {}: {error}", dir.display()))?;
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

pub(super) struct Stage {
    pub(super) webs: Vec<Web>,
    pub(super) server: Server,
    pub(super) balancer: SocketAddr,
    pub(super) dashboard: SocketAddr,
    clients: HashMap<&'static str, Client>,
    _log: Flusher,
    /// Goes last, when nobody writes into it any more.
    pub(super) dir: Directory,
}

impl Stage {
    pub(super) async fn set() -> Result<Self, Trouble> {
        let directory = Directory::make()?;
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
        let config = config::load(&path)
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

    pub(super) fn client(&self, name: &str) -> Result<Client, Trouble> {
        self.clients
            .get(name)
            .cloned()
            .ok_or_else(|| format!("nobody is called {name}").into())
    }

    /// Connections per server now, in the servers' order.
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

    /// Access log lines so far.
    pub(super) fn log(&self) -> Vec<Value> {
        let text = fs::read_to_string(self.dir.join("access.log")).unwrap_or_default();
        text.lines()
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect()
    }

    /// What the access log says of the connection from `source`, once it says it.
    pub(super) async fn outcome(&self, source: SocketAddr) -> Option<Value> {
        let source = source.to_string();
        let look = async {
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
        timeout(Duration::from_secs(3), look).await.ok()
    }

    pub(super) async fn strike(self) {
        self.server
            .drain(Duration::ZERO, std::future::ready(()))
            .await;
        for web in &self.webs {
            web.die().await;
        }
    }
}

fn certificates(dir: &Path) -> Result<(), Trouble> {
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
    let write = |authority: &Authority, file: &str, leaf: &Leaf| -> Result<(), Trouble> {
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
    let elsewhere = Authority::create("somebody else's CA", 2)?;
    write(&elsewhere, MALLORY, &leaf(MALLORY, pki::Usage::Client))
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
    let elsewhere = webs
        .first()
        .map_or_else(String::new, |web| web.address.to_string());
    format!(
        r#"# The demo's configuration: read like any other.
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
servers = ["{elsewhere}"]

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
