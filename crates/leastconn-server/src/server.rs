//! Starts, drains and stops the balancer.

mod observed;

use std::{io, net::SocketAddr, path::Path, sync::Arc, time::Duration};

use leastconn::net;
use leastconn_config::Config;
use leastconn_tls::TlsError;
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{MissedTickBehavior, interval, timeout},
};

use crate::{
    admin::{self, Admin},
    certificate_expiry,
    connection::reaper,
    context::{FleetChange, Phase, ServerContext},
    control::Control,
    file_watch::Events,
    memory::{self, MemoryWatch},
    process::{inherited::Inherited, upgrade::channel::UnusedSockets},
    reason_code::ReasonCode,
    rebalance,
    reload::{Reloader, tls_watch},
    snapshot::{Listener, ListenerTls, Snapshot},
    sockets::{Plan, PlanError, Sockets},
    telemetry::{Telemetry, access_log::AccessLog},
    upstream::UpstreamError,
};
use observed::ObservedContext;

/// How long stopped connections may take to close.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// How long pending responses of the admin API may take after connections have been closed.
const RESPONSE_TIMEOUT: Duration = Duration::from_millis(500);

/// How long the process waits for the fleet's store before it exits. If the store does not answer,
/// the other members forget this process after `gone_after`.
const FLEET_LEAVE_TIMEOUT: Duration = Duration::from_millis(300);

/// Why the balancer could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Addresses of listeners cannot be bound.
    #[error("{}", join(.0))]
    Bind(Vec<PlanError>),
    /// The admin API cannot listen.
    #[error("{}", join(.0))]
    Admin(Vec<admin::PlanError>),
    /// The TLS settings of a listener are not usable.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// An upstream cannot be started.
    #[error(transparent)]
    Upstream(#[from] UpstreamError),
    /// Another system call failed.
    #[error(transparent)]
    Io(#[from] io::Error),
}

fn join(errors: &[impl ToString]) -> String {
    let errors: Vec<_> = errors.iter().map(ToString::to_string).collect();
    errors.join("; ")
}

/// A balancer with bound sockets and running health checks that does not accept connections yet.
#[derive(Debug)]
pub struct Prepared {
    context: Arc<ServerContext>,
    sockets: Sockets,
    plan: Plan,
    admin: Admin,
    admin_plan: admin::Plan,
    thread: admin::Thread,
    watching: MemoryWatch,
}

/// A running balancer. Dropping it stops accepting connections.
#[derive(Debug)]
pub struct Server {
    context: Arc<ServerContext>,
    reloader: Arc<Reloader>,
    addresses: Vec<(Arc<str>, SocketAddr)>,
    _admin: admin::Thread,
    _watching: MemoryWatch,
    stop: watch::Sender<bool>,
    /// Tasks that end when draining starts.
    tasks: JoinSet<()>,
    /// Tasks that also run while connections are drained.
    _background: JoinSet<()>,
}

/// The result of [`Server::drain`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drained {
    /// Connections that were closed at the end of the time limit.
    pub forced: usize,
}

impl Prepared {
    /// Binds all addresses that are not `inherited`, and starts health checks.
    ///
    /// # Errors
    /// If any part cannot be started. Parts that were already started are stopped again.
    ///
    /// # Panics
    /// If called outside a Tokio runtime.
    pub fn new(
        config: Config,
        log: AccessLog,
        inherited: &mut Inherited,
    ) -> Result<Self, StartError> {
        // Bind addresses first, because this step fails most often, and nothing has to be undone
        // yet.
        let sockets = Sockets::default();
        let plan = sockets.plan(&config, inherited).map_err(StartError::Bind)?;
        let (admin, thread) = Admin::start()?;
        let admin_plan = admin.plan(&config, inherited).map_err(StartError::Admin)?;

        log.set_filter(config.log.access_filter);
        let telemetry = Arc::new(Telemetry::new(log));
        let fleet = FleetChange::plan(None, config.fleet.as_ref())?;
        let mut snapshot = Snapshot::start_after(config, inherited.discovered())?;
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
            context.import_overrides(handover);
        }
        context.apply_fleet(fleet);
        context.start_discovery();
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

    pub const fn context(&self) -> &Arc<ServerContext> {
        &self.context
    }

    /// Begins to accept clients. The admin API answers after [`Server::activate`].
    ///
    /// # Panics
    /// If called outside a Tokio runtime.
    pub fn open(self) -> Server {
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
        let mut background = JoinSet::new();
        background.spawn(reaper::run(Arc::clone(&context)));
        background.spawn(rebalance::run(Arc::clone(&context)));
        background.spawn(certificate_expiry::watch(Arc::clone(&context)));
        background.spawn(tls_watch::watch(Arc::clone(&reloader), Events::new()));
        let mut server = Server {
            context,
            reloader,
            addresses,
            _admin: thread,
            _watching: watching,
            stop: watch::Sender::new(false),
            tasks: JoinSet::new(),
            _background: background,
        };
        let stop = server.stop.subscribe();
        let forget_idle = forget_idle(Arc::clone(&server.context), stop);
        server.tasks.spawn(forget_idle);
        if server.context.snapshot().is_waiting_for_servers() {
            let stop = server.stop.subscribe();
            let reloads = server.reloader.reloads();
            let waiting = wait_for_servers(Arc::clone(&server.context), reloads, stop);
            server.tasks.spawn(waiting);
        } else {
            server.context.lifecycle.finish_start();
        }
        // Open the admin API last: in an upgrade, the predecessor answers admin requests until
        // then.
        let control = Arc::clone(&server.reloader);
        server
            .reloader
            .admin()
            .apply(admin_plan, &server.context, control);
        server
    }
}

