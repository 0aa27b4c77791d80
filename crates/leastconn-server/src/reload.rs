//! Reloading the configuration.
//!
//! All steps that can fail come first: files are read and checked, TLS configurations are
//! built, log files opened, addresses bound. Then the difference is applied in steps that
//! cannot fail. If any step fails, nothing has changed.
//!
//! Reloads run on blocking threads, not on the workers: reading 100,000 rules takes a second.
//! Files are read first, without any lock, and abandoned if they block (`files`); applying
//! the result reads no file.

pub(crate) mod file_watch;
mod files;

use std::{
    collections::{HashMap, HashSet},
    net::SocketAddr,
    path::Path,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use jiff::Timestamp;
use parking_lot::{Mutex, MutexGuard};
use tokio::{
    runtime::Handle,
    sync::{Notify, OwnedMutexGuard, watch},
};

use crate::{
    admin::{self, Admin},
    client_chain::RevokedNames,
    config::{self, Config, Format, Loaded, Problems},
    connection::reauthorize::{log_ended, reauthorize_all},
    context::{LastReload, Phase, ServerContext},
    control::Control,
    files::Lane,
    overrides::Replaced,
    process::{inherited::Inherited, notify},
    snapshot::{Listener, ListenerTls, Snapshot, SnapshotHandle},
    sockets::{Addresses, Changes, Sockets},
    telemetry::access_log::{self, AccessLog},
};

const NOT_RELOADED: &str =
    "the configuration was NOT reloaded; nothing has changed, and the one before goes on";

/// Reloads the configuration of a running server.
#[derive(Debug)]
pub struct Reloader {
    context: Arc<ServerContext>,
    sockets: Mutex<Sockets>,
    addresses: Addresses,
    admin: Mutex<Admin>,
    /// The runtime of connections.
    runtime: Handle,
    /// One reload or file load at a time.
    turn: tokio::sync::Mutex<()>,
    /// Held while sockets may change, or must not change.
    sockets_turn: Arc<tokio::sync::Mutex<()>>,
    /// Whether a requested reload has not started yet: it covers later requests.
    waiting: AtomicBool,
    /// The lane that reads the configuration.
    reading: Lane,
    /// The lanes that read the files of each `tls` table.
    reading_tls: Mutex<HashMap<files::Owner, Arc<Lane>>>,
    /// The errors of changed files that were logged last.
    bad_files: Mutex<Vec<String>>,
    /// Notified when a configuration was applied.
    applied: Notify,
    /// How often the whole configuration was reloaded and applied.
    reloads: watch::Sender<u64>,
}

/// An applied configuration, and the changes to sockets.
#[derive(Debug)]
struct Applied {
    snapshot: Arc<Snapshot>,
    sockets: Changes,
    admin: admin::Changes,
    /// Whether the process accepts connections.
    serving: bool,
}

/// Why a configuration was not applied.
#[derive(Debug)]
enum Rejected {
    Problems(Problems),
    Reasons(Vec<String>),
}

impl Rejected {
    fn lines(&self) -> Vec<String> {
        match self {
            Self::Problems(problems) => problems.error_lines().collect(),
            Self::Reasons(reasons) => reasons.clone(),
        }
    }
}

impl<E: std::error::Error> From<E> for Rejected {
    fn from(error: E) -> Self {
        Self::Reasons(vec![error.to_string()])
    }
}

/// A configuration that was read and checked.
#[derive(Debug)]
struct Read {
    config: Config,
    /// The access log, if it is written elsewhere than before.
    next_log: Option<access_log::Prepared>,
}

impl From<Config> for Read {
    /// A configuration that differs from the running one only in the contents of its files.
    fn from(config: Config) -> Self {
        Self {
            config,
            next_log: None,
        }
    }
}

/// Reads the configuration, and opens its access log if the path has changed.
fn read(running: &Config, log: &AccessLog) -> Result<Read, Rejected> {
    let Loaded {
        config, warnings, ..
    } = config::load_again(running).map_err(Rejected::Problems)?;
    warn(&warnings);
    let moved = config.log.access != running.log.access;
    let next_log = moved.then(|| log.prepare(&config.log.access)).transpose()?;
    Ok(Read { config, next_log })
}

/// Addresses cannot be bound.
fn unavailable(errors: Vec<impl ToString>) -> Rejected {
    Rejected::Reasons(errors.iter().map(ToString::to_string).collect())
}

impl Reloader {
    /// For the balancer that `context` shows, with the `sockets` and the admin side
    /// that it has.
    ///
    /// # Panics
    /// Outside the runtime of connections.
    pub fn new(context: Arc<ServerContext>, sockets: Sockets, admin: Admin) -> Self {
        Self {
            context,
            addresses: sockets.addresses(),
            sockets: Mutex::new(sockets),
            admin: Mutex::new(admin),
            runtime: Handle::current(),
            turn: tokio::sync::Mutex::default(),
            sockets_turn: Arc::default(),
            waiting: AtomicBool::new(false),
            reading: Lane::default(),
            reading_tls: Mutex::default(),
            bad_files: Mutex::default(),
            applied: Notify::new(),
            reloads: watch::Sender::default(),
        }
    }

    /// The sockets.
    pub fn sockets(&self) -> MutexGuard<'_, Sockets> {
        self.sockets.lock()
    }

    /// The admin side.
    pub fn admin(&self) -> MutexGuard<'_, Admin> {
        self.admin.lock()
    }

    /// The admin side, unless it is locked.
    pub(crate) fn try_admin(&self) -> Option<MutexGuard<'_, Admin>> {
        self.admin.try_lock()
    }

    /// The running configuration.
    pub(crate) fn snapshots(&self) -> &SnapshotHandle {
        &self.context.snapshots
    }

    /// Waits until a configuration has been applied since the last call. For one task.
    pub(crate) async fn applied(&self) {
        self.applied.notified().await;
    }

    /// Changes whenever the whole configuration was reloaded and applied.
    pub fn reloads(&self) -> watch::Receiver<u64> {
        self.reloads.subscribe()
    }

    /// Whether a connection is open that a reload could affect.
    pub fn has_open(&self) -> bool {
        self.context.registry.open() > 0
    }

    /// Reloads in the background. Requests before it starts are merged into one reload.
    pub fn request(self: &Arc<Self>) {
        if self.waiting.swap(true, Ordering::AcqRel) {
            return;
        }
        let this = Arc::clone(self);
        self.runtime.spawn(async move {
            // If a successor has taken over meanwhile, it has reloaded and told this process,
            // which may have merged that request into this one.
            if Self::reload(&this).await.is_err() && this.has_open() {
                let _ = Self::reload(&this).await;
            }
        });
    }

    /// Reads and checks the configuration, and applies the difference. Waits for a reload in
    /// progress.
    ///
    /// # Errors
    /// If a successor has taken over meanwhile: ask it instead.
    ///
    /// # Cancel safety
    /// If the future is dropped, the reload still runs.
    pub async fn reload(self: &Arc<Self>) -> Result<LastReload, Replaced> {
        let this = Arc::clone(self);
        // In its own task: the caller may go away, and the lock must be held until the end.
        let reloading = self
            .runtime
            .spawn(async move { this.reload_in_turn().await });
        reloading.await.unwrap_or_else(|_| Ok(self.fault()))
    }

    async fn reload_in_turn(self: &Arc<Self>) -> Result<LastReload, Replaced> {
        let was_replaced = self.context.lifecycle.phase() == Phase::Replaced;
        let _sockets = self.sockets_turn.lock().await;
        let _turn = self.turn.lock().await;
        self.waiting.store(false, Ordering::Release);
        let phase = self.context.lifecycle.phase();
        if phase == Phase::Replaced && !was_replaced {
            // ConnectionFilter reads it all the same, and tells this one.
            return Err(Replaced);
        }
        let serving = !phase.is_last();
        if serving {
            notify::reloading();
        }
        let running = self.context.snapshot();
        let log = self.context.telemetry.access_log.clone();
        let reading = move || read(&running.config, &log);
        let read = self.reading.run(reading).await;
        let this = Arc::clone(self);
        // On the runtime of connections: tasks that it spawns belong there.
        let done = self.runtime.spawn_blocking(move || {
            let applied = read.map_err(Rejected::from).flatten();
            let applied = applied.and_then(|read| this.apply(read));
            let rejected = applied.map(|applied| announce(&applied)).err();
            this.conclude(rejected.as_ref(), NOT_RELOADED)
        });
        let reload = done.await.unwrap_or_else(|_| self.fault());
        if reload.reasons.is_empty() {
            self.reloads.send_modify(|reloads| *reloads += 1);
        }
        if serving {
            // Also after a rejected reload the server is ready.
            notify::ready();
        }
        Ok(reload)
    }

    /// Reports a panic during a reload. Its message has been logged.
    fn fault(&self) -> LastReload {
        let fault = "a fault in the balancer itself: please report it";
        let rejected = Rejected::Reasons(vec![fault.to_owned()]);
        self.conclude(Some(&rejected), NOT_RELOADED)
    }

    /// Delays reloads until the guard is dropped. Changed TLS files are still loaded.
    pub async fn pause(&self) -> OwnedMutexGuard<()> {
        Arc::clone(&self.sockets_turn).lock_owned().await
    }

    /// Logs and stores the result.
    fn conclude(&self, rejected: Option<&Rejected>, consequence: &str) -> LastReload {
        let reasons = rejected.map(Rejected::lines).unwrap_or_default();
        if let Some(rejected) = rejected {
            let format = self.context.snapshot().config.log.format;
            match rejected {
                // As `check` prints it.
                Rejected::Problems(problems) if format == Format::Text => {
                    eprint!("{}", problems.render(config::stderr_has_colours()));
                }
                _ => reasons
                    .iter()
                    .for_each(|reason| tracing::error!("{reason}")),
            }
            tracing::error!("{consequence}");
        }
        let reload = LastReload {
            time: Timestamp::now(),
            reasons,
        };
        self.context.reload_finished(reload.clone());
        reload
    }

    /// Applies a checked configuration. Reads no file.
    fn apply(self: &Arc<Self>, read: Read) -> Result<Applied, Rejected> {
        let Read { config, next_log } = read;
        let context = &self.context;
        let current = context.snapshot();
        let mut tls = HashMap::new();
        for listener in &config.listeners {
            let records = config.process.tls_records;
            let made = match current.listener(&listener.name) {
                Some(earlier) => earlier.next_tls(&current.config, listener, records),
                None => ListenerTls::new(listener, records),
            };
            tls.insert(Arc::clone(&listener.name), made?);
        }
        // While this lock is held, draining does not begin.
        let mut sockets = self.sockets();
        // Otherwise the sockets belong to another process or are closed, and only open
        // connections are affected.
        let serving = !context.lifecycle.phase().is_last();
        let frozen = needs_restart(&current.config, &config);
        if serving && !frozen.is_empty() {
            return Err(Rejected::Reasons(frozen));
        }
        let plan = serving.then(|| sockets.plan(&config, &mut Inherited::none()));
        let plan = plan.transpose().map_err(unavailable)?;
        let mut admin = self.admin();
        let admin_plan = serving.then(|| admin.plan(&config, &mut Inherited::none()));
        let admin_plan = admin_plan.transpose().map_err(unavailable)?;
        let mut next = current.succeed(config)?;

        // Nothing below can fail.
        let pruning = context.prune_metrics();
        self.add_listeners(&current, &mut next, tls, &mut sockets);
        current.stop_checks_for(&next);
        let snapshot = context.overrides.install(&current, next);
        drop(pruning);
        let sockets_changes = plan.map(|plan| sockets.apply(plan, context));
        let control = Arc::clone(self);
        let admin_changes = admin_plan.map(|plan| admin.apply(plan, context, control));
        drop((sockets, admin));
        if let Some(next) = next_log {
            context.telemetry.access_log.switch(next);
        }
        let filter = snapshot.config.log.access_filter;
        context.telemetry.access_log.filter(filter);
        if current.config.process != snapshot.config.process {
            context.resize(&snapshot.config.process);
        }
        self.reauthorize(&current.config);
        self.applied.notify_one();
        Ok(Applied {
            snapshot,
            sockets: sockets_changes.unwrap_or_default(),
            admin: admin_changes.unwrap_or_default(),
            serving,
        })
    }

    /// Re-authorizes all open connections under the running configuration.
    fn reauthorize(&self, earlier: &Config) {
        let snapshot = self.context.snapshot();
        let mut revoked = RevokedNames::default();
        for listener in &snapshot.config.listeners {
            let before = earlier.listener(&listener.name);
            let before = before.and_then(|before| before.tls.as_ref());
            if let Some(tls) = &listener.tls
                && before.is_none_or(|before| {
                    before.settings.material.crls != tls.settings.material.crls
                })
            {
                let crls = tls.settings.material.crls.lists().iter();
                crls.for_each(|crl| revoked.add(&crl.list));
            }
        }
        let (registry, metrics) = (&self.context.registry, &self.context.telemetry.metrics);
        log_ended(&reauthorize_all(registry, &snapshot, metrics, &revoked));
    }

    /// Adds the listeners of `next`, and those that were removed but still have
    /// connections.
    fn add_listeners(
        &self,
        current: &Snapshot,
        next: &mut Snapshot,
        mut tls: HashMap<Arc<str>, Option<ListenerTls>>,
        sockets: &mut Sockets,
    ) {
        let metrics = &self.context.telemetry.metrics;
        for config in &next.config.listeners {
            let tls = tls.remove(&config.name).flatten();
            let listener = match current.listener(&config.name) {
                Some(earlier) => earlier.succeed(config, tls, metrics),
                None => Listener::new(config, tls, metrics),
            };
            let name = Arc::clone(&config.name);
            next.listeners.insert(name, Arc::new(listener));
        }
        // Sockets before connections: what an accept loop accepts last is registered
        // before the loop ends.
        let leaving = sockets.leaving();
        let open: HashSet<_> = {
            let open = self.context.registry.list();
            open.iter()
                .map(|handle| Arc::clone(&handle.listener))
                .collect()
        };
        let still_used = current
            .removed_listeners
            .iter()
            .filter(|(name, _)| leaving.contains(*name) || open.contains(*name));
        next.removed_listeners = current
            .listeners
            .iter()
            .chain(still_used)
            .filter(|(name, _)| !next.listeners.contains_key(*name))
            .map(|(name, listener)| (Arc::clone(name), Arc::clone(listener)))
            .collect();
    }
}

