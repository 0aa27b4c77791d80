//! Schedules handshakes fairly between sources: a flooding source delays only its own handshakes.
//!
//! A handshake needs the CPU for two short periods: each of its two steps contains a signature
//! operation. When hundreds of handshakes are ready at the same time, the runtime polls them in
//! order of arrival, and a new client's handshake comes last. At a third of a millisecond per step,
//! the new client may wait for a hundred milliseconds.
//!
//! So each handshake acquires a [`HandshakePermit`] first, and then a [`TimeSlice`] before each
//! step. Both are granted round robin over the sources ([`queue`]). A source is a network: by
//! default an IPv4 address, or an IPv6 /64 because one customer usually has a /64. All /64s of a
//! /48 form a group, and each group gets the same share.
//!
//! A handshake that waits for its client does no work, so it gives up its permit when other
//! handshakes need one ([`client_waits`]).
//!
//! Established connections have priority: after every one or two steps, the next time slice begins
//! only after the runtime has polled all ready tasks and has asked the kernel for new I/O events
//! ([`tokio_order`]). So an established connection waits for at most one or two steps. If relaying
//! keeps the CPU busy, handshakes run for longer at a time, which gives them a share of the CPU.
//!
//! While only a few handshakes are in progress, they are not scheduled. Each handshake then takes
//! an uncontended lock twice for its permit and once for each step.

mod client_waits;
mod permit;
mod queue;
mod tokio_order;

