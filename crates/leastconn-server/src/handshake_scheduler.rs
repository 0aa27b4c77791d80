//! Handshakes take scheduler: who floods waits for itself, and not others for it.
//!
//! A handshake costs two short pieces of processor time, the signatures of each
//! flight. When hundreds of clients are due one at the same moment, the runtime runs
//! them in the order that they come, and somebody new comes last: a hundred
//! milliseconds later, if each takes a third of one. So a handshake asks for a
//! [`HandshakePermit`] to begin with, and for a [`TimeSlice`] before each step; both go round the
//! sources (`queue`). A source is a network, by default an IPv4 address or an IPv6
//! /64, which is what one customer has. The /64s of one /48 share as a group.
//!
//! Only work counts: a handshake that waits for its client gives its place to whoever
//! needs one (`idle`).
//!
//! Every step or two, a turn begins only after all that could run has run, and the
//! runtime has asked the system what else can: so connections that are established go
//! first, and wait for a step or two at most. Where relaying leaves no gap, that would
//! be rarely. Then handshakes run on for longer, and have a share of the processor.
//!
//! With few handshakes in progress none of this happens: an uncontended lock, twice
//! for the place and once for each step.

mod idle;
mod queue;

use std::{
    future::poll_fn,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
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

/// Handshakes in progress for each worker that need no order: what they can keep a
/// newcomer waiting is a few milliseconds.
const FEW: usize = 16;

/// Handshakes run on for so long before others are let go first again: a step or two.
const SLICE: Duration = Duration::from_micros(100);

/// Waiting for others that is no sign of a processor without a gap.
const SHORT: Duration = Duration::from_millis(1);

/// The most that handshakes run on for where there is none.
const LONG: Duration = Duration::from_millis(2);

/// Handshakes without a place that wait for their clients, for each permit. One holds some
/// 28 KiB.
const PARKED: usize = 8;

/// The length of the prefix that groups IPv6 sources: what one site has.
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

/// The scheduler of a process.
#[derive(Debug)]
pub struct HandshakeScheduler(Mutex<State>);

#[derive(Debug)]
struct State {
    queue: Queue<IpNet, Sender<()>>,
    idle: Idle<IpNet, Sender<()>>,
    /// For how long handshakes may run on, because others did.
    ahead: Duration,
}

impl HandshakeScheduler {
    /// For at most `max_handshakes` in progress, on so many workers.
    pub fn new(max_handshakes: usize, workers: usize) -> Self {
        Self(Mutex::new(State {
            queue: Queue::new(max_handshakes, workers, FEW * workers),
            idle: Idle::new(PARKED * max_handshakes),
            ahead: Duration::ZERO,
        }))
    }

    /// At most `max_handshakes` from now on. Those beyond that are in progress go on,
    /// and nobody begins until enough have ended.
    pub fn resize(&self, max_handshakes: usize) {
        let told = {
            let mut state = self.lock();
            state.idle.resize(PARKED * max_handshakes);
            let mut told = state.queue.resize(max_handshakes);
            told.extend(state.evict());
            told
        };
        told.into_iter().for_each(tell);
    }

    /// Waits for a place among the handshakes in progress. `waiting` counts those
    /// that wait, for a place or for a turn.
    ///
    /// # Cancel safety
    /// Whoever goes away has not waited, and its place is somebody else's.
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
        let mut told = None;
        let (asked, others) = {
            let mut state = self.lock();
            let others = state.make_room(source);
            let asked = state.queue.enter(source, || promise(&mut told));
            (asked, others)
        };
        others.into_iter().for_each(tell);
        if let (Asked::Wait(ticket), Some(told)) = (asked, told) {
            let _counted = GaugeGuard::new(waiting);
            Waiting::wait(self, source, ticket, For::Permit, told).await;
        }
    }

    /// Each critical section leaves what it guards whole, so a panic in another
    /// connection is none of ours.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock()
    }

    fn leave(&self, source: IpNet) {
        let told = self.lock().queue.leave(source);
        told.into_iter().for_each(tell);
    }

    /// A turn is over in which so much of `ahead` was used up.
    fn finish(&self, spent: Duration) {
        let next = {
            let mut state = self.lock();
            state.ahead = state.ahead.saturating_sub(spent);
            state.queue.finish()
        };
        next.into_iter().for_each(tell);
    }
}

impl State {
    /// Parks handshakes that wait for their clients until `source` finds a permit, if so
    /// many are there. Returns whom to tell that they have a permit, or are ended.
    fn make_room(&mut self, source: IpNet) -> Vec<Sender<()>> {
        let mut told = Vec::new();
        while !self.queue.may_enter(source)
            && let Some(parked) = self.idle.park()
        {
            told.extend(self.queue.leave(parked));
        }
        told.extend(self.evict());
        told
    }

    /// Parks who has waited longest as long as others wait for a permit.
    fn yield_places(&mut self) -> Vec<Sender<()>> {
        let mut told = Vec::new();
        while self.queue.has_entering()
            && let Some(parked) = self.idle.park()
        {
            told.extend(self.queue.leave(parked));
        }
        told.extend(self.evict());
        told
    }

    fn evict(&mut self) -> Vec<Sender<()>> {
        std::iter::from_fn(|| self.idle.evict()).collect()
    }
}

