//! What operators have set by hand: states of servers, the level of the log.
//!
//! It goes by name, not by what runs at the time, so that it survives a reload: a
//! server in `drain` stays in it whatever else the file now says of it, its address
//! included, until somebody sets it to `ready` or the server is gone from the file.
//! The log's level stays until it is given back, or the file's own level changes.

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

/// What is to be ended and was not passed on yet: an operator is slower.
const UNREAD: usize = 64;

/// How soon those are ended that were being opened to a server when the others were.
const AGAIN: Duration = Duration::from_millis(200);

/// What was set by hand.
#[derive(Clone, Debug)]
pub struct Overrides {
    hand: Arc<Mutex<Hand>>,
    snapshots: Arc<SnapshotHandle>,
    registry: Arc<Registry>,
    /// For the processes before this one, which have connections of their own.
    kills: broadcast::Sender<ConnectionFilter>,
}

#[derive(Debug, Default)]
struct Hand {
    servers: BTreeMap<(UpstreamId, ServerId), Setting>,
    level: Option<(Level, Timestamp)>,
    /// Another process has been told all of this.
    replaced: bool,
}

/// A server's state, unless it is `ready`.
#[derive(Debug)]
struct Setting {
    state: AdminState,
    since: Timestamp,
    ending: Option<Ending>,
}

/// The end of connections to a server in `maint`.
#[derive(Debug)]
struct Ending {
    /// When their grace is over.
    at: Timestamp,
    /// Ends them; none: this process is not the service yet.
    task: Option<task::AbortHandle>,
}

impl Drop for Ending {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

/// Another process has taken the place of this one, and is to be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Replaced;

/// Why a server's state was not set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetServerError {
    /// There is no server of that name.
    NoSuchServer,
    /// Another process is to be told.
    Replaced,
}

/// How a server was and is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Set {
    /// How it was.
    pub was: AdminState,
    /// Connections to it, being opened or open.
    pub active: u32,
}

/// Something that was set by hand and differs from the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Override {
    /// A server's state; the file has no way to say anything but `ready`.
    Server(UpstreamId, ServerId, AdminState, Timestamp),
    /// The log's level.
    Level(Level, Timestamp),
}

impl Overrides {
    /// Nothing, of the servers that are `running` and the connections of `registry`.
    pub fn new(snapshots: Arc<SnapshotHandle>, registry: Arc<Registry>) -> Self {
        Self {
            hand: Arc::default(),
            snapshots,
            registry,
            kills: broadcast::Sender::new(UNREAD),
        }
    }

    /// Ends the open connections for which `which` holds, and returns how many. The
    /// processes before this one are told of it, and those that they end do not count.
    ///
    /// # Errors
    /// If another process is to be told. Nothing was ended.
    pub fn kill(&self, which: &ConnectionFilter) -> Result<usize, Replaced> {
        {
            // A process that takes this one's place speaks after this.
            let hand = self.lock();
            hand.serves()?;
            self.tell(which);
        }
        Ok(self.kill_local(which))
    }

    /// Whether there is a connection to this server of this upstream.
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
            // An error: there is no such process.
            let _ = self.kills.send(which.clone());
        }
    }

    /// What connections were to be ended from now on.
    pub fn kills(&self) -> broadcast::Receiver<ConnectionFilter> {
        self.kills.subscribe()
    }

    /// Likewise, of this process only.
    pub fn kill_local(&self, which: &ConnectionFilter) -> usize {
        let open = self.registry.list();
        let those = open
            .iter()
            .filter(|handle| which.holds(handle.id, &handle.state()));
        those.filter(|handle| handle.stop(Reason::Killed)).count()
    }

    /// Sets what is wanted of a server. In `maint`, open connections to it are ended
    /// once `grace` is over; until then, setting anything else lets them go on.
    ///
    /// # Errors
    /// If there is none of that name, or another process is to be told.
    pub fn set_server(
        &self,
        runtime: &Handle,
        (upstream, server): (&str, &str),
        state: AdminState,
        grace: Duration,
    ) -> Result<Set, SetServerError> {
        // Until it is set and kept: a reload comes before or after that.
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
        // First what was to happen before.
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
            let setting = Setting {
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

    /// Sets how much is logged, or gives it back to the file.
    ///
    /// # Errors
    /// If another process is to be told.
    pub fn set_level(&self, level: Option<Level>) -> Result<(), Replaced> {
        let mut hand = self.lock();
        hand.serves()?;
        let log = self.snapshots.load().config.log.clone();
        let level = level.filter(|level| *level != log.level);
        hand.level = level.map(|level| (level, Timestamp::now()));
        logging::change(&hand.with_level(&log));
        Ok(())
    }

    /// How much is logged under this configuration.
    pub fn level(&self, log: &Log) -> Level {
        self.lock().with_level(log).level
    }

    /// Whether this process is the one to be told.
    ///
    /// # Errors
    /// If another one is.
    pub(crate) fn serves(&self) -> Result<(), Replaced> {
        self.lock().serves()
    }

    /// What differs from the file, servers first.
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

    /// What was set, for the process of an upgrade.
    pub fn carried(&self) -> Carried {
        self.lock().carried()
    }

    /// What was set in the end: that process is told what comes.
    pub fn leave(&self) -> Carried {
        let mut hand = self.lock();
        hand.replaced = true;
        let carried = hand.carried();
        let now = Timestamp::now();
        for setting in hand.servers.values_mut() {
            // That process says when, unless somebody tells it otherwise.
            setting.ending.take_if(|ending| ending.at > now);
        }
        carried
    }

    /// This process is the service: connections to servers in `maint` end when their
    /// grace is over, as the process before this one was told.
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

    /// Sets what was set in the process before this one, in place of what is. What
    /// concerns nothing that there is, or is not understood, is left out. In that process
    /// connections to servers in `maint` end until this one [begins](Self::begin).
    pub fn take_over(&self, carried: &Carried) {
        let mut hand = self.lock();
        let state = &*self.snapshots.load();
        hand.take_over(carried, state);
        logging::change(&hand.with_level(&state.config.log));
    }

    /// Carries what was set over to `next`, which takes the place of `earlier` in
    /// `replace`.
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

    fn lock(&self) -> MutexGuard<'_, Hand> {
        self.hand.lock()
    }
}

impl Hand {
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

/// Ends the connections to a server in `maint` after `grace`, until there are none:
/// one that was being opened can be ended only once it is.
async fn end_connections(overrides: Overrides, key: (UpstreamId, ServerId), grace: Duration) {
    sleep(grace).await;
    let (upstream, server) = &key;
    let which = ConnectionFilter::to(&key);
    let mut first = true;
    loop {
        {
            // With it nobody sets another state; and what was set before has ended
            // this task, unless it waited here.
            let hand = overrides.lock();
            let setting = hand.servers.get(&key);
            let ending = setting.and_then(|setting| setting.ending.as_ref()?.task.as_ref());
            if ending.is_none_or(|ending| Some(ending.id()) != task::try_id()) {
                return;
            }
            // If not, whoever took this one's place does so.
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
        sleep(AGAIN).await;
    }
}