use std::{
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use leastconn_config::{IpNet, Prefixes};
use parking_lot::{Mutex, MutexGuard};
use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::oneshot::{Receiver, Sender, channel};

use crate::telemetry::metrics::GaugeGuard;
use client_waits::ClientWaits;
pub use permit::{HandshakePermit, TimeSlice};
use queue::{PermitAnswer, Queue, Source, Ticket};

/// Up to this many handshakes in progress per worker are not scheduled, because they delay a new
/// handshake by only a few milliseconds.
const UNSCHEDULED: usize = 16;

/// Maximum number of parked handshakes for each permit. A parked handshake holds about 28 KiB.
const PARKED: usize = 8;

/// The length of the prefix that groups IPv6 sources. One site usually has a /48.
const GROUP_V6: u8 = 48;

impl Source for IpNet {
    fn group(self) -> Self {
        if self.is_ipv4() || self.prefix() <= GROUP_V6 {
            return self;
        }
        let prefixes = Prefixes {
            v6: GROUP_V6,
            ..Prefixes::default()
        };
        Self::of(self.address(), prefixes)
    }
}

/// The handshake scheduler of a process.
#[derive(Debug)]
pub struct HandshakeScheduler(Mutex<State>);

#[derive(Debug)]
struct State {
    queue: Queue<IpNet, Sender<()>>,
    client_waits: ClientWaits<IpNet, Sender<()>>,
    /// How much longer handshakes may run before other tasks have priority again.
    credit: Duration,
}

impl HandshakeScheduler {
    /// Creates a scheduler for `workers` workers that allows `max_handshakes` in progress.
    pub fn new(max_handshakes: usize, workers: usize) -> Self {
        Self(Mutex::new(State {
            queue: Queue::new(max_handshakes, workers, UNSCHEDULED * workers),
            client_waits: ClientWaits::new(PARKED * max_handshakes),
            credit: Duration::ZERO,
        }))
    }

    /// Changes the limit. If it is lowered, handshakes in progress above it continue, and no new
    /// handshake starts until enough of them have ended.
    pub fn resize(&self, max_handshakes: usize) {
        let notify = {
            let mut state = self.lock();
            state.client_waits.resize(PARKED * max_handshakes);
            let mut notify = state.queue.resize(max_handshakes);
            notify.extend(state.evict());
            notify
        };
        notify.into_iter().for_each(wake);
    }

    /// Waits for a permit to start a handshake. `waiting` counts the handshakes that wait for
    /// a permit or a time slice.
    ///
    /// # Cancel safety
    /// Dropping the future releases its place in the queue.
    pub async fn acquire(self: &Arc<Self>, source: IpNet, waiting: &Gauge) -> HandshakePermit {
        self.take_permit(source, waiting).await;
        HandshakePermit {
            scheduler: Arc::clone(self),
            source,
            waiting: waiting.clone(),
            has_permit: AtomicBool::new(true),
        }
    }

    async fn take_permit(&self, source: IpNet, waiting: &Gauge) {
        let mut granted = None;
        let (answer, notify) = {
            let mut state = self.lock();
            let notify = state.make_room(source);
            let answer = state
                .queue
                .acquire_permit(source, || new_waiter(&mut granted));
            (answer, notify)
        };
        notify.into_iter().for_each(wake);
        if let (PermitAnswer::Queued(ticket), Some(granted)) = (answer, granted) {
            let _counted = GaugeGuard::new(waiting);
            Waiter::wait(self, source, ticket, Resource::Permit, granted).await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock()
    }

    fn release_permit(&self, source: IpNet) {
        let notify = self.lock().queue.release_permit(source);
        notify.into_iter().for_each(wake);
    }

    /// Ends a time slice that used up `spent` of the credit.
    fn release_slice(&self, spent: Duration) {
        let next = {
            let mut state = self.lock();
            state.credit = state.credit.saturating_sub(spent);
            state.queue.release_slice()
        };
        next.into_iter().for_each(wake);
    }
}

impl State {
    /// Parks handshakes that wait for their clients until a permit is free for `source`. Returns
    /// the tasks to wake, each of which got a permit or was evicted.
    fn make_room(&mut self, source: IpNet) -> Vec<Sender<()>> {
        self.park_while(|queue| !queue.has_permit_for(source))
    }

    /// While other handshakes wait for a permit, parks handshakes that wait for their clients,
    /// starting with the one that has waited longest.
    fn release_idle_permits(&mut self) -> Vec<Sender<()>> {
        self.park_while(Queue::has_permit_waiters)
    }

    fn park_while(
        &mut self,
        is_short: impl Fn(&Queue<IpNet, Sender<()>>) -> bool,
    ) -> Vec<Sender<()>> {
        let mut notify = Vec::new();
        while is_short(&self.queue)
            && let Some(parked) = self.client_waits.park()
        {
            notify.extend(self.queue.release_permit(parked));
        }
        notify.extend(self.evict());
        notify
    }

    fn evict(&mut self) -> Vec<Sender<()>> {
        std::iter::from_fn(|| self.client_waits.evict()).collect()
    }
}

fn new_waiter(granted: &mut Option<Receiver<()>>) -> Sender<()> {
    let (sender, receiver) = channel();
    *granted = Some(receiver);
    sender
}

/// Wakes a waiting handshake. Sending fails if the handshake was cancelled. In that case,
/// [`Waiter::drop`] has returned the permit or time slice.
fn wake(waiter: Sender<()>) {
    let _ = waiter.send(());
}

#[derive(Clone, Copy, Debug)]
enum Resource {
    Permit,
    TimeSlice,
}

/// A handshake that waits for a permit or a time slice.
struct Waiter<'a> {
    scheduler: &'a HandshakeScheduler,
    source: IpNet,
    ticket: Ticket,
    resource: Resource,
    is_granted: bool,
}

impl<'a> Waiter<'a> {
    async fn wait(
        scheduler: &'a HandshakeScheduler,
        source: IpNet,
        ticket: Ticket,
        resource: Resource,
        granted: Receiver<()>,
    ) {
        let mut waiter = Self {
            scheduler,
            source,
            ticket,
            resource,
            is_granted: false,
        };
        // This cannot fail, because the queue keeps the sender while this handshake waits.
        let _ = granted.await;
        waiter.is_granted = true;
    }
}

impl Drop for Waiter<'_> {
    /// Leaves the queue. If the permit or time slice was already granted but the task has not
    /// noticed, returns it instead.
    fn drop(&mut self) {
        if self.is_granted {
            return;
        }
        let (source, ticket) = (self.source, self.ticket);
        match self.resource {
            Resource::Permit => {
                let was_queued = self.scheduler.lock().queue.cancel_permit(source, ticket);
                if !was_queued {
                    self.scheduler.release_permit(source);
                }
            }
            Resource::TimeSlice => {
                let was_queued = self.scheduler.lock().queue.cancel_slice(source, ticket);
                if !was_queued {
                    self.scheduler.release_slice(Duration::ZERO);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
