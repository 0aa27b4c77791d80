//! Runs reloads, one at a time.

use std::{
    collections::HashMap,
    net::SocketAddr,
    path::Path,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use jiff::Timestamp;
use leastconn_config::{Format, files::Lane};
use parking_lot::{Mutex, MutexGuard};
use tokio::{
    runtime::Handle,
    sync::{Notify, OwnedMutexGuard, watch},
};

use super::{outcome::Rejected, read::read, tls_table::TlsOwner};
use crate::{
    admin::Admin,
    context::{LastReload, Phase, ServerContext},
    control::Control,
    overrides::Replaced,
    process::notify,
    snapshot::SnapshotHandle,
    sockets::{Addresses, Sockets},
};

const NOT_RELOADED: &str = "reload rejected, previous configuration kept";

/// Reloads the configuration of a running server.
#[derive(Debug)]
pub struct Reloader {
    pub(super) context: Arc<ServerContext>,
    sockets: Mutex<Sockets>,
    addresses: Addresses,
    admin: Mutex<Admin>,
    /// The Tokio runtime that serves client connections.
    runtime: Handle,
    /// Held during a reload and while TLS files are loaded, so that only one of these runs at a
    /// time.
    pub(super) reload_lock: tokio::sync::Mutex<()>,
    /// Held while sockets may change, and while they must not change. Taken before `reload_lock`.
    sockets_lock: Arc<tokio::sync::Mutex<()>>,
    /// Whether a reload was requested and has not started yet. Requests that arrive before it
    /// starts are merged into it.
    is_requested: AtomicBool,
    /// The lane that reads the configuration.
    config_lane: Lane,
    /// The lanes that read the files of each `tls` table.
    pub(super) tls_lanes: Mutex<HashMap<TlsOwner, Arc<Lane>>>,
    /// The errors of changed files that were logged last.
    pub(super) file_errors: Mutex<Vec<String>>,
    /// Notified when a configuration has been applied.
    pub(super) applied: Notify,
    /// How often the whole configuration has been reloaded and applied.
    reloads: watch::Sender<u64>,
}

impl Reloader {
    /// Creates the reloader of the server with this `context`, `sockets` and `admin` side.
    ///
    /// # Panics
    /// If called outside the runtime of connections.
    pub fn new(context: Arc<ServerContext>, sockets: Sockets, admin: Admin) -> Self {
        Self {
            context,
            addresses: sockets.addresses(),
            sockets: Mutex::new(sockets),
            admin: Mutex::new(admin),
            runtime: Handle::current(),
            reload_lock: tokio::sync::Mutex::default(),
            sockets_lock: Arc::default(),
            is_requested: AtomicBool::new(false),
            config_lane: Lane::default(),
            tls_lanes: Mutex::default(),
            file_errors: Mutex::default(),
            applied: Notify::new(),
            reloads: watch::Sender::default(),
        }
    }

    pub fn sockets(&self) -> MutexGuard<'_, Sockets> {
        self.sockets.lock()
    }

    pub fn admin(&self) -> MutexGuard<'_, Admin> {
        self.admin.lock()
    }

    /// The admin side, unless it is locked.
    pub(crate) fn try_admin(&self) -> Option<MutexGuard<'_, Admin>> {
        self.admin.try_lock()
    }

    pub(crate) fn snapshots(&self) -> &SnapshotHandle {
        &self.context.snapshots
    }

    /// Waits until a configuration has been applied since the last call. Only one task may call
    /// this.
    pub(crate) async fn applied(&self) {
        self.applied.notified().await;
    }

    /// A value that changes whenever the whole configuration has been reloaded and applied.
    pub fn reloads(&self) -> watch::Receiver<u64> {
        self.reloads.subscribe()
    }

    /// Whether a connection is open that a reload could affect.
    pub fn has_open(&self) -> bool {
        self.context.registry.open() > 0
    }

    /// Reloads in the background. Requests that arrive before the reload starts are merged into it.
    pub fn request(self: &Arc<Self>) {
        if self.is_requested.swap(true, Ordering::AcqRel) {
            return;
        }
        let this = Arc::clone(self);
        self.runtime.spawn(async move {
            // The reload fails if a successor has taken over in the meantime. The successor then
            // requests a reload of this process, and `is_requested` may have merged its request
            // into this one. So reload again.
            if Self::reload(&this).await.is_err() && this.has_open() {
                let _ = Self::reload(&this).await;
            }
        });
    }

    /// Reads and checks the configuration, and applies the difference. Waits for a reload in
    /// progress.
    ///
    /// # Errors
    /// If a successor process has taken over. Send the request to that process instead.
    ///
    /// # Cancel safety
    /// If the future is dropped, the reload still runs.
    pub async fn reload(self: &Arc<Self>) -> Result<LastReload, Replaced> {
        let this = Arc::clone(self);
        // Run the reload in its own task: the caller may be cancelled, but the lock must be held
        // until the reload ends.
        let reloading = self
            .runtime
            .spawn(async move { this.reload_locked().await });
        reloading.await.unwrap_or_else(|_| Ok(self.fault()))
    }

    async fn reload_locked(self: &Arc<Self>) -> Result<LastReload, Replaced> {
        let was_replaced = self.context.lifecycle.phase() == Phase::Replaced;
        let _sockets = self.sockets_lock.lock().await;
        let _reload = self.reload_lock.lock().await;
        self.is_requested.store(false, Ordering::Release);
        let phase = self.context.lifecycle.phase();
        if phase == Phase::Replaced && !was_replaced {
            // The successor reads the configuration itself and notifies this process.
            return Err(Replaced);
        }
        let is_serving = !phase.is_last();
        if is_serving {
            notify::reloading();
        }
        let running = self.context.snapshot();
        let log = self.context.telemetry.access_log.clone();
        let reading = move || read(&running.config, &log);
        let read = self.config_lane.run(reading).await;
        let this = Arc::clone(self);
        // Applying spawns tasks, which must run on the runtime of connections.
        let done = self.runtime.spawn_blocking(move || {
            let applied = read.map_err(Rejected::from).flatten();
            let applied = applied.and_then(|read| this.apply(read));
            let rejected = applied.map(|applied| applied.log()).err();
            this.conclude(rejected.as_ref(), NOT_RELOADED)
        });
        let reload = done.await.unwrap_or_else(|_| self.fault());
        if reload.reasons.is_empty() {
            self.reloads.send_modify(|reloads| *reloads += 1);
        }
        if is_serving {
            // The server is ready even after a rejected reload.
            notify::ready();
        }
        Ok(reload)
    }

    /// Reports a panic during a reload. Its message has been logged.
    fn fault(&self) -> LastReload {
        let fault = "internal error, please report it";
        let rejected = Rejected::Reasons(vec![fault.to_owned()]);
        self.conclude(Some(&rejected), NOT_RELOADED)
    }

    /// Delays reloads until the guard is dropped. Changed TLS files are still loaded.
    pub async fn pause(&self) -> OwnedMutexGuard<()> {
        Arc::clone(&self.sockets_lock).lock_owned().await
    }

    /// Logs and stores the result. `rejection` is the message for a rejected reload.
    pub(super) fn conclude(&self, rejected: Option<&Rejected>, rejection: &str) -> LastReload {
        let reasons = rejected.map(Rejected::lines).unwrap_or_default();
        if let Some(rejected) = rejected {
            let format = self.context.snapshot().config.log.format;
            match rejected {
                // Print the problems in the same way as `check`.
                Rejected::Problems(problems) if format == Format::Text => problems.print(),
                _ => reasons
                    .iter()
                    .for_each(|reason| tracing::error!("{reason}")),
            }
            tracing::error!(errors = reasons.len(), "{rejection}");
        }
        let reload = LastReload {
            time: Timestamp::now(),
            reasons,
        };
        self.context.reload_finished(reload.clone());
        reload
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
