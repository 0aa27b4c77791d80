//! The running balancer: put together, told to stop, waited for.

use std::{collections::HashMap, net::SocketAddr, sync::Arc, time::Duration};

use leastconn::{Limiter, Member, Reason, net};
use tokio::{
    sync::{Semaphore, watch},
    task::JoinSet,
    time::{MissedTickBehavior, interval, timeout},
};

use crate::{
    accept::{self, BindError, Gate},
    access_log::AccessLog,
    admin,
    config::Config,
    descriptors,
    listener::Listener,
    live::Registry,
    metrics::{Metrics, Observed},
    record::Books,
    shared::{Phase, Shared},
    state::State,
    tls::TlsError,
    upstream::UpstreamError,
};

/// Clients that are not idle and can be kept count of.
const MAX_CLIENTS: usize = 1 << 21;

/// How long connections may take to wind up once they were told to end.
const WIND_UP: Duration = Duration::from_secs(2);

/// The balancer could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An address is not to be had.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// TLS refuses what was configured.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// An upstream cannot be.
    #[error(transparent)]
    Upstream(#[from] UpstreamError),
    /// The operating system refuses something else.
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

/// A running balancer. Dropping it stops accepting.
#[derive(Debug)]
pub struct Server {
    shared: Arc<Shared>,
    addresses: Vec<(Arc<str>, SocketAddr)>,
    admin: Option<admin::Admin>,
    stop: watch::Sender<bool>,
    tasks: JoinSet<()>,
}

/// How stopping went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drained {
    /// Connections that had to be cut off.
    pub forced: usize,
}

impl Server {
    /// Binds all addresses, starts health checks, and begins to accept.
    ///
    /// # Errors
    /// If anything cannot be started; then nothing is left running.
    ///
    /// # Panics
    /// Outside a Tokio runtime.
    pub fn start(config: Config, log: AccessLog) -> Result<Self, StartError> {
        // Addresses first: the most likely trouble, and nothing to undo yet.
        let mut sockets = Vec::new();
        for listener in &config.listeners {
            for &address in &listener.binds {
                let only_v6 = has_v4_sibling(&config, address);
                let socket = accept::bind(&listener.name, address, only_v6, listener.keepalive)?;
                sockets.push((Arc::clone(&listener.name), socket));
            }
        }
        let admin = config
            .admin
            .as_ref()
            .map(|admin| accept::bind("admin", admin.bind, false, None))
            .transpose()?;

        let process = config.process.clone();
        let state = Arc::new(State::start(config)?);
        let registry = Arc::new(Registry::default());
        let books = Books {
            metrics: Arc::new(Metrics::new()),
            log,
        };
        let shared = Arc::new(Shared::new(
            Arc::clone(&state),
            Arc::clone(&registry),
            books.clone(),
        ));
        books.metrics.observe(Seen(Arc::clone(&shared)));

        let gate = Gate {
            connections: Arc::new(Semaphore::new(descriptors::max_connections(
                process.max_connections,
            ))),
            registry,
            books,
        };
        let handshakes = Arc::new(Semaphore::new(process.max_handshakes.get()));
        let limiter = Arc::new(Limiter::new(MAX_CLIENTS, net::now()));
        let mut listeners = HashMap::new();
        for config in &state.config.listeners {
            let listener = Listener::new(
                config,
                Arc::clone(&state),
                &gate.books.metrics,
                Arc::clone(&handshakes),
                Arc::clone(&limiter),
            )?;
            listeners.insert(Arc::clone(&config.name), Arc::new(listener));
        }

        let mut server = Self {
            shared,
            addresses: Vec::new(),
            admin: None,
            stop: watch::Sender::new(false),
            tasks: JoinSet::new(),
        };
        if let Some(socket) = admin {
            server.admin = Some(admin::Admin::start(socket, Arc::clone(&server.shared))?);
        }
        for (name, socket) in sockets {
            server
                .addresses
                .push((Arc::clone(&name), socket.local_addr()?));
            let socket = tokio::net::TcpListener::from_std(socket)?;
            let listener = Arc::clone(&listeners[&name]);
            server.tasks.spawn(accept::accept(
                socket,
                listener,
                gate.clone(),
                server.stop.subscribe(),
            ));
        }
        server
            .tasks
            .spawn(forget_idle_clients(limiter, server.stop.subscribe()));
        server.shared.enter(Phase::Ready);
        Ok(server)
    }

    /// What the admin side sees.
    pub const fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Each listener's name and bound address, in the configuration's order.
    pub fn addresses(&self) -> &[(Arc<str>, SocketAddr)] {
        &self.addresses
    }

    /// The bound admin address.
    pub fn admin_address(&self) -> Option<SocketAddr> {
        self.admin.as_ref().map(admin::Admin::address)
    }

    /// Stops accepting, waits up to `limit` for connections to end by
    /// themselves, or until `hurry` completes, and cuts off the rest.
    pub async fn drain(mut self, limit: Duration, hurry: impl Future<Output = ()>) -> Drained {
        self.shared.enter(Phase::Draining);
        self.stop.send_replace(true);
        // The listening sockets are closed once their tasks have ended.
        while self.tasks.join_next().await.is_some() {}
        let registry = Arc::clone(&self.shared.registry);
        tokio::select! {
            _ = timeout(limit, registry.wait_empty()) => {}
            () = hurry => {}
        }
        let forced = registry.stop_all(Reason::Drained);
        let _ = timeout(WIND_UP, registry.wait_empty()).await;
        Drained { forced }
    }
}

/// Whether an IPv6 wildcard address has an IPv4 one of the same port beside it,
/// which it must leave IPv4 connections to.
fn has_v4_sibling(config: &Config, address: SocketAddr) -> bool {
    let mut all = config.listeners.iter().flat_map(|listener| &listener.binds);
    all.any(|other| other.is_ipv4() && other.port() == address.port() && other.port() != 0)
}

async fn forget_idle_clients(limiter: Arc<Limiter>, mut stop: watch::Receiver<bool>) {
    let mut tick = interval(Duration::from_secs(60));
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = stop.wait_for(|&stop| stop) => return,
            _ = tick.tick() => limiter.forget_idle(net::now()),
        }
    }
}

#[derive(Debug)]
struct Seen(Arc<Shared>);

impl Observed for Seen {
    fn servers(&self) -> Vec<(String, Member)> {
        let upstreams = &self.0.state.config.upstreams;
        let running = upstreams
            .iter()
            .filter_map(|upstream| self.0.state.upstreams.get(&upstream.id));
        running
            .flat_map(|upstream| {
                let pool = upstream.pool();
                let id = pool.id().to_string();
                pool.members()
                    .iter()
                    .map(move |member| (id.clone(), member.clone()))
            })
            .collect()
    }

    fn certificates(&self) -> Vec<(String, i64)> {
        let config = &self.0.state.config;
        let listeners = config.listeners.iter().flat_map(|listener| &listener.tls);
        let upstreams = config.upstreams.iter().flat_map(|upstream| &upstream.tls);
        let mut files: Vec<_> = listeners
            .flat_map(|tls| &tls.material.files)
            .chain(upstreams.flat_map(|tls| &tls.material.files))
            .map(|file| (file.path.display().to_string(), file.not_after.as_second()))
            .collect();
        // The same file in two tables is one series.
        files.sort();
        files.dedup();
        files
    }

    fn lost_log_lines(&self) -> u64 {
        self.0.books.log.lost()
    }
}
