//! What all sides of a running balancer see: the server that drives it, and the
//! admin side that shows it.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
};

use jiff::Timestamp;
use parking_lot::{Mutex, MutexGuard};

use crate::{
    access_record::Books, memory::Budget, overrides::ByHand, registry::Registry, running::Running,
    state::State,
};

/// Where the process is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Phase {
    /// Not everything is bound yet.
    Starting,
    /// Serving.
    Ready,
    /// Serving what is open, taking nothing new.
    Draining,
    /// Likewise, because another process takes what is new.
    Replaced,
}

impl Phase {
    /// Whether nothing begins any more.
    pub const fn is_last(self) -> bool {
        matches!(self, Self::Draining | Self::Replaced)
    }
}

/// What the admin side sees of a running balancer.
#[derive(Debug)]
pub struct Shared {
    /// The running configuration.
    pub running: Arc<Running>,
    /// Open connections.
    pub registry: Arc<Registry>,
    /// Counters and log.
    pub books: Books,
    /// Memory that connections may use.
    pub memory: Arc<Budget>,
    /// What operators have set.
    pub by_hand: ByHand,
    /// Processes before this one.
    pub old_processes: Arc<OldProcesses>,
    started: Timestamp,
    applied: Mutex<Timestamp>,
    pruning: Mutex<()>,
    phase: AtomicU8,
    last_reload: Mutex<Option<LastReload>>,
    failed_upgrade: Mutex<Option<FailedUpgrade>>,
}

/// Processes whose place this one has taken, or one before it, and which still have
/// connections: how many, by the process's ID.
#[derive(Debug, Default)]
pub struct OldProcesses(Mutex<BTreeMap<u32, u64>>);

impl OldProcesses {
    /// A process has so many connections left.
    pub(crate) fn set(&self, pid: u32, connections: u64) {
        let mut all = self.lock();
        match connections {
            0 => all.remove(&pid),
            some => all.insert(pid, some),
        };
    }

    /// All of them.
    pub fn list(&self) -> Vec<(u32, u64)> {
        let all = self.lock();
        all.iter().map(|(pid, open)| (*pid, *open)).collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u32, u64>> {
        self.0.lock()
    }
}

/// How a reload went.
#[derive(Clone, Debug)]
pub struct LastReload {
    /// When.
    pub time: Timestamp,
    /// Why nothing was changed, a line each; none: it was applied.
    pub reasons: Vec<String>,
}

/// An upgrade that failed: the process that it was asked of goes on.
#[derive(Clone, Debug)]
pub struct FailedUpgrade {
    /// When.
    pub time: Timestamp,
    /// Why.
    pub reason: String,
}

impl Shared {
    /// A process that is starting.
    pub fn new(
        running: Arc<Running>,
        registry: Arc<Registry>,
        books: Books,
        memory: Arc<Budget>,
    ) -> Self {
        let now = Timestamp::now();
        Self {
            by_hand: ByHand::new(Arc::clone(&running), Arc::clone(&registry)),
            running,
            registry,
            books,
            memory,
            old_processes: Arc::default(),
            started: now,
            applied: Mutex::new(now),
            pruning: Mutex::default(),
            last_reload: Mutex::new(None),
            failed_upgrade: Mutex::new(None),
            phase: AtomicU8::new(Phase::Starting as u8),
        }
    }

    /// The running configuration.
    pub fn state(&self) -> Arc<State> {
        Arc::clone(&self.running.current().state)
    }

    /// When the process started.
    pub const fn started(&self) -> Timestamp {
        self.started
    }

    /// When the running configuration came into force.
    pub fn applied(&self) -> Timestamp {
        *self.applied.lock()
    }

    /// Removes the metrics of listeners and client rules that are gone from the running
    /// configuration and have no open connection. Hold what this returns while the
    /// configuration is replaced: nobody else removes metrics meanwhile.
    pub(crate) fn prune_metrics(&self) -> MutexGuard<'_, ()> {
        let pruning = self.pruning.lock();
        let current = self.running.current();
        let clients = current.state.config.clients.iter();
        self.books.metrics.prune(
            current.state.epoch,
            |listener| current.retired.contains_key(listener),
            |listener| current.listeners.contains_key(listener),
            || clients.map(|rule| rule.name()).collect(),
        );
        pruning
    }

    /// The last time that the configuration was to be changed, if ever.
    pub fn last_reload(&self) -> Option<LastReload> {
        self.last_reload.lock().clone()
    }

    /// The configuration was to be changed.
    pub(crate) fn reloaded(&self, reload: LastReload) {
        let applied = reload.reasons.is_empty();
        if applied {
            *self.applied.lock() = reload.time;
        }
        *self.last_reload.lock() = Some(reload);
        // Last: who sees it counted asks how it went.
        self.books.metrics.reloaded(applied);
    }

    /// The last time that another process was to take over and did not, if ever.
    pub fn failed_upgrade(&self) -> Option<FailedUpgrade> {
        self.failed_upgrade.lock().clone()
    }

    /// Another process was to take over, and did not.
    pub fn upgrade_failed(&self, reason: String) {
        let time = Timestamp::now();
        *self.failed_upgrade.lock() = Some(FailedUpgrade { time, reason });
    }

    /// Where the process is in its life.
    pub fn phase(&self) -> Phase {
        match self.phase.load(Ordering::Acquire) {
            0 => Phase::Starting,
            1 => Phase::Ready,
            2 => Phase::Draining,
            _ => Phase::Replaced,
        }
    }

    /// The process goes on to `phase`.
    pub fn enter(&self, phase: Phase) {
        self.phase.store(phase as u8, Ordering::Release);
    }
}
