//! Overrides that operators set at run time: states of servers, and the log level.
//!
//! Overrides refer to servers by name, so that they survive a reload: a server in `drain`
//! stays in it, even if its address changes, until an operator sets it to `ready` or the
//! server is removed from the file. The log level stays until it is reset, or the level in
//! the file changes.

mod filter;
mod handover;

use std::{collections::BTreeMap, mem, sync::Arc, time::Duration};

use jiff::Timestamp;
use leastconn::{AdminState, Reason, ServerId, UpstreamId};
use parking_lot::{Mutex, MutexGuard};
use tokio::{runtime::Handle, sync::broadcast, task, time::sleep};

use crate::{
    config::{Level, Log},
    logging,
    registry::Registry,
    snapshot::{Snapshot, SnapshotHandle},
};

pub use filter::ConnectionFilter;
pub(crate) use handover::Carried;

/// Capacity of the channel that passes kills on to predecessors.
const KILL_QUEUE: usize = 64;

/// Retry interval for closing connections that were still dialling when the grace period
/// ended.
const RETRY_INTERVAL: Duration = Duration::from_millis(200);

/// The overrides of a process. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Overrides {
    hand: Arc<Mutex<State>>,
    snapshots: Arc<SnapshotHandle>,
    registry: Arc<Registry>,
    /// Kills, for predecessors that have connections of their own.
    kills: broadcast::Sender<ConnectionFilter>,
}

#[derive(Debug, Default)]
struct State {
    servers: BTreeMap<(UpstreamId, ServerId), ServerOverride>,
    level: Option<(Level, Timestamp)>,
    /// A successor has taken the overrides over.
    replaced: bool,
}

/// The state of a server that is not `ready`.
#[derive(Debug)]
struct ServerOverride {
    state: AdminState,
    since: Timestamp,
    ending: Option<Ending>,
}

/// When and how connections to a server in `maint` end.
#[derive(Debug)]
struct Ending {
    /// When the grace period ends.
    at: Timestamp,
    /// The task that ends them; `None`: this process does not serve yet.
    task: Option<task::AbortHandle>,
}

impl Drop for Ending {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

/// A successor has taken over: ask it instead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Replaced;

/// Why the state of a server was not set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetServerError {
    /// There is no such server.
    NoSuchServer,
    /// A successor has taken over.
    Replaced,
}

/// The result of setting the state of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Set {
    /// The previous state.
    pub was: AdminState,
    /// Connections to it, including those being dialled.
    pub active: u32,
}

/// An override that differs from the configuration file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Override {
    /// The state of a server; in the file every server is `ready`.
    Server(UpstreamId, ServerId, AdminState, Timestamp),
    /// The log level.
    Level(Level, Timestamp),
}

impl Overrides {
    /// No overrides.
    pub fn new(snapshots: Arc<SnapshotHandle>, registry: Arc<Registry>) -> Self {
        Self {
            hand: Arc::default(),
            snapshots,
            registry,
            kills: broadcast::Sender::new(KILL_QUEUE),
        }
    }

    /// Ends the open connections that the filter matches, and returns how many. Predecessors
    /// end theirs too, which are not counted.
    ///
    /// # Errors
    /// If a successor has taken over. No connection was ended.
    pub fn kill(&self, which: &ConnectionFilter) -> Result<usize, Replaced> {
        {
            // A successor takes over before or after this lock is held.
            let hand = self.lock();
            hand.serves()?;
            self.tell(which);
        }
        Ok(self.kill_local(which))
    }

    /// Whether there is a connection to this server.
    pub(crate) fn has_connections_to(&self, server: &(String, String)) -> bool {
        let which = ConnectionFilter {
            server: Some(server.clone()),
            ..ConnectionFilter::default()
        };
        let open = self.registry.list();
        open.iter()
            .any(|handle| which.holds(handle.id, &handle.state()))
    }

