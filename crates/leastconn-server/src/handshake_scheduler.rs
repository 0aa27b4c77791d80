//! Fair order of TLS handshakes: a flooding source delays only its own handshakes.
//!
//! A handshake costs two short pieces of CPU time, the signatures of each flight. If
//! hundreds of clients need one at the same time, the runtime runs them first come, first
//! served, and a newcomer waits for all of them: a hundred milliseconds. So a handshake
//! acquires a [`HandshakePermit`] to start and a [`TimeSlice`] for each step, and both are
//! shared fairly between sources ([`queue`]). A source is a network: by default an IPv4
//! address or an IPv6 /64, which is what one customer has. The /64s of one /48 share as a
//! group.
//!
//! Only work counts: a handshake that waits for its client lends its permit to others
//! ([`idle`]).
//!
//! Established connections go first: a time slice starts only after everything else that
//! can run has run ([`tokio_order`]), about once per step. If relaying leaves no gap, that
//! would take too long, so handshakes then run for longer at a time and get a share of the
//! CPU.
//!
//! With few handshakes in progress none of this applies: they cost an uncontended lock,
//! twice for the permit and once for each step.

mod idle;
mod queue;
mod tokio_order;

use std::{
    future::poll_fn,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::Poll,
    time::{Duration, Instant},
};

use leastconn::net;
use leastconn_tls::permit::{Evicted, Permit};
use parking_lot::{Mutex, MutexGuard};
use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::oneshot::{Receiver, Sender, channel};

use crate::{
    config::{IpNet, Prefixes},
    telemetry::metrics::GaugeGuard,
};
use idle::{Idle, Wait};
use queue::{Asked, Queue, Source, Step, Ticket};
use tokio_order::run_after_others;

/// Handshakes in progress per worker that need no ordering: together they delay a newcomer
/// by a few milliseconds.
const FEW: usize = 16;

/// How long handshakes run before other tasks go first again: one or two steps.
const SLICE: Duration = Duration::from_micros(100);

/// Waiting for other tasks for up to this long does not extend the next slices.
const SHORT: Duration = Duration::from_millis(1);

/// Maximum time that handshakes run if relaying leaves no gap.
const LONG: Duration = Duration::from_millis(2);

/// Parked handshakes (waiting for their client, without a permit) per permit. Each holds
/// about 28 KiB.
const PARKED: usize = 8;

/// Prefix length that groups IPv6 sources: what one site has.
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

/// The handshake scheduler of the process.
#[derive(Debug)]
pub struct HandshakeScheduler(Mutex<State>);

#[derive(Debug)]
struct State {
    queue: Queue<IpNet, Sender<()>>,
    idle: Idle<IpNet, Sender<()>>,
    /// How much longer handshakes may run before other tasks go first.
    ahead: Duration,
}

impl HandshakeScheduler {
    /// Allows `max_handshakes` in progress, on this many runtime workers.
    pub fn new(max_handshakes: usize, workers: usize) -> Self {
        Self(Mutex::new(State {
            queue: Queue::new(max_handshakes, workers, FEW * workers),
            idle: Idle::new(PARKED * max_handshakes),
            ahead: Duration::ZERO,
        }))
    }

    /// Changes the limit. Handshakes beyond a lower limit continue, and none starts until
    /// enough have ended.
    pub fn resize(&self, max_handshakes: usize) {
        let ready = {
            let mut state = self.lock();
            state.idle.resize(PARKED * max_handshakes);
            let mut ready = state.queue.resize(max_handshakes);
            ready.extend(state.evict());
            ready
        };
        ready.into_iter().for_each(notify);
    }

    /// Waits until a handshake of `source` may start. The gauge `waiting` counts handshakes
    /// that wait for a permit or a time slice.
    ///
    /// # Cancel safety
    /// Cancel safe: dropping the future releases its place in the queue.
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
        let mut receiver = None;
        let (asked, others) = {
            let mut state = self.lock();
            let others = state.make_room(source);
            let asked = state.queue.enter(source, || waiter(&mut receiver));
            (asked, others)
        };
        others.into_iter().for_each(notify);
        if let (Asked::Wait(ticket), Some(receiver)) = (asked, receiver) {
            let _counted = GaugeGuard::new(waiting);
            Waiting::wait(self, source, ticket, Resource::Permit, receiver).await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock()
    }