impl Server {
    /// Binds all addresses, starts health checks, and begins to accept.
    ///
    /// # Errors
    /// If any part cannot be started. Parts that were already started are stopped again.
    ///
    /// # Panics
    /// If called outside a Tokio runtime.
    pub fn start(config: Config, log: AccessLog) -> Result<Self, StartError> {
        let server = Prepared::new(config, log, &mut Inherited::none())?.open();
        server.activate();
        Ok(server)
    }

    /// Starts the service, or takes it over from a predecessor. From then on, this process answers
    /// the admin API, carries out overrides and owns the files of UNIX sockets.
    pub fn activate(&self) {
        self.context.overrides.activate();
        self.reloader.admin().begin();
        self.reloader.sockets().activate();
    }

    pub const fn context(&self) -> &Arc<ServerContext> {
        &self.context
    }

    pub const fn reloader(&self) -> &Arc<Reloader> {
        &self.reloader
    }

    /// Each listener's name and address as bound at the start, in the order of the
    /// configuration.
    pub fn addresses(&self) -> &[(Arc<str>, SocketAddr)] {
        &self.addresses
    }

    /// Each listener's name and the paths of its UNIX sockets.
    pub fn paths(&self) -> Vec<(Arc<str>, Arc<Path>)> {
        self.reloader.paths()
    }

    /// The bound TCP address of the admin API.
    pub fn admin_address(&self) -> Option<SocketAddr> {
        self.reloader.admin().address()
    }

    /// All addresses and sockets of the admin API.
    pub fn admin_places(&self) -> Vec<admin::Place> {
        self.reloader.admin().places()
    }

    /// Hands the sockets over to a successor process, which accepts from copies of them. Closes the
    /// sockets in `unused`.
    pub async fn hand_over(&mut self, unused: &UnusedSockets) {
        // Wait for a reload in progress, which depends on the current sockets.
        let files = self.reloader.hold_files().await;
        // Leave the admin sockets before the phase changes, so that the admin API never reports
        // that the service is not ready.
        let mut leaving = self.reloader.admin().leave(&unused.paths);
        self.context.lifecycle.enter(Phase::Replaced);
        self.context.member.begin_leaving();
        leaving.extend(
            self.reloader
                .sockets()
                .hand_over(&unused.addresses, &unused.paths),
        );
        drop(files);
        for task in leaving {
            let _ = task.await;
        }
    }

    /// Stops accepting, waits for connections to end until `limit` has passed or `hurry` completes,
    /// and closes the remaining connections.
    pub async fn drain(mut self, limit: Duration, hurry: impl Future<Output = ()>) -> Drained {
        self.context.lifecycle.set_drain_limit(limit);
        if !self.context.lifecycle.phase().is_last() {
            self.context.lifecycle.enter(Phase::Draining);
        }
        self.context.member.begin_leaving();
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
        let forced = registry.stop_all(ReasonCode::Drained);
        let _ = timeout(CLOSE_TIMEOUT, registry.wait_empty()).await;
        self.context.member.stop(FLEET_LEAVE_TIMEOUT).await;
        let _ = timeout(RESPONSE_TIMEOUT, self.close_admin()).await;
        Drained { forced }
    }

    /// Closes the listening sockets, and waits for the tasks that use them.
    async fn stop_accepting(&mut self) {
        // A reload in progress finishes first and may hold the lock for a long time. Later reloads
        // open no sockets.
        let reloader = Arc::clone(&self.reloader);
        let closing = tokio::task::spawn_blocking(move || reloader.sockets().close_all());
        for task in closing.await.unwrap_or_default() {
            let _ = task.await;
        }
        while self.tasks.join_next().await.is_some() {}
    }

    /// Closes the admin API after the pending requests are answered.
    async fn close_admin(&self) {
        // A reload in progress may hold the lock for a long time.
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
        // Close here: the admin thread may not run again before the process ends.
        if let Some(mut admin) = self.reloader.try_admin() {
            let _ = admin.close();
        }
    }
}

/// Finishes the start when all sources of servers have answered. Checks again after each reload,
/// because a reload may change the sources.
async fn wait_for_servers(
    context: Arc<ServerContext>,
    mut reloads: watch::Receiver<u64>,
    mut stop: watch::Receiver<bool>,
) {
    loop {
        let snapshot = context.snapshot();
        tokio::select! {
            _ = stop.wait_for(|&stop| stop) => return,
            () = snapshot.first_answers() => {}
            Ok(()) = reloads.changed() => {}
        }
        if !context.snapshot().is_waiting_for_servers() {
            context.lifecycle.finish_start();
            return;
        }
    }
}

/// Removes idle clients and sources from the limiters once a minute.
async fn forget_idle(context: Arc<ServerContext>, mut stop: watch::Receiver<bool>) {
    let mut tick = interval(Duration::from_secs(60));
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = stop.wait_for(|&stop| stop) => return,
            _ = tick.tick() => {
                let now = net::now();
                context.clients.limiters().forget_idle(now);
                let snapshot = context.snapshot();
                let limits = snapshot.listeners.values().filter_map(|listener| listener.source_limit.as_ref());
                limits.for_each(|limit| limit.forget_idle(now));
            }
        }
    }
}
