//! Runtime overrides: states and weights of servers, blocked clients and the log level, set by an
//! operator.
//!
//! Overrides are stored by name, so that they survive a reload. A server in `drain` stays in
//! `drain` regardless of other changes in the file, even of its address, until an operator sets it
//! to `ready` or the server is removed from the file. The same applies to weights, until an
//! operator sets a weight of 100 %. Overrides of a discovered server are kept while the server is
//! absent, for up to a week, and apply again when it rejoins. The log level stays until an operator
//! resets it or the level in the file changes.

mod blocks;
mod discovered;
mod filter;
mod fleet;
mod handover;
mod maintenance;
mod weights;

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use leastconn::{AdminState, ServerId, UpstreamId, WeightOverride};
use leastconn_config::{Level, Log};
use parking_lot::{Mutex, MutexGuard};
use tokio::{runtime::Handle, sync::broadcast};

use crate::{
    logging,
    reason_code::ReasonCode,
    registry::Registry,
    snapshot::{Snapshot, SnapshotHandle},
};

use blocks::ActiveBlocks;
pub use blocks::{Block, BlockChange, BlockError, BlockHandover};
pub use filter::{ConnectionFilter, InvalidFilter};
use fleet::FleetSettings;
pub use fleet::Origin;
pub(crate) use handover::OverrideHandover;
use maintenance::{PendingClose, close_connections};
pub use weights::WeightChange;
use weights::Weights;

/// Maximum number of commands that a predecessor has not read yet. Operators do not send so many
/// at once.
const FORWARD_BUFFER: usize = 64;

/// Default time until connections to a server in `maint` are closed. It also applies to
/// discovered servers that were removed.
pub const DEFAULT_GRACE: Duration = Duration::from_secs(10);

/// The weight in the file, which needs no override.
const CONFIGURED: WeightOverride = WeightOverride::Percent(100);

/// The runtime overrides of a process. Clones share the same overrides.
#[derive(Clone, Debug)]
pub struct Overrides {
    active: Arc<Mutex<ActiveOverrides>>,
    snapshots: Arc<SnapshotHandle>,
    registry: Arc<Registry>,
    /// Commands for predecessor processes, which have their own connections.
    forwards: broadcast::Sender<Forward>,
}

/// A command that predecessor processes must also carry out.
#[derive(Clone, Debug)]
pub enum Forward {
    Kill(ConnectionFilter),
    /// All blocks, after a change.
    Blocks(Vec<BlockHandover>),
}

type ServerKey = (UpstreamId, ServerId);

fn server_key(upstream: &str, server: &str) -> ServerKey {
    (UpstreamId::from(upstream), ServerId::from(server))
}

#[derive(Debug, Default)]
struct ActiveOverrides {
    servers: BTreeMap<ServerKey, ServerOverride>,
    weights: Weights,
    blocks: ActiveBlocks,
    fleet: FleetSettings,
    level: Option<(Level, Timestamp)>,
    /// Since when discovered servers with overrides are absent.
    absences: HashMap<ServerKey, Instant>,
    /// Whether the overrides were handed over to a successor process.
    is_replaced: bool,
}

/// The state of a server. It is `ready` only if another state is set for the fleet.
#[derive(Debug)]
struct ServerOverride {
    state: AdminState,
    since: Timestamp,
    origin: Origin,
    /// Set only in `maint`.
    pending_close: Option<PendingClose>,
}

/// A successor process has replaced this one; changes must be made in the successor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Replaced;

/// Why the state or weight of a server could not be changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetServerError {
    /// There is no server of that name.
    NoSuchServer,
    /// A successor process has replaced this one.
    Replaced,
}

impl From<Replaced> for SetServerError {
    fn from(Replaced: Replaced) -> Self {
        Self::Replaced
    }
}

/// The result of [`Overrides::set_server`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServerChange {
    /// The previous state.
    pub was: AdminState,
    /// The number of connections to the server, including connections that are being opened.
    pub active: u32,
}

/// A runtime override that differs from the configuration file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Override {
    /// A server's state. In the file all servers are `ready`.
    Server(UpstreamId, ServerId, AdminState, Timestamp, Origin),
    /// A server's weight.
    Weight(UpstreamId, ServerId, WeightOverride, Timestamp, Origin),
    /// The log level.
    Level(Level, Timestamp),
}

