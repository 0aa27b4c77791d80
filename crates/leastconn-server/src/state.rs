//! What the running configuration became: upstreams and rules.
//!
//! It is made as a whole and never changed; a changed configuration makes the next
//! one out of it, which shares what stayed the same.

use std::{collections::HashMap, sync::Arc, time::Duration};

use leastconn::{Server, UpstreamId};
use tokio::time::timeout;

use crate::{
    config::Config,
    policy::Policy,
    upstream::{Upstream, UpstreamError},
};

/// A configuration, running.
#[derive(Debug)]
pub struct State {
    /// How many there were before it.
    pub epoch: u64,
    /// What it was made of.
    pub config: Config,
    /// Its upstreams.
    pub upstreams: HashMap<UpstreamId, Arc<Upstream>>,
    /// Its client rules.
    pub policy: Arc<Policy>,
    /// Servers that are gone from the configuration and may still have connections, with
    /// the names of their upstreams.
    pub departed: Vec<(UpstreamId, Arc<Server>)>,
}

impl State {
    /// Starts the upstreams of `config`, with their health checks.
    ///
    /// # Errors
    /// If an upstream cannot be started.
    ///
    /// # Panics
    /// Outside a Tokio runtime.
    pub fn start(config: Config) -> Result<Self, UpstreamError> {
        let mut upstreams = HashMap::new();
        for upstream in &config.upstreams {
            upstreams.insert(upstream.id.clone(), Arc::new(Upstream::start(upstream)?));
        }
        let policy = Arc::new(Policy::new(&config, &upstreams));
        Ok(Self {
            epoch: 0,
            config,
            upstreams,
            policy,
            departed: Vec::new(),
        })
    }

    /// Waits until every server has been probed, but no longer than `limit`.
    pub async fn first_probes(&self, limit: Duration) {
        let rounds: Vec<_> = self.upstreams.values().map(|u| u.first_round()).collect();
        let all = async {
            for round in rounds {
                round.await;
            }
        };
        let _ = timeout(limit, all).await;
    }

    /// The state that follows this one when the configuration changes. An upstream
    /// of which nothing changed is the same one. In one that did, servers of the
    /// same name and address go on with their counts and their health, and its
    /// checks start anew: [`Self::stop_checks_for`] ends those of this state.
    ///
    /// # Errors
    /// As [`Self::start`]; then nothing has changed.
    ///
    /// # Panics
    /// Outside a Tokio runtime.
    pub fn succeed(&self, config: Config) -> Result<Self, UpstreamError> {
        let changed = |new: &&crate::config::Upstream| self.config.upstream(&new.id) != Some(new);
        // All that can fail, before anything that servers in use would notice.
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
        // With very many rules, finding them fast takes a moment to prepare.
        let policy = if same_upstreams && Arc::ptr_eq(&config.clients, &self.config.clients) {
            Arc::clone(&self.policy)
        } else {
            Arc::new(Policy::new(&config, &upstreams))
        };
        Ok(Self {
            epoch: self.epoch + 1,
            departed: self.departed(&upstreams),
            config,
            upstreams,
            policy,
        })
    }

    /// The servers of this state and before that `next` does not have.
    fn departed(
        &self,
        next: &HashMap<UpstreamId, Arc<Upstream>>,
    ) -> Vec<(UpstreamId, Arc<Server>)> {
        let removed = self.upstreams.iter().flat_map(|(id, upstream)| {
            let members = upstream.pool().members().iter();
            members.map(move |member| (id, &member.server))
        });
        let earlier = self.departed.iter();
        // A connection that began under this state may still pick one that is idle now.
        let earlier = earlier.filter(|(_, server)| server.in_flight() > 0);
        let stays = |(id, server): &(&UpstreamId, &Arc<Server>)| {
            next.get(*id).is_some_and(|upstream| {
                let mut members = upstream.pool().members().iter();
                members.any(|member| Arc::ptr_eq(&member.server, server))
            })
        };
        removed
            .chain(earlier.map(|(id, server)| (id, server)))
            .filter(|server| !stays(server))
            .map(|(id, server)| (id.clone(), Arc::clone(server)))
            .collect()
    }

    /// Ends the health checks of upstreams that `next` has not, or has changed. This
    /// state may live on for as long as a client takes to shake hands, and servers
    /// that both have must not be probed, and judged, twice.
    pub fn stop_checks_for(&self, next: &Self) {
        for (id, upstream) in &self.upstreams {
            let same = next.upstreams.get(id);
            if same.is_none_or(|same| !Arc::ptr_eq(same, upstream)) {
                upstream.stop_checks();
            }
        }
    }
}

#[cfg(test)]
mod tests;
