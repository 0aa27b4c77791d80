//! The servers of one upstream, as a group. Some decisions about one server depend on the other
//! servers: whether another server may be ejected, and whether any server is available.
//!
//! A pool shares the group with its successors, so the group persists across reloads. Changes to
//! health, administrative state and membership lock the group; picks do not.

use std::{fmt, num::NonZeroU32, time::Duration};

use super::{Cause, EJECTED, Server};
#[cfg(feature = "tokio")]
use super::{HealthChange, Success};
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
        self.publish(state);
    }

    pub(crate) fn set_panic(&self, panic: PanicPolicy) {
        self.state.lock().panic = panic;
    }

    /// Updates the panic state after a server's administrative state has changed.
    pub(super) fn refresh(&self) {
        self.publish(self.state.lock());
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
        // Log this first: the next message may be that no server is available, or that one is
        // available again.
        #[cfg(feature = "tokio")]
        self.log_change(server, cause, changed);
        if changed.is_up_changed || changed.recovered {
            self.publish(state);
        }
        changed.is_up_changed
    }

    /// Whether no server is available, but at least one server is ejected or down.
    pub(crate) fn is_panicking(&self) -> bool {
        self.state.lock().is_panicking
    }

    /// Publishes the panic state while the lock is held, so that the last published value reflects
    /// all changes. Then notifies the queue.
    fn publish(&self, mut state: MutexGuard<'_, State>) {
        let before = (state.is_panicking, state.is_out_of_service);
        let none_available = !state.any_available() && !state.servers.is_empty();
        state.is_panicking =
            none_available && state.servers.iter().any(|server| server.is_unhealthy());
        state.is_out_of_service = none_available && !state.is_panicking;
        #[cfg(feature = "tokio")]
        {
            if (state.is_panicking, state.is_out_of_service) != before {
                self.log(&state);
            }
            self.panicking.send_replace(state.is_panicking);
        }
        #[cfg(not(feature = "tokio"))]
        let _ = before;
        drop(state);
        self.slots.changed();
    }

    #[cfg(feature = "tokio")]
    fn log_change(&self, server: &Server, cause: Cause<'_>, changed: HealthChange) {
        let (upstream, server) = (&self.id, server.id());
        match cause {
            Cause::Success(success) if changed.is_up_changed => {
                let cause = match success {
                    Success::Probe => "health check",
                    Success::Agent => "agent check",
                    Success::Connect => "connect",
                    Success::Connection => "connection",
                };
                tracing::info!(%upstream, %server, cause, "server up");
            }
            // An ejected server may also go down.
            Cause::Probe(failure) if changed.went_down => {
                tracing::warn!(%upstream, %server, cause = "health check", reason = %failure.error(), "server down");
            }
            Cause::Agent(failure) if changed.went_down => {
                tracing::warn!(%upstream, %server, cause = "agent check", reason = %failure.error(), "server down");
            }
            Cause::Connect(failure) if changed.is_up_changed => {
                tracing::warn!(%upstream, %server, cause = "connect", reason = %failure.error(), "server ejected");
            }
            Cause::Early(failure) if changed.is_up_changed => {
                tracing::warn!(%upstream, %server, cause = "connection", reason = %failure.error(), "server ejected");
            }
            Cause::Probe(_)
            | Cause::Agent(_)
            | Cause::Connect(_)
            | Cause::Early(_)
            | Cause::Success(_)
            | Cause::Other => {}
        }
    }

    #[cfg(feature = "tokio")]
    fn log(&self, state: &State) {
        let upstream = &self.id;
        if state.is_out_of_service {
            tracing::warn!(
                %upstream,
                "all servers out of service: refusing connections"
            );
        } else if state.is_panicking {
            match state.panic {
                PanicPolicy::Dial => tracing::warn!(
                    %upstream,
                    "all servers unavailable: connecting to any of them"
                ),
                PanicPolicy::Refuse => tracing::warn!(
                    %upstream,
                    "all servers unavailable: refusing connections"
                ),
            }
        } else {
            tracing::info!(%upstream, "server available again");
        }
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
