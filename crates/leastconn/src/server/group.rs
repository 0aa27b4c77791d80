//! The servers of one upstream, as a group. Some decisions about one server depend on the other
//! servers: whether another server may be ejected, and whether any server is available.
//!
//! A pool shares the group with its successors, so the group persists across reloads. Changes to
//! health, administrative state and membership lock the group; picks do not.

use std::{fmt, num::NonZeroU32, time::Duration};

#[cfg(feature = "tokio")]
use super::health_change::Transition;
use super::{Cause, EJECTED, Server};
use crate::{
    health::{Health, Siblings},
    spec::{PanicPolicy, UpstreamId},
    sync::{Arc, Mutex, MutexGuard, Ordering},
};

/// Receives notifications about slots that may have become free.
pub(crate) trait Slots: fmt::Debug + Send + Sync {
    /// A connection has ended on `server`, whose slots are reserved.
    fn freed(&self, server: &Server);

    /// A server has become available or unavailable.
    fn changed(&self);
}

/// Why slots are requested.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SlotRequest {
    /// A pick has found no server but would have succeeded with another slot.
    Needed,
    /// A server's last slot was taken, or a connection has ended on a server with more connections
    /// than slots.
    Changed,
}

/// Where more slots come from; see [`Pool::set_slot_source`](crate::Pool::set_slot_source).
#[derive(Clone)]
pub struct SlotSource {
    balancers: NonZeroU32,
    wait: Duration,
    request: Arc<dyn Fn(SlotRequest) + Send + Sync>,
}

impl SlotSource {
    /// Creates a source. `balancers` is the number of balancers that share the pool's servers. When
    /// a server with `max_conns` joins the pool, this balancer starts with an equal share of its
    /// slots, but at least one.
    ///
    /// `request` is called when more slots are needed or slots can be returned. Any pick may call
    /// it, even while holding locks, so it must neither block nor use a pool.
    ///
    /// `wait` is the maximum time that a connection waits for a slot if the pool has no queue.
    pub fn new(
        balancers: NonZeroU32,
        wait: Duration,
        request: impl Fn(SlotRequest) + Send + Sync + 'static,
    ) -> Self {
        Self {
            balancers,
            wait,
            request: Arc::new(request),
        }
    }
}

impl fmt::Debug for SlotSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("SlotSource");
        debug.field("balancers", &self.balancers);
        debug.field("wait", &self.wait).finish_non_exhaustive()
    }
}

#[derive(Debug)]
pub(crate) struct ServerGroup {
    #[cfg_attr(
        not(feature = "tokio"),
        expect(dead_code, reason = "used only for logging")
    )]
    id: UpstreamId,
    state: Mutex<State>,
    slots: Arc<dyn Slots>,
    slot_source: Mutex<Option<SlotSource>>,
    /// Whether the upstream is in panic. The value is sent whenever a server becomes available or
    /// unavailable, even if the value itself has not changed.
    #[cfg(feature = "tokio")]
    panicking: tokio::sync::watch::Sender<bool>,
}

#[derive(Debug, Default)]
struct State {
    servers: Vec<Arc<Server>>,
    panic: PanicPolicy,
    is_panicking: bool,
    /// Whether no server is available because all of them were taken out of service.
    is_out_of_service: bool,
}

/// A message about the availability of all servers.
#[derive(Clone, Copy, Debug)]
enum AvailabilityMessage {
    /// All servers were taken out of service.
    OutOfService,
    /// Panic begins, with [`PanicPolicy::Dial`].
    Dial,
    /// Panic begins, with [`PanicPolicy::Refuse`].
    Refuse,
    Available,
}

impl ServerGroup {
    pub(crate) fn new(id: UpstreamId, slots: Arc<dyn Slots>) -> Self {
        Self {
            id,
            slots,
            slot_source: Mutex::new(None),
            state: Mutex::new(State::default()),
            #[cfg(feature = "tokio")]
            panicking: tokio::sync::watch::Sender::new(false),
        }
    }

    pub(super) fn slots(&self) -> &dyn Slots {
        &*self.slots
    }

    pub(crate) fn set_slot_source(&self, source: Option<SlotSource>) {
        *self.slot_source.lock() = source;
    }

    pub(crate) fn request_slots(&self, request: SlotRequest) {
        let source = self.slot_source.lock();
        let callback = source.as_ref().map(|source| Arc::clone(&source.request));
        drop(source);
        if let Some(callback) = callback {
            callback(request);
        }
    }

    /// Returns the slots that this balancer initially holds on a joining server with `max_conns`.
    /// `None`: slots do not limit the connections.
    pub(crate) fn first_slots(&self, max: NonZeroU32) -> Option<u32> {
        let source = self.slot_source.lock();
        let balancers = source.as_ref()?.balancers;
        Some((max.get() / balancers).max(1))
    }

    /// Returns how long a connection waits for a slot if the pool has no queue.
    pub(crate) fn slot_wait(&self) -> Duration {
        let source = self.slot_source.lock();
        source.as_ref().map_or(Duration::ZERO, |source| source.wait)
    }

    pub(crate) fn set_servers(&self, servers: Vec<Arc<Server>>) {
        let mut state = self.state.lock();
        state.servers = servers;
        let message = self.publish(state);
        self.log_availability(message);
    }