    fn tell(&self, which: &ConnectionFilter) {
        if which.connection.is_none() {
            // Fails if there is no predecessor.
            let _ = self.kills.send(which.clone());
        }
    }

    /// Receives the filters of kills from now on.
    pub fn kills(&self) -> broadcast::Receiver<ConnectionFilter> {
        self.kills.subscribe()
    }

    /// As [`Self::kill`], but only in this process.
    pub fn kill_local(&self, which: &ConnectionFilter) -> usize {
        let open = self.registry.list();
        let those = open
            .iter()
            .filter(|handle| which.holds(handle.id, &handle.state()));
        those.filter(|handle| handle.stop(Reason::Killed)).count()
    }

    /// Sets the state of a server. In `maint`, connections to it are ended after `grace`;
    /// setting another state before that keeps them.
    ///
    /// # Errors
    /// If there is no such server, or a successor has taken over.
    pub fn set_server(
        &self,
        runtime: &Handle,
        (upstream, server): (&str, &str),
        state: AdminState,
        grace: Duration,
    ) -> Result<Set, SetServerError> {
        // Locked until it is set and stored: a reload comes before or after.
        let mut hand = self.lock();
        hand.serves().map_err(|Replaced| SetServerError::Replaced)?;
        let found = self
            .snapshots
            .load()
            .server(upstream, server)
            .ok_or(SetServerError::NoSuchServer)?;
        let was = found.status().admin;
        found.set_admin(state);
        let key = (UpstreamId::from(upstream), found.id().clone());
        // Cancels the task of an earlier `maint`.
        let earlier = hand.servers.remove(&key);
        let since = earlier
            .as_ref()
            .filter(|earlier| earlier.state == state)
            .map_or_else(Timestamp::now, |earlier| earlier.since);
        if state != AdminState::Ready {
            let ending = (state == AdminState::Maint).then(|| {
                let ending = end_connections(self.clone(), key.clone(), grace);
                Ending {
                    at: Timestamp::now()
                        .saturating_add(grace)
                        .unwrap_or(Timestamp::MAX),
                    task: Some(runtime.spawn(ending).abort_handle()),
                }
            });
            let setting = ServerOverride {
                state,
                since,
                ending,
            };
            hand.servers.insert(key, setting);
        }
        Ok(Set {
            was,
            active: found.status().in_flight,
        })
    }

    /// Overrides the log level; `None` resets it to the level in the file.
    ///
    /// # Errors
    /// If a successor has taken over.
    pub fn set_level(&self, level: Option<Level>) -> Result<(), Replaced> {
        let mut hand = self.lock();
        hand.serves()?;
        let log = self.snapshots.load().config.log.clone();
        let level = level.filter(|level| *level != log.level);
        hand.level = level.map(|level| (level, Timestamp::now()));
        logging::change(&hand.with_level(&log));
        Ok(())
    }

    /// The effective log level.
    pub fn level(&self, log: &Log) -> Level {
        self.lock().with_level(log).level
    }

    /// Checks that this process serves.
    ///
    /// # Errors
    /// If a successor has taken over.
    pub(crate) fn serves(&self) -> Result<(), Replaced> {
        self.lock().serves()
    }

    /// Overrides that differ from the file, servers first.
    pub fn active(&self) -> Vec<Override> {
        let hand = self.lock();
        let servers = hand.servers.iter().map(|((upstream, server), setting)| {
            Override::Server(
                upstream.clone(),
                server.clone(),
                setting.state,
                setting.since,
            )
        });
        let level = hand
            .level
            .map(|(level, since)| Override::Level(level, since));
        servers.chain(level).collect()
    }

    /// The overrides, for a successor.
    pub fn carried(&self) -> Carried {
        self.lock().carried()
    }