    fn leave(&self, source: IpNet) {
        let ready = self.lock().queue.leave(source);
        ready.into_iter().for_each(notify);
    }

    /// A counted time slice is over; it used up this much of `ahead`.
    fn finish(&self, spent: Duration) {
        let next = {
            let mut state = self.lock();
            state.ahead = state.ahead.saturating_sub(spent);
            state.queue.finish()
        };
        next.into_iter().for_each(notify);
    }
}

impl State {
    /// Parks handshakes that wait for their clients until a permit is free for `source`.
    /// Returns the channels to notify: their handshakes have a permit or are evicted.
    fn make_room(&mut self, source: IpNet) -> Vec<Sender<()>> {
        let mut ready = Vec::new();
        while !self.queue.may_enter(source)
            && let Some(parked) = self.idle.park()
        {
            ready.extend(self.queue.leave(parked));
        }
        ready.extend(self.evict());
        ready
    }

    /// Parks the longest waiting handshakes while others wait for a permit.
    fn yield_permits(&mut self) -> Vec<Sender<()>> {
        let mut ready = Vec::new();
        while self.queue.has_entering()
            && let Some(parked) = self.idle.park()
        {
            ready.extend(self.queue.leave(parked));
        }
        ready.extend(self.evict());
        ready
    }

    fn evict(&mut self) -> Vec<Sender<()>> {
        std::iter::from_fn(|| self.idle.evict()).collect()
    }
}

fn waiter(slot: &mut Option<Receiver<()>>) -> Sender<()> {
    let (sender, receiver) = channel();
    *slot = Some(receiver);
    sender
}

/// Notifies a waiting handshake. If it has been dropped meanwhile, `Waiting::drop` returns
/// what it was given.
fn notify(waiting: Sender<()>) {
    let _ = waiting.send(());
}

/// What a handshake waits for.
#[derive(Clone, Copy, Debug)]
enum Resource {
    Permit,
    TimeSlice,
}

/// A handshake in the queue. Dropping it leaves the queue.
struct Waiting<'a> {
    scheduler: &'a HandshakeScheduler,
    source: IpNet,
    ticket: Ticket,
    resource: Resource,
    is_done: bool,
}

impl<'a> Waiting<'a> {
    async fn wait(
        scheduler: &'a HandshakeScheduler,
        source: IpNet,
        ticket: Ticket,
        resource: Resource,
        notified: Receiver<()>,
    ) {
        let mut waiting = Self {
            scheduler,
            source,
            ticket,
            resource,
            is_done: false,
        };
        // The queue keeps the sender until it notifies us.
        let _ = notified.await;
        waiting.is_done = true;
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if self.is_done {
            return;
        }
        let (source, ticket) = (self.source, self.ticket);
        match self.resource {
            Resource::Permit => {
                let waited = self.scheduler.lock().queue.give_up_place(source, ticket);
                if !waited {
                    self.scheduler.leave(source);
                }
            }
            Resource::TimeSlice => {
                let waited = self.scheduler.lock().queue.give_up_turn(source, ticket);
                if !waited {
                    self.scheduler.finish(Duration::ZERO);
                }
            }
        }
    }
}

/// A handshake in progress. Dropping it lets another one start.
#[derive(Debug)]
pub struct HandshakePermit {
    scheduler: Arc<HandshakeScheduler>,
    source: IpNet,
    waiting: Gauge,
    /// False while it is parked.
    has_permit: AtomicBool,
}

/// Marks a handshake as waiting for its client until dropped.
struct ClientWait<'a> {
    permit: &'a HandshakePermit,
    wait: Wait,
}

impl Drop for ClientWait<'_> {
    fn drop(&mut self) {
        let has_permit = self.permit.scheduler.lock().idle.end(self.wait);
        self.permit.has_permit.store(has_permit, Ordering::Relaxed);
    }
}

impl HandshakePermit {
    /// A permit of a scheduler of its own, for tests and benchmarks.
    pub fn alone() -> Self {
        let scheduler = HandshakeScheduler::new(1, 1);
        let source = IpNet::of(std::net::Ipv4Addr::LOCALHOST.into(), Prefixes::default());
        let entered = scheduler.lock().queue.enter(source, || unreachable!());
        debug_assert_eq!(entered, Asked::Now);
        Self {
            scheduler: Arc::new(scheduler),
            source,
            waiting: Gauge::default(),
            has_permit: AtomicBool::new(true),
        }
    }

