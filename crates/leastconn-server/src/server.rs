//! The running server: start, drain and stop.

use std::{io, net::SocketAddr, path::Path, sync::Arc, time::Duration};

use leastconn::{Member, Reason, net};
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{MissedTickBehavior, interval, timeout},
};

use crate::{
    admin::{self, Admin},
    certificate_expiry,
    config::{Config, FileKind},
    connection::reaper,
    context::{Phase, ServerContext},
    control::Control,
    files,
    memory::{self, Watching},
    process::{inherited::Inherited, upgrade::channel::Unused},
    reload::{
        Reloader,
        file_watch::{Events, watch as watch_files},
    },
    snapshot::{Listener, ListenerTls, Snapshot},
    sockets::{Plan, PlanError, Sockets},
    telemetry::{
        Telemetry,
        access_log::AccessLog,
        metrics::{Dated, Observed},
    },
    tls::TlsError,
    upstream::UpstreamError,
};

/// How long connections may take to close after they were told to end.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// How long admin requests in progress may take when the process ends.
const ADMIN_TIMEOUT: Duration = Duration::from_millis(500);

/// The server could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Listener addresses cannot be bound.
    #[error("{}", each(.0))]
    Bind(Vec<PlanError>),
    /// Admin addresses cannot be bound.
    #[error("{}", each(.0))]
    Admin(Vec<admin::PlanError>),
    /// rustls rejects the configuration.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// An upstream cannot be started.
    #[error(transparent)]
    Upstream(#[from] UpstreamError),
    /// Another system call failed.
    #[error(transparent)]
    Io(#[from] io::Error),
}

fn each(errors: &[impl ToString]) -> String {
    let errors: Vec<_> = errors.iter().map(ToString::to_string).collect();
    errors.join("; ")
}

/// A server with bound sockets and running health checks that does not accept yet.
#[derive(Debug)]
pub struct Prepared {
    context: Arc<ServerContext>,
    sockets: Sockets,
    plan: Plan,
    admin: Admin,
    admin_plan: admin::Plan,
    thread: admin::Thread,
    watching: Watching,
}

/// A running balancer. Dropping it stops accepting.
#[derive(Debug)]
pub struct Server {
    context: Arc<ServerContext>,
    reloader: Arc<Reloader>,
    addresses: Vec<(Arc<str>, SocketAddr)>,
    _admin: admin::Thread,
    _watching: Watching,
    stop: watch::Sender<bool>,
    tasks: JoinSet<()>,
    /// Tasks that also run while connections are drained.
    _lasting: JoinSet<()>,
}

/// The result of draining.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drained {
    /// Connections that were still open at the end of the drain timeout.
    pub forced: usize,
}

impl Prepared {
    /// Binds all addresses that were not `inherited`, and starts health checks.
    ///
    /// # Errors
    /// If anything cannot be started; then nothing is left running.
    ///
    /// # Panics
    /// Outside a Tokio runtime.
    pub fn new(
        config: Config,
        log: AccessLog,
        inherited: &mut Inherited,
    ) -> Result<Self, StartError> {
        // Addresses first: they fail most often, and there is nothing to undo yet.
        let sockets = Sockets::default();
        let plan = sockets.plan(&config, inherited).map_err(StartError::Bind)?;
        let (admin, thread) = Admin::start()?;
        let admin_plan = admin.plan(&config, inherited).map_err(StartError::Admin)?;

        log.filter(config.log.access_filter);
        let telemetry = Arc::new(Telemetry::new(log));
        let mut snapshot = Snapshot::start(config)?;
        for config in &snapshot.config.listeners {
            let tls = ListenerTls::new(config, snapshot.config.process.tls_records)?;
            let listener = Listener::new(config, tls, &telemetry.metrics);
            let name = Arc::clone(&config.name);
            snapshot.listeners.insert(name, Arc::new(listener));
        }
        let context = Arc::new(ServerContext::new(snapshot, telemetry));
        let observed = ObservedContext(Arc::clone(&context));
        context.telemetry.metrics.observe(observed);
        if let Some(handover) = inherited.overrides() {
            context.overrides.take_over(handover);
        }
        let watching = memory::watch(&context.memory, &context.registry)?;
        Ok(Self {
            context,
            sockets,
            plan,
            admin,
            admin_plan,
            thread,
            watching,
        })
    }

    /// Process-wide handles.
    pub const fn context(&self) -> &Arc<ServerContext> {
        &self.context
    }