fn promise(told: &mut Option<Receiver<()>>) -> Sender<()> {
    let (sender, receiver) = channel();
    *told = Some(receiver);
    sender
}

/// Whoever has gone away meanwhile gives back what it was given, by
/// [`Waiting::drop`].
fn tell(waiting: Sender<()>) {
    let _ = waiting.send(());
}

/// What one waits for.
#[derive(Clone, Copy, Debug)]
enum For {
    Permit,
    TimeSlice,
}

/// Somebody who waits.
struct Waiting<'a> {
    scheduler: &'a HandshakeScheduler,
    source: IpNet,
    ticket: Ticket,
    what: For,
    has: bool,
}

impl<'a> Waiting<'a> {
    async fn wait(
        scheduler: &'a HandshakeScheduler,
        source: IpNet,
        ticket: Ticket,
        what: For,
        told: Receiver<()>,
    ) {
        let mut waiting = Self {
            scheduler,
            source,
            ticket,
            what,
            has: false,
        };
        // The sender is never dropped unused while we wait.
        let _ = told.await;
        waiting.has = true;
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if self.has {
            return;
        }
        let (source, ticket) = (self.source, self.ticket);
        match self.what {
            For::Permit => {
                let waited = self.scheduler.lock().queue.give_up_place(source, ticket);
                if !waited {
                    self.scheduler.leave(source);
                }
            }
            For::TimeSlice => {
                let waited = self.scheduler.lock().queue.give_up_turn(source, ticket);
                if !waited {
                    self.scheduler.finish(Duration::ZERO);
                }
            }
        }
    }
}

/// A handshake is in progress while this lives.
#[derive(Debug)]
pub struct HandshakePermit {
    scheduler: Arc<HandshakeScheduler>,
    source: IpNet,
    waiting: Gauge,
    /// Not while it is parked.
    has_permit: AtomicBool,
}

/// A handshake that waits for its client.
struct ForClient<'a> {
    permit: &'a HandshakePermit,
    wait: Wait,
}

impl Drop for ForClient<'_> {
    fn drop(&mut self) {
        let has_permit = self.permit.scheduler.lock().idle.end(self.wait);
        self.permit.has_permit.store(has_permit, Ordering::Relaxed);
    }
}

impl HandshakePermit {
    /// The only one, for a handshake that has the process to itself, in tests.
    ///
    /// # Panics
    /// Never: there is room for one.
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

    /// Waits for something that only the client can do. The handshake has no claim to its
    /// place meanwhile, and takes one again before this returns.
    ///
    /// # Errors
    /// If the handshake is to end, as too many wait.
    ///
    /// # Cancel safety
    /// As that of `client`.
    pub async fn wait_for<T>(&self, client: impl Future<Output = T>) -> Result<T, Evicted> {
        let mut client = pin!(client);
        // Most often it has answered already.
        let first = poll_fn(|cx| Poll::Ready(client.as_mut().poll(cx))).await;
        if let Poll::Ready(answer) = first {
            return Ok(answer);
        }
        let (end, ended) = channel();
        let (wait, others) = {
            let mut state = self.scheduler.lock();
            let wait = state.idle.begin(self.source, end);
            (wait, state.yield_places())
        };
        let waiting = ForClient { permit: self, wait };
        others.into_iter().for_each(tell);
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

    /// Waits for a turn at the processor. It is for work that waits for nothing:
    /// drop it before the network is waited for.
    ///
    /// # Cancel safety
    /// Whoever goes away has not waited, and its turn is somebody else's.
    pub async fn time_slice(&self) -> TimeSlice<'_> {
        let mut told = None;
        let asked = self
            .scheduler
            .lock()
            .queue
            .step(self.source, || promise(&mut told));
        let mut turn = TimeSlice {
            scheduler: &self.scheduler,
            begun: None,
        };
        match (asked, told) {
            (Step::Free, _) => return turn,
            (Step::Wait(ticket), Some(told)) => {
                let _counted = GaugeGuard::new(&self.waiting);
                Waiting::wait(&self.scheduler, self.source, ticket, For::TimeSlice, told).await;
            }
            (Step::Counted | Step::Wait(_), _) => {}
        }
        let start = net::now();
        // Now, as it is to be given back if others go first for ever.
        turn.begun = Some(start);
        let may_run_on = !self.scheduler.lock().ahead.is_zero();
        if !may_run_on {
            turn.begun = Some(turn.after_all_others(start).await);
        }
        turn
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

/// The processor, for one step.
#[must_use = "the step's turn is over when this is dropped"]
#[derive(Debug)]
pub struct TimeSlice<'a> {
    scheduler: &'a HandshakeScheduler,
    /// Since when it uses up what handshakes may run on for; `None`: it is not counted.
    begun: Option<Instant>,
}

impl TimeSlice<'_> {
    /// Lets everything else run that can, since `start`. Returns the time then.
    async fn after_all_others(&self, start: Instant) -> Instant {
        // Tokio wakes us after it has run what there was to run and has asked the
        // system for more; and that is woken before us, but run after us, unless we
        // go to the end once more.
        tokio::task::yield_now().await;
        Behind { is: false }.await;
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

/// Pending once, woken at once: behind all that is woken by now.
struct Behind {
    is: bool,
}

impl Future for Behind {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if std::mem::replace(&mut self.is, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

#[cfg(test)]
mod tests;
