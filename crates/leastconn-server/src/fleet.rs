//! Membership in a fleet: several balancers that share limits, server counts and commands of
//! operators through a store.
//!
//! ```text
//! connections ──► Membership (atomics)          read on the hot path, never blocks
//!      │ wake
//!      ▼
//! fleet thread: member::run ──► Store::exchange (one at a time)
//!      │ report, apply, cut off
//!      ▼
//! participants: client limits, server counts, commands of operators
//! ```
//!
//! The exchange runs on its own thread with its own runtime: the workers of a busy balancer spend
//! milliseconds in handshakes, which would delay the exchange, and a slow DNS answer or TLS
//! handshake of the store must not delay clients.
//!
//! **Self-fencing.** Decisions may use the numbers of other members for [`MAX_AGE`] after
//! the report was sent that they answer. Each decision compares its own time with this deadline,
//! so that a process that was paused cannot decide by old numbers, whether or not the fleet thread
//! has run again.

pub mod handle;
mod member;
mod membership;
mod participant;
mod shared;
mod state;
pub mod status;
mod wake;

use std::{io, num::NonZeroU32, sync::Arc, thread, time::Duration, time::Instant};

use leastconn_fleet::{MemberId, Store};
use parking_lot::Mutex;
use tokio::{
    sync::{oneshot, watch},
    time::timeout,
};

use shared::Shared;
use state::Machine;

pub use handle::{FleetHandle, FleetSlot, KillReport, NotSent};
pub use membership::{Membership, SharedMembership};
pub use participant::{Exchange, Participant};
pub use shared::ExchangeStatus;
pub use state::MAX_AGE;
pub use status::{FleetState, FleetStatus, MemberState, StoreStatus};
pub use wake::Wake;

/// The name of the fleet thread.
const THREAD: &str = "fleet";

/// The membership of this process in a fleet, if one is configured. Costs nothing without a
/// fleet: [`Self::fence`] and [`SharedMembership::get`] then read one atomic.
#[derive(Debug)]
pub struct Fleet {
    membership: Arc<SharedMembership>,
    wake: Arc<Wake>,
    running: Mutex<Option<Running>>,
}

/// A running fleet thread, which stops when this is dropped.
#[derive(Debug)]
struct Running {
    shared: Arc<Shared>,
    stop: oneshot::Sender<()>,
    /// Becomes `true` when the thread has left the fleet.
    ended: watch::Receiver<bool>,
}

/// Settings of a membership.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    pub id: MemberId,
    /// Members to assume until the store has answered.
    pub size: NonZeroU32,
    /// Age at which the counts of other members are forgotten.
    pub gone_after: Duration,
}

impl Fleet {
    /// Starts without a fleet. `epoch` must not be later than any time that is passed to the
    /// other methods.
    pub fn new(epoch: Instant) -> Self {
        Self {
            membership: Arc::new(SharedMembership::new(epoch)),
            wake: Arc::default(),
            running: Mutex::default(),
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

    /// Joins a fleet through `store`, in a thread of its own. Leaves the previous fleet.
    ///
    /// # Errors
    /// If the thread cannot be started.
    pub fn start<S: Store + 'static>(
        &self,
        settings: Settings,
        mut store: S,
        participants: Vec<Arc<dyn Participant>>,
    ) -> io::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let mut running = self.running.lock();
        if let Some(previous) = running.take() {
            previous.shared.leave();
        }
        let machine = Machine::new(settings.size, settings.gone_after, leastconn::net::now());
        let shared = Arc::new(Shared::new(
            settings.id,
            machine,
            Arc::clone(&self.membership),
            Arc::clone(&self.wake),
            participants,
        ));
        let (stop, stopped) = oneshot::channel();
        let (end, ended) = watch::channel(false);
        let member = Arc::clone(&shared);
        thread::Builder::new()
            .name(THREAD.to_owned())
            .spawn(move || {
                runtime.block_on(member::run(&mut store, &member, stopped));
                end.send_replace(true);
                // Do not wait for name resolution.
                runtime.shutdown_background();
            })
            .inspect_err(|_| self.membership.set_alone())?;
        *running = Some(Running {
            shared,
            stop,
            ended,
        });
        Ok(())
    }

    /// Reports this process as leaving: it accepts no more connections, and its open connections
    /// still count.
    pub fn begin_leaving(&self) {
        if let Some(running) = &*self.running.lock() {
            running.shared.begin_leaving();
        }
    }

    /// Leaves the fleet and removes the numbers of this process from the store, if it answers
    /// within `limit`.
    pub async fn stop(&self, limit: Duration) {
        let running = self.running.lock().take();
        if let Some(running) = running {
            running.shared.leave();
            let _ = running.stop.send(());
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

    /// `None` without a fleet.
    pub fn status(&self) -> Option<ExchangeStatus> {
        let running = self.running.lock();
        running.as_ref().map(|running| running.shared.status())
    }
}

#[cfg(test)]
mod tests;