    /// Starts to accept connections. The admin side starts to accept with [`Server::begin`].
    ///
    /// # Errors
    /// If the admin side's thread cannot be started.
    ///
    /// # Panics
    /// Outside a Tokio runtime.
    pub fn open(self) -> Result<Server, StartError> {
        let Self {
            context,
            sockets,
            plan,
            admin,
            admin_plan,
            thread,
            watching,
        } = self;
        let reloader = Arc::new(Reloader::new(Arc::clone(&context), sockets, admin));
        reloader.sockets().apply(plan, &context);
        let addresses = reloader.addresses();
        let mut lasting = JoinSet::new();
        lasting.spawn(reaper::run(Arc::clone(&context)));
        lasting.spawn(certificate_expiry::watch(Arc::clone(&context)));
        lasting.spawn(watch_files(Arc::clone(&reloader), Events::new()));
        let mut server = Server {
            context,
            reloader,
            addresses,
            _admin: thread,
            _watching: watching,
            stop: watch::Sender::new(false),
            tasks: JoinSet::new(),
            _lasting: lasting,
        };
        let stop = server.stop.subscribe();
        let forget_idle = forget_idle(Arc::clone(&server.context), stop);
        server.tasks.spawn(forget_idle);
        server.context.lifecycle.enter(Phase::Ready);
        // Last: in an upgrade the predecessor, which is ready, answers meanwhile.
        let control = Arc::clone(&server.reloader);
        server
            .reloader
            .admin()
            .apply(admin_plan, &server.context, control);
        Ok(server)
    }
}

impl Server {
    /// Binds all addresses, starts health checks, and starts to accept connections.
    ///
    /// # Errors
    /// If anything cannot be started; then nothing is left running.
    ///
    /// # Panics
    /// Outside a Tokio runtime.
    pub fn start(config: Config, log: AccessLog) -> Result<Self, StartError> {
        let server = Prepared::new(config, log, &mut Inherited::none())?.open()?;
        server.begin();
        Ok(server)
    }

    /// This process is the service, and is who is asked.
    pub fn begin(&self) {
        self.context.overrides.begin();
        self.reloader.admin().begin();
        self.reloader.sockets().begin();
    }

    /// Process-wide handles.
    pub const fn context(&self) -> &Arc<ServerContext> {
        &self.context
    }

    /// Reloads the configuration.
    pub const fn reloader(&self) -> &Arc<Reloader> {
        &self.reloader
    }

    /// Each listener's name and its addresses as bound at the start, in the order of the
    /// configuration.
    pub fn addresses(&self) -> &[(Arc<str>, SocketAddr)] {
        &self.addresses
    }

    /// Each listener's name and the paths of its UNIX sockets.
    pub fn paths(&self) -> Vec<(Arc<str>, Arc<Path>)> {
        self.reloader.paths()
    }

    /// The bound admin address.
    pub fn admin_address(&self) -> Option<SocketAddr> {
        self.reloader.admin().address()
    }

    /// All addresses and sockets of the admin side.
    pub fn admin_places(&self) -> Vec<admin::Place> {
        self.reloader.admin().places()
    }

    /// Leaves the sockets to a successor that has copies of them. Sockets that it does not
    /// use are closed.
    pub async fn leave_to_another(&mut self, unused: &Unused) {
        // A load in progress relies on the current sockets.
        let files = self.reloader.hold_files().await;
        // The admin side first, so that no client of it is told that the service is not ready.
        let mut leaving = self.reloader.admin().leave(&unused.paths);
        self.context.lifecycle.enter(Phase::Replaced);
        leaving.extend(
            self.reloader
                .sockets()
                .leave(&unused.addresses, &unused.paths),
        );
        drop(files);
        for task in leaving {
            let _ = task.await;
        }
    }

    /// Stops accepting, waits until connections have ended, `limit` has passed or `hurry`
    /// completes, and ends the rest.
    pub async fn drain(mut self, limit: Duration, hurry: impl Future<Output = ()>) -> Drained {
        if !self.context.lifecycle.phase().is_last() {
            self.context.lifecycle.enter(Phase::Draining);
        }
        self.stop.send_replace(true);
        tokio::pin!(hurry);
        let start = net::now();
        let hurried = tokio::select! {
            // Clients in the backlog may have to wait for file descriptors.
            _ = timeout(limit.max(CLOSE_TIMEOUT), self.stop_accepting()) => false,
            () = &mut hurry => true,
        };
        let registry = Arc::clone(&self.context.registry);
        if !hurried {
            let left = limit.saturating_sub(net::now().saturating_duration_since(start));
            tokio::select! {
                _ = timeout(left, registry.wait_empty()) => {}
                () = hurry => {}
            }
        }
        let forced = registry.stop_all(Reason::Drained);
        let _ = timeout(CLOSE_TIMEOUT, registry.wait_empty()).await;
        let _ = timeout(ADMIN_TIMEOUT, self.answer()).await;
        Drained { forced }
    }

