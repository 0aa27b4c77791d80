//! Start-up log messages: version, listener addresses and the state of the upstreams.

use std::{sync::Arc, time::Duration};

use leastconn_server::{
    admin::Place,
    context::{Phase, ServerContext},
    process::notify,
    server::Server,
    upstream::Upstream,
};

/// How long to wait for the first health checks before logging the upstreams.
const FIRST_PROBES_TIMEOUT: Duration = Duration::from_secs(2);

/// Logs the version, the configuration file and all listening addresses. Returns whether it
/// has logged that the process is ready: with discovery, the process may become ready later.
pub fn announce(server: &Server) -> bool {
    let state = server.context().snapshot();
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        config = %state.config.path.display(),
        pid = std::process::id(),
        "starting leastconn-lb"
    );
    for (name, address) in server.addresses() {
        tracing::info!(listener = &**name, %address, "listening");
    }
    for (name, path) in server.paths() {
        let address = format!("unix:{}", path.display());
        tracing::info!(listener = &*name, address, "listening");
    }
    for place in server.admin_places() {
        match place {
            Place::Address(address) => {
                if cfg!(feature = "dashboard") {
                    let dashboard = format!("http://{address}/");
                    tracing::info!(listener = "admin", %address, dashboard, "listening");
                } else {
                    tracing::info!(listener = "admin", %address, "listening");
                }
                if !address.ip().is_loopback() {
                    tracing::warn!(%address, "admin address is not a loopback address: clients, servers and connections are visible to everyone who can reach it");
                }
            }
            Place::Socket(path) => {
                tracing::info!(listener = "admin", address = %path.display(), "listening");
            }
        }
    }
    let is_ready = server.context().lifecycle.phase() != Phase::Starting;
    if is_ready {
        tracing::info!("ready");
    } else {
        tracing::info!("waiting for servers to be discovered");
    }
    is_ready
}

/// Logs which servers are up after the first health checks. Runs as a separate task, so that it
/// does not delay the start.
pub async fn upstreams(context: Arc<ServerContext>) {
    let state = context.snapshot();
    state.first_probes(FIRST_PROBES_TIMEOUT).await;
    let (mut up, mut all) = (0, 0);
    for config in &state.config.upstreams {
        let Some(upstream) = state.upstreams.get(&config.id) else {
            continue;
        };
        let counts = ServerCounts::of(upstream);
        up += counts.up;
        all += counts.all;
        let servers_up = format!("{}/{}", counts.up, counts.all);
        let (upstream, down) = (&config.id, counts.down.join(" "));
        match (counts.up, counts.all) {
            _ if config.health_check.is_none() => {
                tracing::info!(%upstream, servers = counts.all, health_check = "none", "upstream not health-checked");
            }
            (0, _) => tracing::warn!(%upstream, servers_up, down, "upstream has no server up"),
            (up, all) if up == all => tracing::info!(%upstream, servers_up, "upstream up"),
            _ => tracing::warn!(%upstream, servers_up, down, "upstream has servers down"),
        }
    }
    let listeners = state.config.listeners.len();
    notify::status(&format!(
        "{listeners} listeners, servers up {up}/{all}, {}",
        state.config.path.display()
    ));
}

struct ServerCounts {
    up: usize,
    all: usize,
    down: Vec<String>,
}

impl ServerCounts {
    fn of(upstream: &Upstream) -> Self {
        let members = upstream.pool().members();
        let down = members
            .iter()
            .filter(|member| !member.server.status().is_up())
            .map(|member| member.server.id().to_string());
        let down: Vec<_> = down.collect();
        Self {
            up: members.len() - down.len(),
            all: members.len(),
            down,
        }
    }
}