impl Control for Reloader {
    fn addresses(&self) -> Vec<(Arc<str>, SocketAddr)> {
        self.addresses.now().to_vec()
    }

    fn paths(&self) -> Vec<(Arc<str>, Arc<Path>)> {
        self.addresses.paths().to_vec()
    }

    fn max_connections(&self) -> usize {
        self.context.slots.max()
    }

    fn runtime(&self) -> &Handle {
        &self.runtime
    }

    fn reload(
        self: Arc<Self>,
    ) -> Pin<Box<dyn Future<Output = Result<LastReload, Replaced>> + Send>> {
        Box::pin(async move { Self::reload(&self).await })
    }
}

/// Changed keys that need a restart.
fn needs_restart(running: &Config, new: &Config) -> Vec<String> {
    let mut all = Vec::new();
    let mut compare = |key: &str, differs: bool| {
        if differs {
            all.push(format!(
                "`{key}` was changed, which needs a restart: nothing else of this configuration is applied before"
            ));
        }
    };
    let (from, to) = (&running.process, &new.process);
    compare(
        "process.workers",
        from.workers != to.workers && !(from.auto_workers && to.auto_workers),
    );
    compare("process.sandbox", from.sandbox != to.sandbox);
    all
}

fn warn(warnings: &Problems) {
    for warning in warnings.bare_lines() {
        tracing::warn!("{warning}");
    }
}