    /// Waits for the client. Meanwhile another handshake may take the permit; then this one
    /// acquires it again before it returns.
    ///
    /// # Errors
    /// If the handshake is evicted because too many wait for their clients.
    ///
    /// # Cancel safety
    /// As that of `client`.
    pub async fn wait_for<T>(&self, client: impl Future<Output = T>) -> Result<T, Evicted> {
        let mut client = pin!(client);
        // Usually the client has answered already.
        let first = poll_fn(|cx| Poll::Ready(client.as_mut().poll(cx))).await;
        if let Poll::Ready(answer) = first {
            return Ok(answer);
        }
        let (end, ended) = channel();
        let (wait, others) = {
            let mut state = self.scheduler.lock();
            let wait = state.idle.begin(self.source, end);
            (wait, state.yield_permits())
        };
        let waiting = ClientWait { permit: self, wait };
        others.into_iter().for_each(notify);
        let answer = tokio::select! {
            biased;
            answer = client => answer,
            Ok(()) = ended => return Err(Evicted),
        };
        drop(waiting);
        if !self.has_permit.load(Ordering::Relaxed) {
            self.scheduler.take_permit(self.source, &self.waiting).await;
            self.has_permit.store(true, Ordering::Relaxed);
        }
        Ok(answer)
    }

    /// Waits for CPU time for one step. Drop the time slice before waiting for the network.
    ///
    /// # Cancel safety
    /// Cancel safe: dropping the future releases its place in the queue.
    pub async fn time_slice(&self) -> TimeSlice<'_> {
        let mut receiver = None;
        let asked = self
            .scheduler
            .lock()
            .queue
            .step(self.source, || waiter(&mut receiver));
        let mut slice = TimeSlice {
            scheduler: &self.scheduler,
            begun: None,
        };
        match (asked, receiver) {
            (Step::Free, _) => return slice,
            (Step::Wait(ticket), Some(receiver)) => {
                let _counted = GaugeGuard::new(&self.waiting);
                Waiting::wait(
                    &self.scheduler,
                    self.source,
                    ticket,
                    Resource::TimeSlice,
                    receiver,
                )
                .await;
            }
            (Step::Counted | Step::Wait(_), _) => {}
        }
        let start = net::now();
        // Set before waiting, so that a dropped future returns its slice.
        slice.begun = Some(start);
        let may_continue = !self.scheduler.lock().ahead.is_zero();
        if !may_continue {
            slice.begun = Some(slice.after_others(start).await);
        }
        slice
    }
}

impl Permit for HandshakePermit {
    type TimeSlice<'a> = TimeSlice<'a>;

    async fn time_slice(&self) -> TimeSlice<'_> {
        self.time_slice().await
    }

    async fn wait_for_client<T>(&self, client: impl Future<Output = T>) -> Result<T, Evicted> {
        self.wait_for(client).await
    }
}

impl Drop for HandshakePermit {
    fn drop(&mut self) {
        if *self.has_permit.get_mut() {
            self.scheduler.leave(self.source);
        }
    }
}

/// CPU time for one step of a handshake.
#[must_use = "the time slice ends when this is dropped"]
#[derive(Debug)]
pub struct TimeSlice<'a> {
    scheduler: &'a HandshakeScheduler,
    /// When it started; `None`: it is not counted.
    begun: Option<Instant>,
}

impl TimeSlice<'_> {
    /// Lets everything else run that can run. Returns the time after that.
    async fn after_others(&self, start: Instant) -> Instant {
        run_after_others().await;
        let now = net::now();
        let waited = now.saturating_duration_since(start);
        let ahead = waited.saturating_sub(SHORT).clamp(SLICE, LONG);
        self.scheduler.lock().ahead = ahead;
        now
    }
}

impl Drop for TimeSlice<'_> {
    fn drop(&mut self) {
        if let Some(begun) = self.begun {
            let spent = net::now().saturating_duration_since(begun);
            self.scheduler.finish(spent);
        }
    }
}

#[cfg(test)]
mod tests;
