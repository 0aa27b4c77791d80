//! Permits for handshakes in progress, and time slices for the steps that need the CPU.

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
use leastconn_config::{IpNet, Prefixes};
use leastconn_tls::permit::{Evicted, Permit};
use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::oneshot::channel;

use super::{
    HandshakeScheduler, Resource, Waiter,
    client_waits::WaitId,
    new_waiter,
    queue::{PermitAnswer, SliceAnswer},
    tokio_order::run_after_others,
    wake,
};
use crate::telemetry::metrics::GaugeGuard;

/// How long handshakes run before other tasks have priority again: enough for one or two steps.
const MIN_CREDIT: Duration = Duration::from_micros(100);

/// The longest time that handshakes run before other tasks have priority again. It applies when
/// other tasks keep the CPU busy.
const MAX_CREDIT: Duration = Duration::from_millis(2);

/// If other tasks delay handshakes by no more than this, the CPU does not count as busy.
const IDLE_DELAY: Duration = Duration::from_millis(1);

/// Allows one handshake to be in progress until it is dropped.
#[derive(Debug)]
pub struct HandshakePermit {
    pub(super) scheduler: Arc<HandshakeScheduler>,
    pub(super) source: IpNet,
    pub(super) waiting: Gauge,
    /// `false` while the handshake is parked.
    pub(super) has_permit: AtomicBool,
}

/// A handshake that waits for its client.
struct ClientWait<'a> {
    permit: &'a HandshakePermit,
    id: WaitId,
}

impl Drop for ClientWait<'_> {
    fn drop(&mut self) {
        let has_permit = self.permit.scheduler.lock().client_waits.end(self.id);
        self.permit.has_permit.store(has_permit, Ordering::Relaxed);
    }
}

impl HandshakePermit {
    /// The only permit of a new scheduler, for tests and benchmarks.
    pub fn alone() -> Self {
        let scheduler = HandshakeScheduler::new(1, 1);
        let source = IpNet::of(std::net::Ipv4Addr::LOCALHOST.into(), Prefixes::default());
        let answer = scheduler
            .lock()
            .queue
            .acquire_permit(source, || unreachable!());
        debug_assert_eq!(answer, PermitAnswer::Granted);
        Self {
            scheduler: Arc::new(scheduler),
            source,
            waiting: Gauge::default(),
            has_permit: AtomicBool::new(true),
        }
    }

    /// Waits for `client`, a future that only the client can complete. During the wait, the
    /// scheduler may give the permit to another handshake. Then this method waits for a new permit
    /// before it returns.
    ///
    /// # Errors
    /// If the handshake was evicted because too many handshakes wait for their clients.
    ///
    /// # Cancel safety
    /// Cancel safe if `client` is cancel safe.
    pub async fn wait_for<T>(&self, client: impl Future<Output = T>) -> Result<T, Evicted> {
        let mut client = pin!(client);
        // Poll once without taking the lock: most clients have already answered.
        let first = poll_fn(|cx| Poll::Ready(client.as_mut().poll(cx))).await;
        if let Poll::Ready(answer) = first {
            return Ok(answer);
        }
        let (evict, evicted) = channel();
        let (id, notify) = {
            let mut state = self.scheduler.lock();
            let id = state.client_waits.begin(self.source, evict);
            (id, state.release_idle_permits())
        };
        let wait = ClientWait { permit: self, id };
        notify.into_iter().for_each(wake);
        let answer = tokio::select! {
            biased;
            answer = client => answer,
            Ok(()) = evicted => return Err(Evicted),
        };
        drop(wait);
        if !self.has_permit.load(Ordering::Relaxed) {
            self.scheduler.take_permit(self.source, &self.waiting).await;
            self.has_permit.store(true, Ordering::Relaxed);
        }
        Ok(answer)
    }

    /// Waits for a time slice. Drop the slice before waiting for the network, because the slice is
    /// for computation only.
    ///
    /// # Cancel safety
    /// Dropping the future releases its place in the queue.
    pub async fn time_slice(&self) -> TimeSlice<'_> {
        let mut granted = None;
        let answer = self
            .scheduler
            .lock()
            .queue
            .acquire_slice(self.source, || new_waiter(&mut granted));
        let mut slice = TimeSlice {
            scheduler: &self.scheduler,
            begun: None,
        };
        match (answer, granted) {
            (SliceAnswer::Unscheduled, _) => return slice,
            (SliceAnswer::Queued(ticket), Some(granted)) => {
                let _counted = GaugeGuard::new(&self.waiting);
                Waiter::wait(
                    &self.scheduler,
                    self.source,
                    ticket,
                    Resource::TimeSlice,
                    granted,
                )
                .await;
            }
            (SliceAnswer::Granted | SliceAnswer::Queued(_), _) => {}
        }
        let start = net::now();
        // Set before the next await: dropping the future there must release the slice.
        slice.begun = Some(start);
        let has_credit = !self.scheduler.lock().credit.is_zero();
        if !has_credit {
            slice.begun = Some(slice.let_others_run(start).await);
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
            self.scheduler.release_permit(self.source);
        }
    }
}

/// Allows one step of a handshake to use the CPU.
#[must_use = "dropping the time slice ends the step"]
#[derive(Debug)]
pub struct TimeSlice<'a> {
    scheduler: &'a HandshakeScheduler,
    /// When the time slice began to use up credit; `None` if it is not scheduled.
    begun: Option<Instant>,
}

impl TimeSlice<'_> {
    /// Lets all other ready tasks run, then renews the credit. Returns the time afterwards.
    async fn let_others_run(&self, start: Instant) -> Instant {
        run_after_others().await;
        let now = net::now();
        let delay = now.saturating_duration_since(start);
        let credit = delay
            .saturating_sub(IDLE_DELAY)
            .clamp(MIN_CREDIT, MAX_CREDIT);
        self.scheduler.lock().credit = credit;
        now
    }
}

impl Drop for TimeSlice<'_> {
    fn drop(&mut self) {
        if let Some(begun) = self.begun {
            let spent = net::now().saturating_duration_since(begun);
            self.scheduler.release_slice(spent);
        }
    }
}