    pub(crate) fn set_panic(&self, panic: PanicPolicy) {
        self.state.lock().panic = panic;
    }

    /// Updates the panic state after a server's administrative state has changed.
    pub(super) fn refresh(&self) {
        let message = self.publish(self.state.lock());
        self.log_availability(message);
    }

    /// Changes the health of `server`. Returns whether the server came up, went down or was
    /// ejected.
    pub(super) fn change(
        &self,
        server: &Server,
        cause: Cause<'_>,
        change: impl FnOnce(&mut Health, Siblings),
    ) -> bool {
        let state = self.state.lock();
        let others = || {
            let servers = state.servers.iter();
            servers.filter(|s| !std::ptr::eq(&***s, server))
        };
        let ejected = others().filter(|s| s.word.load(Ordering::Relaxed) & EJECTED != 0);
        let mut siblings = Siblings::new(state.servers.len(), ejected.count());
        siblings.another_serves = others().any(|other| other.serves());
        if !state.any_available() {
            siblings = siblings.none_available();
        }
        let changed = server.change_health(cause, |health| change(health, siblings));
        let mut message = None;
        if changed.is_up_changed || changed.recovered {
            message = self.publish(state);
        } else {
            drop(state);
        }
        // Log the change first: it may be the reason why no server is available, or why one is
        // available again.
        #[cfg(feature = "tokio")]
        self.log_change(server, cause, changed.transition);
        self.log_availability(message);
        changed.is_up_changed
    }

    /// Whether no server is available, but at least one server is ejected or down.
    pub(crate) fn is_panicking(&self) -> bool {
        self.state.lock().is_panicking
    }

    /// Publishes the panic state while the lock is held, so that the last published value reflects
    /// all changes. Then releases the lock and notifies the queue. Returns the message to log.
    ///
    /// Callers log without the lock: standard error may block, and a subscriber may use the pool.
    fn publish(&self, mut state: MutexGuard<'_, State>) -> Option<AvailabilityMessage> {
        let before = (state.is_panicking, state.is_out_of_service);
        let none_available = !state.any_available() && !state.servers.is_empty();
        state.is_panicking =
            none_available && state.servers.iter().any(|server| server.is_unhealthy());
        state.is_out_of_service = none_available && !state.is_panicking;
        let is_changed = (state.is_panicking, state.is_out_of_service) != before;
        let message = is_changed.then(|| match state.panic {
            _ if state.is_out_of_service => AvailabilityMessage::OutOfService,
            PanicPolicy::Dial if state.is_panicking => AvailabilityMessage::Dial,
            PanicPolicy::Refuse if state.is_panicking => AvailabilityMessage::Refuse,
            PanicPolicy::Dial | PanicPolicy::Refuse => AvailabilityMessage::Available,
        });
        #[cfg(feature = "tokio")]
        self.panicking.send_replace(state.is_panicking);
        drop(state);
        self.slots.changed();
        message
    }

    #[cfg(feature = "tokio")]
    fn log_change(&self, server: &Server, cause: Cause<'_>, transition: Option<Transition>) {
        let Some(transition) = transition else {
            return;
        };
        let (upstream, server, failure) = (&self.id, server.id(), cause.failure());
        let cause = cause.name();
        match (transition, failure) {
            (Transition::Up, None) => tracing::info!(%upstream, %server, cause, "server up"),
            // The trial connection of an ejected server has failed early, as those of all other
            // servers do.
            (Transition::Up, Some(_)) => {
                let reason = "no other server serves connections";
                tracing::info!(%upstream, %server, cause, reason, "server up");
            }
            (Transition::Ejected, Some(failure)) => {
                tracing::warn!(%upstream, %server, cause, reason = %failure.error(), "server ejected");
            }
            (Transition::Down, Some(failure)) => {
                tracing::warn!(%upstream, %server, cause, reason = %failure.error(), "server down");
            }
            (Transition::Ejected | Transition::Down, None) => {}
        }
    }

    fn log_availability(&self, message: Option<AvailabilityMessage>) {
        #[cfg(feature = "tokio")]
        {
            let upstream = &self.id;
            match message {
                Some(AvailabilityMessage::OutOfService) => tracing::warn!(
                    %upstream,
                    "all servers out of service: refusing connections"
                ),
                Some(AvailabilityMessage::Dial) => tracing::warn!(
                    %upstream,
                    "all servers unavailable: connecting to any of them"
                ),
                Some(AvailabilityMessage::Refuse) => tracing::warn!(
                    %upstream,
                    "all servers unavailable: refusing connections"
                ),
                Some(AvailabilityMessage::Available) => {
                    tracing::info!(%upstream, "server available again")
                }
                None => {}
            }
        }
        #[cfg(not(feature = "tokio"))]
        let _ = message;
    }

    /// Notifies when a server becomes available or unavailable. The value tells whether the
    /// upstream is in panic.
    #[cfg(feature = "tokio")]
    pub(crate) fn panicking(&self) -> tokio::sync::watch::Receiver<bool> {
        self.panicking.subscribe()
    }
}

impl State {
    fn any_available(&self) -> bool {
        self.servers.iter().any(|server| server.is_available())
    }
}

#[cfg(all(test, feature = "tokio", not(loom)))]
mod tests;
