//! What is running and where, said once after the start.

use std::{sync::Arc, time::Duration};

use leastconn_server::{
    admin::Place, context::ServerContext, process::notify, server::Server, upstream::Upstream,
};

/// How long to wait for what is known of the servers.
const PATIENCE: Duration = Duration::from_secs(2);

/// Says what can be said at once: version, configuration, addresses.
pub fn announce(server: &Server) {
    let state = server.context().snapshot();
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        config = %state.config.path.display(),
        pid = std::process::id(),
        "leastconn-lb"
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
                let dashboard = format!("http://{address}/");
                tracing::info!(listener = "admin", %address, dashboard, "listening");
                if !address.ip().is_loopback() {
                    tracing::warn!(%address, "the admin address is not a loopback address: whoever reaches it sees clients, servers and connections");
                }
            }
            Place::Socket(path) => {
                tracing::info!(listener = "admin", address = %path.display(), "listening");
            }
        }
    }
    tracing::info!("ready");
}

/// Says which servers are up, once they have been probed. It delays nothing: whoever
/// waits is a task of its own.
pub async fn upstreams(context: Arc<ServerContext>) {
    let state = context.snapshot();
    state.first_probes(PATIENCE).await;
    let (mut up, mut all) = (0, 0);
    for config in &state.config.upstreams {
        let Some(upstream) = state.upstreams.get(&config.id) else {
            continue;
        };
        let found = Found::of(upstream);
        up += found.up;
        all += found.all;
        let servers_up = format!("{}/{}", found.up, found.all);
        let (upstream, down) = (&config.id, found.down.join(" "));
        match (found.up, found.all) {
            _ if config.health_check.is_none() => {
                tracing::info!(%upstream, servers = found.all, health_check = "none", "upstream");
            }
            (0, _) => tracing::warn!(%upstream, servers_up, down, "upstream: no server is up"),
            (up, all) if up == all => tracing::info!(%upstream, servers_up, "upstream"),
            _ => tracing::warn!(%upstream, servers_up, down, "upstream"),
        }
    }
    let listeners = state.config.listeners.len();
    notify::status(&format!(
        "{listeners} listeners, servers up {up}/{all}, {}",
        state.config.path.display()
    ));
}

struct Found {
    up: usize,
    all: usize,
    down: Vec<String>,
}

impl Found {
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
