//! The phases of a process, and its last reload and upgrade.

use std::time::Duration;

use jiff::Timestamp;
use parking_lot::Mutex;
use tokio::sync::watch;

/// The phase of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Not all sockets are bound yet.
    Starting,
    /// Accepting connections.
    Ready,
    /// Serving open connections, accepting no new ones.
    Draining,
    /// Draining because another process has taken over.
    Replaced,
}

impl Phase {
    /// Whether the process no longer accepts connections.
    pub const fn is_last(self) -> bool {
        matches!(self, Self::Draining | Self::Replaced)
    }
}

/// The result of a reload.
#[derive(Clone, Debug)]
pub struct LastReload {
    pub time: Timestamp,
    /// Why the configuration was rejected, one line for each reason. Empty if it was applied.
    pub reasons: Vec<String>,
}

/// An upgrade that failed, after which this process continued to serve.
#[derive(Clone, Debug)]
pub struct FailedUpgrade {
    pub time: Timestamp,
    pub reason: String,
}

/// Start, phase, last reload and last failed upgrade of the process.
#[derive(Debug)]
pub struct Lifecycle {
    started: Timestamp,
    applied: Mutex<Timestamp>,
    phase: watch::Sender<Phase>,
    last_reload: Mutex<Option<LastReload>>,
    failed_upgrade: Mutex<Option<FailedUpgrade>>,
    /// Whether the start has finished.
    is_started: watch::Sender<bool>,
    drain_end: Mutex<Option<Timestamp>>,
}

impl Lifecycle {
    /// Creates the lifecycle of a process that starts now.
    pub(super) fn new() -> Self {
        let now = Timestamp::now();
        Self {
            started: now,
            applied: Mutex::new(now),
            phase: watch::Sender::new(Phase::Starting),
            last_reload: Mutex::default(),
            failed_upgrade: Mutex::default(),
            is_started: watch::Sender::new(false),
            drain_end: Mutex::default(),
        }
    }

    pub const fn started(&self) -> Timestamp {
        self.started
    }

    /// When the running configuration was applied.
    pub fn applied(&self) -> Timestamp {
        *self.applied.lock()
    }

    /// The last reload, if there was one.
    pub fn last_reload(&self) -> Option<LastReload> {
        self.last_reload.lock().clone()
    }

    pub(super) fn set_last_reload(&self, reload: LastReload) {
        if reload.reasons.is_empty() {
            *self.applied.lock() = reload.time;
        }
        *self.last_reload.lock() = Some(reload);
    }

    /// The last failed upgrade, if there was one.
    pub fn failed_upgrade(&self) -> Option<FailedUpgrade> {
        self.failed_upgrade.lock().clone()
    }

    pub fn set_failed_upgrade(&self, reason: String) {
        let time = Timestamp::now();
        *self.failed_upgrade.lock() = Some(FailedUpgrade { time, reason });
    }

    /// While draining: when the remaining connections are closed.
    pub fn drain_end(&self) -> Option<Timestamp> {
        *self.drain_end.lock()
    }

    /// Sets when the remaining connections are closed: after `limit`.
    pub(crate) fn set_drain_limit(&self, limit: Duration) {
        *self.drain_end.lock() = Timestamp::now().saturating_add(limit).ok();
    }

    pub fn phase(&self) -> Phase {
        *self.phase.borrow()
    }

    pub fn enter(&self, phase: Phase) {
        self.phase.send_replace(phase);
    }

    /// Completes once [`Phase::Draining`] begins.
    pub fn draining(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut phase = self.phase.subscribe();
        async move {
            // The sender lives as long as the process.
            let _ = phase.wait_for(|&phase| phase == Phase::Draining).await;
        }
    }

    /// Ends the phase `Starting`. Has no effect in any other phase.
    pub(crate) fn finish_start(&self) {
        let is_started = self.phase.send_if_modified(|phase| {
            let is_starting = *phase == Phase::Starting;
            if is_starting {
                *phase = Phase::Ready;
            }
            is_starting
        });
        if is_started {
            self.is_started.send_replace(true);
        }
    }

    /// Waits until the start has finished.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub fn started_fully(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut is_started = self.is_started.subscribe();
        async move {
            // An error means that the process is exiting.
            if is_started.wait_for(|&started| started).await.is_err() {
                std::future::pending().await
            }
        }
    }
}
