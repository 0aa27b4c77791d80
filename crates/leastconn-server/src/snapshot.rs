//! The running configuration.
//!
//! A [`Snapshot`] is immutable. A reload creates the next snapshot, which shares all unchanged
//! parts with the current one, and stores it in the [`SnapshotHandle`].

mod handle;
mod listener;
mod shared_servers;

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use leastconn::{Pool, Server, UpstreamId};
use leastconn_config::Config;
use tokio::time::timeout;

use crate::{
    blocks::Blocks,
    policy::Policy,
    upstream::{ApplyMembers, DiscoveryHandover, Upstream, UpstreamError},
};

pub use handle::SnapshotHandle;
pub use listener::{Listener, ListenerTls};

/// One generation of the running configuration: listeners, client rules and upstreams.
#[derive(Debug)]
pub struct Snapshot {
    /// 0 for the configuration that the process started with. Each reload increments it.
    pub generation: u64,
    pub config: Config,
    pub upstreams: HashMap<UpstreamId, Arc<Upstream>>,
    pub policy: Arc<Policy>,
    /// Clients that operators have blocked, shared by all snapshots of a process.
    pub blocks: Arc<Blocks>,
    /// Servers removed from the configuration that may still have connections, with
    /// their upstreams.
    pub removed_servers: Vec<(UpstreamId, Arc<Server>)>,
    pub listeners: HashMap<Arc<str>, Arc<Listener>>,
    /// Listeners removed from the configuration that still have open connections, as
    /// they were last configured.
    pub removed_listeners: HashMap<Arc<str>, Arc<Listener>>,
}

impl Snapshot {
    /// Starts the upstreams of `config`, with their health checks. The snapshot has no
    /// listeners yet.
    ///
    /// # Errors
    /// If an upstream cannot be started.
    ///
    /// # Panics
    /// If called outside a Tokio runtime.
    pub fn start(config: Config) -> Result<Self, UpstreamError> {
        Self::start_after(config, &DiscoveryHandover::default())
    }

    /// Like [`Self::start`], with the servers that a predecessor process has discovered.
    ///
    /// # Errors
    /// If an upstream cannot be started.
    ///
    /// # Panics
    /// If called outside a Tokio runtime.
    pub fn start_after(
        config: Config,
        handover: &DiscoveryHandover,
    ) -> Result<Self, UpstreamError> {
        let mut upstreams = HashMap::new();
        for upstream in &config.upstreams {
            let started = Upstream::start_after(upstream, handover)?;
            upstreams.insert(upstream.id.clone(), Arc::new(started));
        }
        let policy = Arc::new(Policy::new(&config, &upstreams));
        Ok(Self {
            generation: 0,
            config,
            upstreams,
            policy,
            blocks: Arc::default(),
            removed_servers: Vec::new(),
            listeners: HashMap::new(),
            removed_listeners: HashMap::new(),
        })
    }

    /// The listener with this name, which may be a removed listener.
    pub fn listener(&self, name: &str) -> Option<&Arc<Listener>> {
        self.listeners
            .get(name)
            .or_else(|| self.removed_listeners.get(name))
    }

    /// All upstreams, in the order of the configuration.
    pub fn running_upstreams(&self) -> impl Iterator<Item = &Upstream> {
        let upstreams = self.config.upstreams.iter();
        upstreams
            .filter_map(|upstream| self.upstreams.get(&upstream.id))
            .map(|upstream| &**upstream)
    }

    /// The pools of all upstreams, in the order of the configuration.
    pub fn pools(&self) -> impl Iterator<Item = &Pool> {
        self.running_upstreams().map(Upstream::pool)
    }

    /// Whether servers of this upstream are discovered at run time.
    pub fn discovers_servers(&self, upstream: &UpstreamId) -> bool {
        let upstream = self.upstreams.get(upstream);
        upstream.is_some_and(|upstream| upstream.has_sources())
    }

    /// Starts discovery in all upstreams in which it does not run yet.
    pub fn start_discovery(&self, apply: &Arc<dyn ApplyMembers>) {
        self.upstreams
            .values()
            .for_each(|upstream| upstream.start_discovery(apply));
    }

    /// The discovered servers, for a successor process.
    pub fn export_discovered(&self) -> DiscoveryHandover {
        let mut handover = DiscoveryHandover::default();
        for upstream in self.running_upstreams() {
            upstream.hand_over_to(&mut handover);
        }
        handover
    }