fn announce(applied: &Applied) {
    let (snapshot, sockets, admin) = (&applied.snapshot, &applied.sockets, &applied.admin);
    if !applied.serving {
        tracing::info!(
            "reloaded: the connections that are still open are under the new configuration"
        );
        return;
    }
    for (listener, address) in &sockets.closed {
        tracing::info!(listener = &**listener, %address, "no longer listening");
    }
    for address in &admin.closed {
        tracing::info!(listener = admin::NAME, %address, "no longer listening");
    }
    for address in &admin.opened {
        tracing::info!(listener = admin::NAME, %address, "listening");
    }
    for (listener, path) in &sockets.unix_closed {
        tracing::info!(
            listener = &**listener,
            address = format!("unix:{}", path.display()),
            "no longer listening"
        );
    }
    for (listener, path) in &sockets.unix_opened {
        tracing::info!(
            listener = &**listener,
            address = format!("unix:{}", path.display()),
            "listening"
        );
    }
    for (listener, address) in &sockets.opened {
        tracing::info!(listener = &**listener, %address, "listening");
    }
    tracing::info!(
        listeners = snapshot.config.listeners.len(),
        upstreams = snapshot.config.upstreams.len(),
        clients = snapshot.config.clients.len(),
        "reloaded: the new configuration is in force"
    );
}
