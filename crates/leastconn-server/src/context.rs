//! The handles that all parts of a running server share.

mod connection_slots;
mod fleet;
mod lifecycle;

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use leastconn::net;
use leastconn_config::Process;
use leastconn_fleet::OperatorHistory;
use leastconn_tls::client_chain::ChainStore;

use crate::{
    fleet::{FleetMember, FleetSlot, SharedServers, clients::ClientAdmission},
    handshake_scheduler::HandshakeScheduler,
    memory::Budget,
    overrides::Overrides,
    process::{descriptors, predecessors::Predecessors},
    registry::Registry,
    snapshot::{Snapshot, SnapshotHandle},
    telemetry::Telemetry,
    upstream::ApplyMembers,
};
use parking_lot::{Mutex, MutexGuard};

pub use connection_slots::{ConnectionSlot, ConnectionSlots};
pub(crate) use fleet::FleetChange;
pub use lifecycle::{FailedUpgrade, LastReload, Lifecycle, Phase};

/// Process-wide state. It outlives every [`Snapshot`].
#[derive(Debug)]
pub struct ServerContext {
    pub snapshots: Arc<SnapshotHandle>,
    pub registry: Arc<Registry>,
    /// Metrics, access log and recent refusals.
    pub telemetry: Arc<Telemetry>,
    /// Memory that connections may use.
    pub memory: Arc<Budget>,
    /// The limit on open connections.
    pub slots: ConnectionSlots,
    /// Schedules TLS handshakes.
    pub handshakes: Arc<HandshakeScheduler>,
    /// Token buckets and connection counts of clients.
    pub clients: Arc<ClientAdmission>,
    /// Certificate chains of open connections.
    pub chains: Arc<ChainStore>,
    /// Runtime overrides set by operators.
    pub overrides: Overrides,
    /// Start, reloads and end of the process.
    pub lifecycle: Lifecycle,
    /// Empty if this balancer acts alone.
    pub fleet: FleetSlot,
    /// This process as a member of a fleet.
    pub member: FleetMember,
    /// Server counts and slots. `None` if this balancer acts alone.
    servers: ArcSwapOption<SharedServers>,
    /// What operators have set for the fleet. A reload that changes `[fleet]` keeps it.
    operator_history: Mutex<OperatorHistory>,
    /// Predecessor processes that still have connections.
    pub predecessors: Arc<Predecessors>,
    pruning: Mutex<()>,
}

impl ServerContext {
    /// Creates the context of a process that starts with the snapshot `first`.
    pub fn new(first: Snapshot, telemetry: Arc<Telemetry>) -> Self {
        let process = first.config.process.clone();
        let slots = ConnectionSlots::new(descriptors::max_connections(process.max_connections));
        telemetry.metrics.set_connections_limit(slots.max());
        let snapshots = Arc::new(SnapshotHandle::new(first));
        let registry = Arc::<Registry>::default();
        let now = net::now();
        let member = FleetMember::new(now);
        let (membership, wake) = (Arc::clone(member.membership()), Arc::clone(member.wake()));
        let clients = ClientAdmission::new(now, membership, wake);
        Self {
            overrides: Overrides::new(Arc::clone(&snapshots), Arc::clone(&registry)),
            snapshots,
            registry,
            telemetry,
            memory: Arc::new(Budget::new(process.memory_limit)),
            slots,
            handshakes: Arc::new(HandshakeScheduler::new(
                process.max_handshakes.get(),
                process.workers.get(),
            )),
            clients: Arc::new(clients),
            chains: Arc::default(),
            lifecycle: Lifecycle::new(),
            fleet: FleetSlot::default(),
            member,
            servers: ArcSwapOption::empty(),
            operator_history: Mutex::default(),
            predecessors: Arc::default(),
            pruning: Mutex::default(),
        }
    }

    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshots.load()
    }

    /// Starts discovery in upstreams that are new in the running configuration.
    ///
    /// # Panics
    /// If called outside a Tokio runtime.
    pub fn start_discovery(&self) {
        let apply: Arc<dyn ApplyMembers> = Arc::new(self.overrides.clone());
        self.snapshot().start_discovery(&apply);
    }

    /// Applies the limits in `[process]`. If a limit is lowered, connections and handshakes above
    /// it continue, and no new ones start until enough of them have ended.
    pub fn resize(&self, process: &Process) {
        let connections = descriptors::max_connections(process.max_connections);
        self.slots.resize(connections);
        self.telemetry.metrics.set_connections_limit(connections);
        self.memory.configure(process.memory_limit);
        self.handshakes.resize(process.max_handshakes.get());
    }

    /// Records the result of a reload and counts it.
    pub(crate) fn reload_finished(&self, reload: LastReload) {
        let applied = reload.reasons.is_empty();
        self.lifecycle.set_last_reload(reload);
        // Count last, so that a reader that sees the counter change also finds the new result.
        self.telemetry.metrics.reloaded(applied);
    }

    /// Removes the metrics of listeners and client rules that are no longer in the running
    /// configuration and have no open connections. No metrics are removed while the returned guard
    /// is held. Hold it while the snapshot is replaced.
    pub(crate) fn prune_metrics(&self) -> MutexGuard<'_, ()> {
        let pruning = self.pruning.lock();
        let snapshot = self.snapshots.load();
        let clients = snapshot.config.clients.iter();
        self.telemetry.metrics.prune(
            snapshot.generation,
            |listener| snapshot.removed_listeners.contains_key(listener),
            |listener| snapshot.listeners.contains_key(listener),
            || clients.map(|rule| rule.name()).collect(),
        );
        pruning
    }
}
