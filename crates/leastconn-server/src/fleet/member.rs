//! This process as a member of a fleet: the thread that exchanges with the store.

use std::{
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use leastconn::net;
use leastconn_fleet::{MemberId, Store};
use parking_lot::Mutex;
use tokio::{sync::watch, time::timeout};

use super::{
    exchange,
    handle::FleetSlot,
    member_settings::MemberSettings,
    membership::SharedMembership,
    operators::{OperatorTarget, Operators},
    participant::Participant,
    running::RunningMember,
    shared::Shared,
    state::Machine,
    wake::Wake,
};

/// The name of the thread.
const THREAD: &str = "fleet";

/// How long a new membership waits until the previous one has left the fleet, so that the
/// connections of this process are not counted twice.
const PREVIOUS_TIMEOUT: Duration = Duration::from_millis(400);

/// Delay after a panic of the exchange.
const PANIC_DELAY: Duration = Duration::from_secs(1);

/// The membership of this process in a fleet, if one is configured. Costs nothing without a
/// fleet: [`Self::fence`] and [`SharedMembership::get`] then read one atomic.
#[derive(Debug)]
pub struct FleetMember {
    membership: Arc<SharedMembership>,
    wake: Arc<Wake>,
    running: Mutex<Option<Running>>,
    /// Whether this process accepts no more connections.
    is_leaving: AtomicBool,
}

/// A running thread, which stops when this is dropped.
#[derive(Debug)]
struct Running {
    shared: Arc<Shared>,
    /// Set to `true`, or dropped, when the thread has to stop.
    stop: watch::Sender<bool>,
    /// Becomes `true` when the thread has left the fleet.
    ended: watch::Receiver<bool>,
}

impl FleetMember {
    /// Starts without a fleet. `epoch` must not be later than any time that is passed to the
    /// other methods.
    pub fn new(epoch: Instant) -> Self {
        Self {
            membership: Arc::new(SharedMembership::new(epoch)),
            wake: Arc::default(),
            running: Mutex::default(),
            is_leaving: AtomicBool::new(false),
        }
    }

    pub const fn membership(&self) -> &Arc<SharedMembership> {
        &self.membership
    }

    /// Requests exchanges.
    pub const fn wake(&self) -> &Arc<Wake> {
        &self.wake
    }

    /// Must be called before a decision at `now` that uses numbers of other members. If they are
    /// too old, because this process was paused, the decision is made without them.
    pub fn fence(&self, now: Instant) {
        if self.membership.is_overdue(now)
            && let Some(running) = &*self.running.lock()
        {
            running.shared.tick(now);
        }
    }

    /// Joins a fleet through `store`, in a thread of its own, and leaves the previous fleet. Sets
    /// the handle in `slot`.
    ///
    /// A process that changes its fleet gets a new ID, so that the end of the old membership
    /// cannot remove numbers of the new one.
    ///
    /// # Errors
    /// If the thread cannot be started. Then this process is in no fleet.
    pub fn join<S: Store + 'static>(
        &self,
        settings: MemberSettings,
        mut store: S,
        mut participants: Vec<Arc<dyn Participant>>,
        target: Arc<dyn OperatorTarget>,
        slot: &FleetSlot,
    ) -> io::Result<()> {
        // First, so that the time in between is short, during which this process is in no fleet.
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        let previous = self.end(slot);
        let runtime = runtime?;
        let operators = Arc::new(Operators::new(Arc::clone(&self.wake), target));
        participants.push(Arc::clone(&operators) as Arc<dyn Participant>);
        let shared = Arc::new(Shared::new(
            MemberId::new(&settings.name, net::random()),
            Machine::new(settings.size, settings.gone_after, net::now()),
            Arc::clone(&self.membership),
            Arc::clone(&self.wake),
            participants,
        ));
        if self.is_leaving.load(Ordering::Acquire) {
            shared.begin_leaving();
        }
        let (stop, stopped) = watch::channel(false);
        let (end, ended) = watch::channel(false);
        let member = Arc::clone(&shared);
        let run = move || {
            if let Some(mut ended) = previous {
                runtime.block_on(async {
                    let _ = timeout(PREVIOUS_TIMEOUT, ended.wait_for(|&ended| ended)).await;
                });
            }
            run_exchange(&runtime, &mut store, &member, &stopped);
            end.send_replace(true);
            // Do not wait for name resolution.
            runtime.shutdown_background();
        };
        let started = thread::Builder::new().name(THREAD.to_owned()).spawn(run);
        started.inspect_err(|_| shared.leave())?;
        let handle = RunningMember::new(settings, Arc::clone(&shared), operators);
        slot.set(Some(Box::new(handle)));
        *self.running.lock() = Some(Running {
            shared,
            stop,
            ended,
        });
        Ok(())
    }

    /// Leaves the fleet, if there is one. The thread removes the numbers of this process from the
    /// store later.
    pub fn leave(&self, slot: &FleetSlot) {
        self.end(slot);
    }

    /// Leaves the fleet. The result becomes `true` when the numbers are removed from the store.
    fn end(&self, slot: &FleetSlot) -> Option<watch::Receiver<bool>> {
        let previous = self.running.lock().take()?;
        slot.set(None);
        previous.shared.leave();
        Some(previous.ended)
    }

    /// Reports this process as leaving: it accepts no more connections, and its open connections
    /// still count.
    pub fn begin_leaving(&self) {
        self.is_leaving.store(true, Ordering::Release);
        if let Some(running) = &*self.running.lock() {
            running.shared.begin_leaving();
        }
    }

    /// Leaves the fleet before the process ends, and removes its numbers from the store, if the
    /// store answers within `limit`.
    pub async fn stop(&self, limit: Duration) {
        let running = self.running.lock().take();
        if let Some(running) = running {
            running.shared.leave();
            let _ = running.stop.send(true);
            let mut ended = running.ended;
            let _ = timeout(limit, ended.wait_for(|&ended| ended)).await;
        }
    }

    /// Waits until the store has answered, at most for `limit`. Completes at once without a
    /// fleet.
    pub async fn first_answer(&self, limit: Duration) {
        let shared = {
            let running = self.running.lock();
            running.as_ref().map(|running| Arc::clone(&running.shared))
        };
        if let Some(shared) = shared {
            let _ = timeout(limit, shared.joined()).await;
        }
    }
}