impl Overrides {
    /// Creates an empty set of overrides for the servers of `snapshots` and the connections of
    /// `registry`.
    pub fn new(snapshots: Arc<SnapshotHandle>, registry: Arc<Registry>) -> Self {
        Self {
            active: Arc::default(),
            snapshots,
            registry,
            forwards: broadcast::Sender::new(FORWARD_BUFFER),
        }
    }

    /// Closes the open connections that match `filter`, and returns their number. Predecessor
    /// processes also close their matching connections, which are not counted.
    ///
    /// # Errors
    /// If a successor has replaced this process. Then no connection is closed.
    pub fn kill(&self, filter: &ConnectionFilter) -> Result<usize, Replaced> {
        {
            // Hold the lock, so that no handover happens between the check and the forwarding.
            let active = self.lock();
            active.ensure_active()?;
            self.forward_kill(filter);
        }
        Ok(self.kill_local(filter))
    }

    /// Whether there is an open connection to this upstream and server.
    pub(crate) fn has_connections_to(&self, server: &(String, String)) -> bool {
        let filter = ConnectionFilter {
            server: Some(server.clone()),
            ..ConnectionFilter::default()
        };
        let open = self.registry.list();
        open.iter()
            .any(|handle| filter.matches(handle.id, &handle.state()))
    }

    fn forward_kill(&self, filter: &ConnectionFilter) {
        // A connection ID is unique only within one process.
        if filter.connection.is_none() {
            // An error only means that there is no predecessor.
            let _ = self.forwards.send(Forward::Kill(filter.clone()));
        }
    }

    /// Subscribes to the commands that predecessor processes must also carry out.
    pub fn forwards(&self) -> broadcast::Receiver<Forward> {
        self.forwards.subscribe()
    }

    /// Like [`Self::kill`], for this process only.
    pub fn kill_local(&self, filter: &ConnectionFilter) -> usize {
        let open = self.registry.list();
        let matching = open
            .iter()
            .filter(|handle| filter.matches(handle.id, &handle.state()));
        matching
            .filter(|handle| handle.stop(ReasonCode::Killed))
            .count()
    }

    /// The state of a server. An absent discovered server has a state if it has an override.
    ///
    /// # Errors
    /// If there is no such server, or a successor has replaced this process.
    pub fn server_state(
        &self,
        (upstream, server): (&str, &str),
    ) -> Result<AdminState, SetServerError> {
        let active = self.lock();
        active.ensure_active()?;
        if let Some(found) = self.snapshots.load().server(upstream, server) {
            return Ok(found.status().admin);
        }
        let key = server_key(upstream, server);
        let absent = active.servers.get(&key);
        absent
            .map(|value| value.state)
            .ok_or(SetServerError::NoSuchServer)
    }

    /// Sets the state of a server on this balancer. In `maint`, open connections to it are closed
    /// after `grace`, unless another state is set before. If the state is that of the fleet, the
    /// server follows the fleet from now on.
    ///
    /// # Errors
    /// If there is no such server, or a successor has replaced this process.
    pub fn set_server(
        &self,
        runtime: &Handle,
        (upstream, server): (&str, &str),
        state: AdminState,
        grace: Duration,
    ) -> Result<ServerChange, SetServerError> {
        // Hold the lock until the override is stored, so that a reload is applied either before or
        // after this change.
        let mut active = self.lock();
        active.ensure_active()?;
        let Some(found) = self.snapshots.load().server(upstream, server) else {
            let key = server_key(upstream, server);
            // An override of a discovered server outlives the server. `ready` removes it.
            let absent = active.servers.get(&key).map(|value| value.state);
            let was = absent.filter(|_| state == AdminState::Ready);
            let was = was.ok_or(SetServerError::NoSuchServer)?;
            active.servers.remove(&key);
            return Ok(ServerChange { was, active: 0 });
        };
        let was = found.status().admin;
        found.set_admin(state);
        let key = (UpstreamId::from(upstream), found.id().clone());
        let origin = match active.fleet.state(&key) == state {
            true => Origin::Fleet,
            false => Origin::Here,
        };
        let _entered = runtime.enter();
        self.store_state(&mut active, key, state, grace, origin);
        Ok(ServerChange {
            was,
            active: found.status().in_flight,
        })
    }

