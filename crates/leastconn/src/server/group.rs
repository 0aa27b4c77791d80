//! The servers of one upstream, as far as they matter to each other: how many may be
//! ejected, and whether any is available.
//!
//! Pools that succeed each other share it, so that it lasts from one configuration to the
//! next. Everything here is for changes of health, which are rare; picking does not come
//! here.

use super::{Cause, EJECTED, Server};
use crate::{
    health::{Health, Siblings},
    spec::{PanicPolicy, UpstreamId},
    sync::{Arc, Mutex, MutexGuard, Ordering, lock},
};

/// See the module.
#[derive(Debug)]
pub(crate) struct Membership {
    #[cfg_attr(not(feature = "tokio"), expect(dead_code, reason = "for the log"))]
    id: UpstreamId,
    state: Mutex<State>,
    /// Whether the upstream is in panic. Sent, changed or not, whenever a server has
    /// become available, or stopped to be.
    #[cfg(feature = "tokio")]
    changes: tokio::sync::watch::Sender<bool>,
}

#[derive(Debug, Default)]
struct State {
    servers: Vec<Arc<Server>>,
    panic: PanicPolicy,
    is_panicking: bool,
}

impl Membership {
    pub(crate) fn new(id: UpstreamId) -> Self {
        Self {
            id,
            state: Mutex::new(State::default()),
            #[cfg(feature = "tokio")]
            changes: tokio::sync::watch::Sender::new(false),
        }
    }

    /// These are the servers from now on.
    pub(crate) fn set_servers(&self, servers: Vec<Arc<Server>>) {
        let mut state = lock(&self.state);
        state.servers = servers;
        self.publish(state);
    }

    pub(crate) fn set_panic(&self, panic: PanicPolicy) {
        lock(&self.state).panic = panic;
    }

    /// A server changed.
    pub(crate) fn update(&self) {
        self.publish(lock(&self.state));
    }

    /// Changes the health of `server`. Returns whether this changed whether it is up.
    pub(super) fn change(
        &self,
        server: &Server,
        cause: Cause<'_>,
        change: impl FnOnce(&mut Health, Siblings),
    ) -> bool {
        let state = lock(&self.state);
        let others = state
            .servers
            .iter()
            .filter(|s| !std::ptr::eq(&***s, server));
        let ejected = others.filter(|s| s.word.load(Ordering::Relaxed) & EJECTED != 0);
        let mut siblings = Siblings::new(state.servers.len(), ejected.count());
        if !state.any_available() {
            siblings = siblings.none_available();
        }
        let (changed, matters) = server.change_health(cause, |health| change(health, siblings));
        if matters {
            self.publish(state);
        }
        changed
    }

    /// Whether no server is available, but some would be for a last resort.
    pub(crate) fn is_panicking(&self) -> bool {
        lock(&self.state).is_panicking
    }

    /// Within the lock, so that the last one to publish has seen all changes.
    fn publish(&self, mut state: MutexGuard<'_, State>) {
        let before = state.is_panicking;
        state.is_panicking =
            !state.any_available() && state.servers.iter().any(|server| server.is_unhealthy());
        #[cfg(feature = "tokio")]
        {
            if state.is_panicking != before {
                self.log(&state);
            }
            self.changes.send_replace(state.is_panicking);
        }
        #[cfg(not(feature = "tokio"))]
        let _ = before;
    }

    #[cfg(feature = "tokio")]
    fn log(&self, state: &State) {
        let upstream = &self.id;
        match (state.is_panicking, state.panic) {
            (true, PanicPolicy::Dial) => {
                tracing::warn!(%upstream, "panic begins: no server is available, dialling ejected and down servers");
            }
            (true, PanicPolicy::Refuse) => {
                tracing::warn!(%upstream, "panic begins: no server is available, refusing connections");
            }
            (false, _) => tracing::info!(%upstream, "panic ends"),
        }
    }

    /// Tells when a server has become available or stopped to be.
    #[cfg(feature = "tokio")]
    pub(crate) fn changes(&self) -> tokio::sync::watch::Receiver<bool> {
        self.changes.subscribe()
    }
}

impl State {
    fn any_available(&self) -> bool {
        self.servers.iter().any(|server| server.is_available())
    }
}