/// Exchanges with the store until `stopped`. A panic must not cut this process off until it is
/// restarted, so the exchange then starts again.
fn run_exchange<S: Store>(
    runtime: &tokio::runtime::Runtime,
    store: &mut S,
    shared: &Arc<Shared>,
    stopped: &watch::Receiver<bool>,
) {
    // Also when the sender is dropped.
    let stop = async |mut stopped: watch::Receiver<bool>| {
        let _ = stopped.wait_for(|&stopped| stopped).await;
    };
    loop {
        let exchange = || {
            let stop = stop(stopped.clone());
            runtime.block_on(exchange::run(store, shared, stop));
        };
        // The locks are not poisoned by a panic, and the connection is closed.
        if catch_unwind(AssertUnwindSafe(exchange)).is_ok() {
            return;
        }
        tracing::error!("fleet: the exchange with the store panicked, and is started again");
        store.disconnect();
        let is_stopped = runtime.block_on(async {
            let stopped = timeout(PANIC_DELAY, stop(stopped.clone())).await;
            stopped.is_ok()
        });
        if is_stopped {
            return;
        }
    }
}

#[cfg(test)]
impl FleetMember {
    /// A member whose thread does not run.
    pub(super) fn without_thread(membership: Arc<SharedMembership>, shared: Arc<Shared>) -> Self {
        Self {
            membership,
            wake: Arc::default(),
            running: Mutex::new(Some(Running {
                shared,
                stop: watch::channel(false).0,
                ended: watch::channel(false).1,
            })),
            is_leaving: AtomicBool::new(false),
        }
    }
}

#[cfg(test)]
mod tests;