    /// Stores the override of a server whose state has been set. `ready` without another state in
    /// the fleet needs no override.
    ///
    /// # Panics
    /// Outside a Tokio runtime, for `maint`.
    fn store_state(
        &self,
        active: &mut ActiveOverrides,
        key: ServerKey,
        state: AdminState,
        grace: Duration,
        origin: Origin,
    ) {
        // Removing the previous override also cancels its pending close.
        let previous = active.servers.remove(&key);
        if state == AdminState::Ready && origin == Origin::Fleet {
            return;
        }
        let since = previous
            .as_ref()
            .filter(|previous| previous.state == state)
            .map_or_else(Timestamp::now, |previous| previous.since);
        let pending_close = (state == AdminState::Maint).then(|| {
            let close = close_connections(self.clone(), key.clone(), grace);
            PendingClose {
                at: Timestamp::now()
                    .saturating_add(grace)
                    .unwrap_or(Timestamp::MAX),
                task: Some(tokio::spawn(close).abort_handle()),
            }
        });
        let server_override = ServerOverride {
            state,
            since,
            origin,
            pending_close,
        };
        active.servers.insert(key, server_override);
    }

    /// Sets the log level. `None` resets it to the level in the file.
    ///
    /// # Errors
    /// If a successor has replaced this process.
    pub fn set_level(&self, level: Option<Level>) -> Result<(), Replaced> {
        let mut active = self.lock();
        active.ensure_active()?;
        let log = self.snapshots.load().config.log.clone();
        let level = level.filter(|level| *level != log.level);
        active.level = level.map(|level| (level, Timestamp::now()));
        logging::change(&active.with_level(&log));
        Ok(())
    }

    /// The log level in effect, given the configuration of the log.
    pub fn level(&self, log: &Log) -> Level {
        self.lock().with_level(log).level
    }

    /// Checks that no successor has replaced this process.
    ///
    /// # Errors
    /// If a successor has replaced this process.
    pub(crate) fn ensure_active(&self) -> Result<(), Replaced> {
        self.lock().ensure_active()
    }

    /// All overrides, starting with the overrides of servers.
    pub fn active(&self) -> Vec<Override> {
        let active = self.lock();
        let servers = active.servers.iter().map(|((upstream, server), value)| {
            let (upstream, server) = (upstream.clone(), server.clone());
            Override::Server(upstream, server, value.state, value.since, value.origin)
        });
        let level = active
            .level
            .map(|(level, since)| Override::Level(level, since));
        servers
            .chain(active.weights.active())
            .chain(level)
            .collect()
    }

    /// Applies the overrides to `next`, then replaces `current` with `next`. Drops the overrides of
    /// servers that are gone, and drops the log level override if the level in the file changes.
    pub(crate) fn install(&self, current: &Snapshot, next: Snapshot) -> Arc<Snapshot> {
        let mut active = self.lock();
        active.servers.retain(|(upstream, server), value| {
            let found = next.server(upstream.as_str(), server.as_str());
            match &found {
                Some(server) => server.set_admin(value.state),
                None if next.discovers_servers(upstream) => return true,
                // The fleet remembers it.
                None if value.origin == Origin::Fleet => {}
                None => tracing::info!(
                    %upstream,
                    %server,
                    state = value.state.as_str(),
                    "override dropped: server no longer configured"
                ),
            }
            found.is_some()
        });
        active.weights.apply(&next);
        active
            .absences
            .retain(|(upstream, _), _| next.discovers_servers(upstream));
        self.reconcile(&mut active, &next);
        let (before, log) = (&current.config.log, next.config.log.clone());
        if before.level != log.level && active.level.take().is_some() {
            tracing::info!("log level override dropped: level changed in the configuration file");
        }
        self.snapshots.replace(next);
        logging::change(&active.with_level(&log));
        self.snapshots.load()
    }

    fn lock(&self) -> MutexGuard<'_, ActiveOverrides> {
        self.active.lock()
    }
}

impl ActiveOverrides {
    fn ensure_active(&self) -> Result<(), Replaced> {
        if self.is_replaced {
            Err(Replaced)
        } else {
            Ok(())
        }
    }

    fn with_level(&self, log: &Log) -> Log {
        Log {
            level: self.level.map_or(log.level, |(level, _)| level),
            ..log.clone()
        }
    }
}

/// Parses a time from another process. Returns the current time if the text is invalid.
fn parse_time(text: &str) -> Timestamp {
    text.parse().unwrap_or_else(|_| Timestamp::now())
}