    /// Closes all sockets.
    async fn stop_accepting(&mut self) {
        // A reload in progress may hold the lock for a while. After it, none opens a socket.
        let reloader = Arc::clone(&self.reloader);
        let closing = tokio::task::spawn_blocking(move || reloader.sockets().close_all());
        for task in closing.await.unwrap_or_default() {
            let _ = task.await;
        }
        while self.tasks.join_next().await.is_some() {}
    }

    /// Completes admin requests in progress, and accepts no more.
    async fn answer(&self) {
        // A reload in progress may hold the lock for a while.
        let reloader = Arc::clone(&self.reloader);
        let closing = tokio::task::spawn_blocking(move || {
            let mut admin = reloader.admin();
            (admin.close(), admin.answered())
        });
        let Ok((tasks, answered)) = closing.await else {
            return;
        };
        for task in tasks {
            let _ = task.await;
        }
        answered.await;
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Here, because the thread of the admin side may not get to it before the process ends.
        if let Some(mut admin) = self.reloader.try_admin() {
            let _ = admin.close();
        }
    }
}

/// Removes idle clients and sources from the limiters every minute.
async fn forget_idle(context: Arc<ServerContext>, mut stop: watch::Receiver<bool>) {
    let mut tick = interval(Duration::from_secs(60));
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = stop.wait_for(|&stop| stop) => return,
            _ = tick.tick() => {
                let now = net::now();
                context.limiters.forget_idle(now);
                let snapshot = context.snapshot();
                let limits = snapshot.listeners.values().filter_map(|listener| listener.source_limit.as_ref());
                limits.for_each(|limit| limit.forget_idle(now));
            }
        }
    }
}

#[derive(Debug)]
struct ObservedContext(Arc<ServerContext>);

impl Observed for ObservedContext {
    fn servers(&self) -> Vec<(String, Member)> {
        let snapshot = self.0.snapshot();
        let upstreams = snapshot.config.upstreams.iter();
        let running = upstreams.filter_map(|upstream| snapshot.upstreams.get(&upstream.id));
        running
            .flat_map(|upstream| {
                let pool = upstream.pool();
                let id = pool.id().to_string();
                let members = pool.members();
                let members: Vec<_> = members.iter().map(|m| (id.clone(), m.clone())).collect();
                members
            })
            .collect()
    }

    fn departed_servers(&self) -> Vec<(String, String, u64)> {
        let snapshot = self.0.snapshot();
        let departed = snapshot.removed_servers.iter();
        departed
            .map(|(upstream, server)| {
                let connections = server.in_flight().into();
                (upstream.to_string(), server.id().to_string(), connections)
            })
            .collect()
    }

    fn upstreams(&self) -> Vec<(String, bool)> {
        let snapshot = self.0.snapshot();
        let configured = snapshot.config.upstreams.iter();
        let running = configured.filter_map(|upstream| snapshot.upstreams.get(&upstream.id));
        running
            .map(|upstream| {
                let pool = upstream.pool();
                (pool.id().to_string(), pool.is_panicking())
            })
            .collect()
    }

    fn dated(&self) -> Vec<Dated> {
        let snapshot = self.0.snapshot();
        let now = jiff::Timestamp::now();
        snapshot
            .config
            .certificate_files()
            .filter_map(|file| {
                let deciding = file.deciding(now)?;
                Some(Dated {
                    file: file.path.display().to_string(),
                    is_list: file.kind == FileKind::Lists,
                    ends: deciding.until.as_second(),
                    begins: deciding.from.as_second(),
                })
            })
            .collect()
    }

    fn old_processes(&self) -> Vec<u64> {
        let all = self.0.predecessors.list().into_iter();
        all.map(|(_, connections)| connections).collect()
    }

    fn lost_log_lines(&self) -> u64 {
        self.0.telemetry.access_log.lost()
    }

    fn blocked_seconds(&self) -> f64 {
        let blocked = files::blocked();
        blocked.map_or(0.0, |blocked| blocked.elapsed().as_secs_f64())
    }

    fn memory(&self) -> (u64, u64) {
        let usage = self.0.memory.usage();
        usage.map_or((0, 0), |usage| (usage.used, usage.limit))
    }

    fn is_ready(&self) -> bool {
        self.0.lifecycle.phase() == Phase::Ready
    }

    fn is_as_written(&self) -> bool {
        let last = self.0.lifecycle.last_reload();
        last.is_none_or(|reload| reload.reasons.is_empty())
    }
}
