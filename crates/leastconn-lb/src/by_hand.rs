//! What operators have set by hand: states of servers, the level of the log.
//!
//! It goes by name, not by what runs at the time, so that it survives a reload: a
//! server in `drain` stays in it whatever else the file now says of it, its address
//! included, until somebody sets it to `ready` or the server is gone from the file.
//! The log's level stays until it is given back, or the file's own level changes.

mod which;

use std::{
    collections::BTreeMap,
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use jiff::Timestamp;
use leastconn::{AdminState, Reason, Server, ServerId, UpstreamId};
use serde::{Deserialize, Serialize};
use tokio::{runtime::Handle, sync::broadcast, task, time::sleep};

use crate::{
    config::{Level, Log},
    live::Registry,
    logging,
    running::Running,
    state::State,
};

pub use which::Which;

/// What is to be ended and was not passed on yet: an operator is slower.
const UNREAD: usize = 64;

/// How soon those are ended that were being opened to a server when the others were.
const AGAIN: Duration = Duration::from_millis(200);

/// What was set by hand.
#[derive(Clone, Debug)]
pub struct ByHand {
    hand: Arc<Mutex<Hand>>,
    running: Arc<Running>,
    registry: Arc<Registry>,
    /// For the processes before this one, which have connections of their own.
    kills: broadcast::Sender<Which>,
}

#[derive(Debug, Default)]
struct Hand {
    servers: BTreeMap<(UpstreamId, ServerId), Setting>,
    level: Option<(Level, Timestamp)>,
}

/// A server's state, unless it is `ready`.
#[derive(Debug)]
struct Setting {
    state: AdminState,
    since: Timestamp,
    /// Ends its connections when their grace is over.
    ending: Option<task::AbortHandle>,
}

impl Drop for Setting {
    fn drop(&mut self) {
        if let Some(ending) = &self.ending {
            ending.abort();
        }
    }
}

/// What was set, as one process tells another, which may be of another version.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Carried {
    #[serde(default)]
    servers: Vec<CarriedServer>,
    #[serde(default)]
    level: Option<(String, String)>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct CarriedServer {
    upstream: String,
    server: String,
    state: String,
    since: String,
}

fn since(text: &str) -> Timestamp {
    text.parse().unwrap_or_else(|_| Timestamp::now())
}

/// There is no server of that name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NoSuchServer;

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
pub enum Differs {
    /// A server's state; the file has no way to say anything but `ready`.
    Server(UpstreamId, ServerId, AdminState, Timestamp),
    /// The log's level.
    Level(Level, Timestamp),
}

impl ByHand {
    /// Nothing, of the servers that are `running` and the connections of `registry`.
    pub fn new(running: Arc<Running>, registry: Arc<Registry>) -> Self {
        Self {
            hand: Arc::default(),
            running,
            registry,
            kills: broadcast::Sender::new(UNREAD),
        }
    }

    /// Ends the open connections for which `which` holds, and returns how many. The
    /// processes before this one are told of it, and those that they end do not count.
    pub fn kill(&self, which: &Which) -> usize {
        if which.connection.is_none() {
            // An error: there is no such process.
            let _ = self.kills.send(which.clone());
        }
        self.kill_here(which)
    }

    /// What connections were to be ended from now on.
    pub(crate) fn kills(&self) -> broadcast::Receiver<Which> {
        self.kills.subscribe()
    }

    fn kill_here(&self, which: &Which) -> usize {
        let open = self.registry.list();
        let those = open
            .iter()
            .filter(|live| which.holds(live.id, &live.known()));
        those.filter(|live| live.stop(Reason::Killed)).count()
    }

    /// Sets what is wanted of a server. In `maint`, open connections to it are ended
    /// once `grace` is over; until then, setting anything else lets them go on.
    ///
    /// # Errors
    /// If there is none of that name.
    pub fn set_server(
        &self,
        runtime: &Handle,
        (upstream, server): (&str, &str),
        state: AdminState,
        grace: Duration,
    ) -> Result<Set, NoSuchServer> {
        // Until it is set and kept: a reload comes before or after that.
        let mut hand = self.lock();
        let found = find(&self.state(), upstream, server).ok_or(NoSuchServer)?;
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
                runtime.spawn(ending).abort_handle()
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
    pub fn set_level(&self, level: Option<Level>) {
        let mut hand = self.lock();
        let log = self.state().config.log.clone();
        let level = level.filter(|level| *level != log.level);
        hand.level = level.map(|level| (level, Timestamp::now()));
        logging::change(&hand.with_level(&log));
    }

    /// How much is logged under this configuration.
    pub fn level(&self, log: &Log) -> Level {
        self.lock().with_level(log).level
    }

    /// What differs from the file, servers first.
    pub fn differs(&self) -> Vec<Differs> {
        let hand = self.lock();
        let servers = hand.servers.iter().map(|((upstream, server), setting)| {
            Differs::Server(
                upstream.clone(),
                server.clone(),
                setting.state,
                setting.since,
            )
        });
        let level = hand
            .level
            .map(|(level, since)| Differs::Level(level, since));
        servers.chain(level).collect()
    }

    /// What was set, for the process of an upgrade.
    pub(crate) fn carried(&self) -> Carried {
        let hand = self.lock();
        let servers = hand.servers.iter().map(|(key, setting)| CarriedServer {
            upstream: key.0.to_string(),
            server: key.1.to_string(),
            state: setting.state.as_str().to_owned(),
            since: setting.since.to_string(),
        });
        Carried {
            servers: servers.collect(),
            level: hand
                .level
                .map(|(level, since)| (level.as_str().to_owned(), since.to_string())),
        }
    }

    /// Sets what was set in the process before this one, in place of what is. What
    /// concerns nothing that there is, or is not understood, is left out.
    pub(crate) fn take_over(&self, carried: &Carried) {
        let mut hand = self.lock();
        let state = &*self.state();
        for (key, _) in mem::take(&mut hand.servers) {
            if let Some(server) = find(state, key.0.as_str(), key.1.as_str()) {
                server.set_admin(AdminState::Ready);
            }
        }
        for set in &carried.servers {
            let states = [AdminState::Drain, AdminState::Maint];
            let wanted = states.into_iter().find(|known| known.as_str() == set.state);
            let found = find(state, &set.upstream, &set.server);
            let (Some(wanted), Some(server)) = (wanted, found) else {
                tracing::info!(
                    upstream = set.upstream,
                    server = set.server,
                    state = set.state,
                    "the server is gone, and with it the state that was set by hand"
                );
                continue;
            };
            server.set_admin(wanted);
            let key = (UpstreamId::from(set.upstream.as_str()), server.id().clone());
            let setting = Setting {
                state: wanted,
                since: since(&set.since),
                // The process before this one has the connections.
                ending: None,
            };
            hand.servers.insert(key, setting);
        }
        let log = &state.config.log;
        hand.level = carried.level.as_ref().and_then(|(word, at)| {
            let level = Level::ALL
                .into_iter()
                .find(|level| level.as_str() == word)?;
            (level != log.level).then(|| (level, since(at)))
        });
        logging::change(&hand.with_level(log));
    }

    /// Carries what was set over to `next`, which takes the place of `earlier` in
    /// `replace`.
    pub(crate) fn carry_over(&self, earlier: &State, next: &State, replace: impl FnOnce()) {
        let mut hand = self.lock();
        hand.servers.retain(|(upstream, server), setting| {
            let found = find(next, upstream.as_str(), server.as_str());
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
        let (before, log) = (&earlier.config.log, &next.config.log);
        if before.level != log.level && hand.level.take().is_some() {
            tracing::info!("the level of the log is the file's again, which has changed");
        }
        replace();
        logging::change(&hand.with_level(log));
    }

    fn state(&self) -> Arc<State> {
        Arc::clone(&self.running.current().state)
    }

    fn lock(&self) -> MutexGuard<'_, Hand> {
        // Nothing that holds it leaves it half changed.
        self.hand.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Hand {
    fn with_level(&self, log: &Log) -> Log {
        Log {
            level: self.level.map_or(log.level, |(level, _)| level),
            ..log.clone()
        }
    }
}

/// The server of that name.
pub fn find(state: &State, upstream: &str, server: &str) -> Option<Arc<Server>> {
    let upstream = state.upstreams.get(upstream)?;
    upstream.pool().server(server).map(Arc::clone)
}

/// Ends the connections to a server in `maint` after `grace`, until there are none:
/// one that was being opened can be ended only once it is.
async fn end_connections(by_hand: ByHand, key: (UpstreamId, ServerId), grace: Duration) {
    sleep(grace).await;
    let (upstream, server) = &key;
    let which = Which::to(&key);
    let mut first = true;
    loop {
        {
            // With it nobody sets another state; and what was set before has ended
            // this task, unless it waited here.
            let hand = by_hand.lock();
            let setting = hand.servers.get(&key);
            let ending = setting.and_then(|setting| setting.ending.as_ref());
            if ending.is_none_or(|ending| Some(ending.id()) != task::try_id()) {
                return;
            }
            let killed = if mem::take(&mut first) {
                by_hand.kill(&which)
            } else {
                by_hand.kill_here(&which)
            };
            if killed > 0 {
                tracing::info!(%upstream, %server, killed, "in maint, and the grace is over: connections were ended");
            }
        }
        let found = find(&by_hand.state(), upstream.as_str(), server.as_str());
        if found.is_none_or(|server| server.in_flight() == 0) {
            return;
        }
        sleep(AGAIN).await;
    }
}