    /// The final overrides: from now on the successor is asked.
    pub fn leave(&self) -> Carried {
        let mut hand = self.lock();
        hand.replaced = true;
        let carried = hand.carried();
        let now = Timestamp::now();
        for setting in hand.servers.values_mut() {
            // The successor ends them, unless an operator changes the state there.
            setting.ending.take_if(|ending| ending.at > now);
        }
        carried
    }

    /// This process serves from now on: it ends connections to servers in `maint` that the
    /// predecessor was told to end.
    pub(crate) fn begin(&self) {
        let mut hand = self.lock();
        for (key, setting) in &mut hand.servers {
            let Some(ending) = setting
                .ending
                .as_mut()
                .filter(|ending| ending.task.is_none())
            else {
                continue;
            };
            let grace = Timestamp::now().duration_until(ending.at);
            let grace = Duration::try_from(grace).unwrap_or_default();
            let end = end_connections(self.clone(), key.clone(), grace);
            ending.task = Some(tokio::spawn(end).abort_handle());
        }
    }

    /// Replaces all overrides with those of the predecessor. Unknown servers and states are
    /// skipped. Until this process [serves](Self::begin), the predecessor ends connections to
    /// servers in `maint`.
    pub fn take_over(&self, carried: &Carried) {
        let mut hand = self.lock();
        let state = &*self.snapshots.load();
        hand.take_over(carried, state);
        logging::change(&hand.with_level(&state.config.log));
    }

    /// Applies the overrides to `next` and makes it the running snapshot.
    pub(crate) fn install(&self, earlier: &Snapshot, next: Snapshot) -> Arc<Snapshot> {
        let mut hand = self.lock();
        hand.servers.retain(|(upstream, server), setting| {
            let found = next.server(upstream.as_str(), server.as_str());
            match &found {
                Some(server) => server.set_admin(setting.state),
                None => tracing::info!(
                    %upstream,
                    %server,
                    state = setting.state.as_str(),
                    "the server is gone, and with it the state that was set by hand"
                ),
            }
            found.is_some()
        });
        let (before, log) = (&earlier.config.log, next.config.log.clone());
        if before.level != log.level && hand.level.take().is_some() {
            tracing::info!("the level of the log is the file's again, which has changed");
        }
        self.snapshots.replace(next);
        logging::change(&hand.with_level(&log));
        self.snapshots.load()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.hand.lock()
    }
}

impl State {
    fn serves(&self) -> Result<(), Replaced> {
        if self.replaced { Err(Replaced) } else { Ok(()) }
    }

    fn with_level(&self, log: &Log) -> Log {
        Log {
            level: self.level.map_or(log.level, |(level, _)| level),
            ..log.clone()
        }
    }
}

/// Ends the connections to a server in `maint` after `grace`, until there are none: one that
/// is being dialled can be ended only once it is established.
async fn end_connections(overrides: Overrides, key: (UpstreamId, ServerId), grace: Duration) {
    sleep(grace).await;
    let (upstream, server) = &key;
    let which = ConnectionFilter::to(&key);
    let mut first = true;
    loop {
        {
            // While locked, the state cannot change. An earlier change has aborted this task,
            // unless it was waiting for the lock.
            let hand = overrides.lock();
            let setting = hand.servers.get(&key);
            let ending = setting.and_then(|setting| setting.ending.as_ref()?.task.as_ref());
            if ending.is_none_or(|ending| Some(ending.id()) != task::try_id()) {
                return;
            }
            // Otherwise the successor does so.
            if mem::take(&mut first) && hand.serves().is_ok() {
                overrides.tell(&which);
            }
            let killed = overrides.kill_local(&which);
            if killed > 0 {
                tracing::info!(%upstream, %server, killed, "in maint, and the grace is over: connections were ended");
            }
        }
        let found = overrides
            .snapshots
            .load()
            .server(upstream.as_str(), server.as_str());
        if found.is_none_or(|server| server.in_flight() == 0) {
            return;
        }
        sleep(RETRY_INTERVAL).await;
    }
}