    /// Waits until each source has had an answer with servers. Skips upstreams with
    /// `start = "empty"`.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub fn first_answers(&self) -> impl Future<Output = ()> + Send + use<> {
        let answers: Vec<_> = self.upstreams.values().map(|u| u.first_answers()).collect();
        async move {
            for answer in answers {
                answer.await;
            }
        }
    }

    /// Whether [`Self::first_answers`] has to wait.
    pub fn is_waiting_for_servers(&self) -> bool {
        let mut upstreams = self.upstreams.values();
        upstreams.any(|upstream| upstream.is_waiting_for_servers())
    }

    /// An error text that lists the sources of servers that have not answered yet.
    pub fn unanswered_sources(&self) -> String {
        let upstreams = self.upstreams.values();
        let waiting = upstreams.filter(|upstream| upstream.is_waiting_for_servers());
        let sources = waiting.flat_map(|upstream| {
            let sources = upstream.sources().into_iter();
            let unanswered = sources.filter(|source| !source.is_answered);
            unanswered.map(move |source| {
                let error = source.error.as_deref().unwrap_or("no answer yet");
                format!("{}: {}: {error}", upstream.pool().id(), source.kind)
            })
        });
        let sources: Vec<_> = sources.collect();
        format!("no servers discovered: {}", sources.join("; "))
    }

    /// The server with this name in the upstream with this name.
    pub fn server(&self, upstream: &str, server: &str) -> Option<Arc<Server>> {
        let upstream = self.upstreams.get(upstream)?;
        upstream.pool().server(server)
    }

    /// Waits until every server has been probed once, for at most `limit`.
    pub async fn first_probes(&self, limit: Duration) {
        let rounds: Vec<_> = self.upstreams.values().map(|u| u.first_round()).collect();
        let all = async {
            for round in rounds {
                round.await;
            }
        };
        let _ = timeout(limit, all).await;
    }

    /// Creates the snapshot that follows this one, without listeners. Unchanged upstreams are
    /// shared. In a changed upstream, servers with the same name and address keep their connection
    /// counts and health, but health checks start anew. [`Self::stop_checks_for`] stops the health
    /// checks of this snapshot.
    ///
    /// # Errors
    /// The errors of [`Self::start`]. After an error, nothing has changed.
    ///
    /// # Panics
    /// If called outside a Tokio runtime.
    pub fn succeed(&self, config: Config) -> Result<Self, UpstreamError> {
        let changed =
            |new: &&leastconn_config::Upstream| self.config.upstream(&new.id) != Some(new);
        // Everything that can fail comes first: `Upstream::succeed` changes servers in use.
        for upstream in config.upstreams.iter().filter(changed) {
            Upstream::check(upstream)?;
        }
        let mut upstreams = HashMap::new();
        for upstream in &config.upstreams {
            let next = match self.upstreams.get(&upstream.id) {
                Some(same) if !changed(&upstream) => Arc::clone(same),
                Some(earlier) => Arc::new(earlier.succeed(upstream)?),
                None => Arc::new(Upstream::start(upstream)?),
            };
            upstreams.insert(upstream.id.clone(), next);
        }
        let same_upstreams = upstreams.len() == self.upstreams.len()
            && upstreams.iter().all(|(id, next)| {
                let earlier = self.upstreams.get(id);
                earlier.is_some_and(|earlier| Arc::ptr_eq(earlier, next))
            });
        // Building the index of 100,000 rules takes noticeable time.
        let policy = if same_upstreams && Arc::ptr_eq(&config.clients, &self.config.clients) {
            Arc::clone(&self.policy)
        } else {
            Arc::new(Policy::new(&config, &upstreams))
        };
        Ok(Self {
            generation: self.generation + 1,
            removed_servers: self.removed_servers(&upstreams),
            config,
            upstreams,
            policy,
            blocks: Arc::clone(&self.blocks),
            listeners: HashMap::new(),
            removed_listeners: HashMap::new(),
        })
    }

    /// Servers that are no longer members but still have connections, with their upstreams.
    /// Includes servers removed from the configuration and servers removed by discovery.
    pub fn departed_servers(&self) -> Vec<(UpstreamId, Arc<Server>)> {
        let removed = self.removed_servers.iter().cloned();
        let departed = self.upstreams.iter().flat_map(|(id, upstream)| {
            let departed = upstream.pool().departed().into_iter();
            departed.map(move |server| (id.clone(), server))
        });
        // A server of a changed upstream may be in both lists.
        let mut seen = HashSet::new();
        removed
            .chain(departed)
            .filter(|(_, server)| server.in_flight() > 0 && seen.insert(Arc::as_ptr(server)))
            .collect()
    }

    /// Servers of this and earlier snapshots that are not in `next`.
    fn removed_servers(
        &self,
        next: &HashMap<UpstreamId, Arc<Upstream>>,
    ) -> Vec<(UpstreamId, Arc<Server>)> {
        let current = self.upstreams.iter().flat_map(|(id, upstream)| {
            let members = upstream.pool().members();
            let servers: Vec<_> = members.iter().map(|m| Arc::clone(&m.server)).collect();
            servers.into_iter().map(move |server| (id, server))
        });
        let earlier = self.removed_servers.iter();
        // Servers of this snapshot are kept even if idle: a connection that started
        // under it may still pick one.
        let earlier = earlier.filter(|(_, server)| server.in_flight() > 0);
        let stays = |(id, server): &(&UpstreamId, Arc<Server>)| {
            next.get(*id).is_some_and(|upstream| {
                let members = upstream.pool().members();
                let mut members = members.iter();
                members.any(|member| Arc::ptr_eq(&member.server, server))
            })
        };
        current
            .chain(earlier.map(|(id, server)| (id, Arc::clone(server))))
            .filter(|server| !stays(server))
            .map(|(id, server)| (id.clone(), server))
            .collect()
    }

    /// Stops health checks and discovery of upstreams that `next` does not share: connections in
    /// the handshake may keep this snapshot alive, and servers in both snapshots must not be probed
    /// twice.
    pub fn stop_checks_for(&self, next: &Self) {
        for (id, upstream) in &self.upstreams {
            let same = next.upstreams.get(id);
            if same.is_none_or(|same| !Arc::ptr_eq(same, upstream)) {
                upstream.stop_tasks();
            }
            if let Some(same) = same {
                same.forget_removed_agents();
            }
        }
    }
}

#[cfg(test)]
mod tests;
