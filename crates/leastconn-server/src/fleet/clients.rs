//! Limits of clients that the members of a fleet share.
//!
//! Connections are decided by [`leastconn::Limiter::admit_shared`]. Near a limit, a connection
//! waits for the store, for at most `ask_timeout`. The fleet thread takes batches of usage out of
//! the limiters and applies the answers.
//!
//! All limited identities are shared: those from certificates and those from source addresses.
//! Rules in shadow mode and `source_rate_limit` stay local.

mod participant;
mod refusal;

use std::{
    num::NonZeroU32,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use arc_swap::ArcSwapOption;
use leastconn::{Admission, Change, ClientId, Limits, Pending, Permit, net};
use leastconn_config::SharedLimits;
use leastconn_fleet::Secret;
use tokio::time::timeout;

use super::{Participant, SharedMembership, Wake};
use crate::limits::ClientLimiters;

use participant::{ClientParticipant, SharedClients};
pub use refusal::ClientRefusal;
use refusal::Scope;

/// Admits the connections of clients. Without a fleet, this is [`ClientLimiters::admit`].
#[derive(Debug)]
pub struct ClientAdmission {
    limiters: Arc<ClientLimiters>,
    membership: Arc<SharedMembership>,
    /// `None`: limits are not shared.
    shared: ArcSwapOption<SharedClients>,
    /// The number of the last batch of this process.
    last_batch: AtomicU64,
    asks: AskCounters,
}

/// Settings of `[fleet]` that apply to limits of clients.
#[derive(Clone, Debug)]
pub struct ClientSettings {
    pub secret: Secret,
    pub mode: SharedLimits,
    pub ask_timeout: Duration,
}

/// How many connections waited for the store since the start, by result.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AskCounts {
    pub granted: u64,
    pub refused: u64,
    /// The store did not answer in time.
    pub timeout: u64,
}

#[derive(Debug, Default)]
struct AskCounters {
    granted: AtomicU64,
    refused: AtomicU64,
    timeout: AtomicU64,
}

/// The result of [`ClientAdmission::admit`].
#[derive(Debug)]
pub enum ClientDecision<'a> {
    Admitted(Permit),
    /// The store has to decide: wait for it.
    Ask(Ask<'a>),
}

/// A connection that has to wait for the store.
#[derive(Debug)]
pub struct Ask<'a> {
    pending: Pending,
    shared: Arc<SharedClients>,
    admission: &'a ClientAdmission,
    members: NonZeroU32,
}

impl ClientAdmission {
    /// Calls `wake` when usage has to be reported. Limits are not shared until [`Self::join`].
    pub fn new(epoch: Instant, membership: Arc<SharedMembership>, wake: Arc<Wake>) -> Self {
        let limiters = ClientLimiters::new(epoch).on_change(move |change| match change {
            Change::Ask => wake.urgent(),
            _ => wake.changed(),
        });
        Self {
            limiters: Arc::new(limiters),
            membership,
            shared: ArcSwapOption::empty(),
            last_batch: AtomicU64::new(0),
            asks: AskCounters::default(),
        }
    }

    /// The local limiters, which rules in shadow mode use.
    pub fn limiters(&self) -> &ClientLimiters {
        &self.limiters
    }

    /// Shares limits from now on. The participant must be part of the membership that starts
    /// next. `None` if `limits` is `local`.
    ///
    /// If this process is in a fleet already, call this before the old membership ends: what the
    /// members of both fleets have to know is then kept.
    pub fn join(self: &Arc<Self>, settings: ClientSettings) -> Option<Arc<dyn Participant>> {
        if settings.mode == SharedLimits::Local {
            self.leave();
            return None;
        }
        let shared = Arc::new(SharedClients::new(settings));
        self.shared.store(Some(Arc::clone(&shared)));
        Some(Arc::new(ClientParticipant::new(Arc::clone(self), shared)))
    }

    /// Shares connections that were admitted before this process joined a fleet.
    pub fn share_open<'a>(&self, open: impl IntoIterator<Item = (&'a ClientId, &'a Limits)>) {
        for (client, limits) in open {
            self.limiters.share_open(client, limits, net::now());
        }
    }

    /// Ends the sharing of limits.
    pub(crate) fn leave(&self) {
        self.shared.store(None);
        self.limiters.stop_sharing(net::now());
    }

    /// Leaves the fleet that `shared` belongs to, unless another was joined since.
    fn leave_if(&self, shared: &Arc<SharedClients>) {
        let current = self.shared.load();
        if current
            .as_ref()
            .is_some_and(|current| Arc::ptr_eq(current, shared))
        {
            self.leave();
        }
    }

    /// Admits one connection of `client`, refuses it, or has it wait for the store.
    ///
    /// # Errors
    /// If the client is over a limit.
    pub fn admit(
        &self,
        client: &ClientId,
        limits: &Limits,
        now: Instant,
    ) -> Result<ClientDecision<'_>, ClientRefusal> {
        let local = || {
            let permit = self.limiters.admit(client, limits, now);
            let permit = permit.map_err(|refusal| ClientRefusal::new(refusal, Scope::Local))?;
            Ok(ClientDecision::Admitted(permit))
        };
        let shared = self.shared.load();
        let Some(shared) = &*shared else {
            return local();
        };
        let sharing = shared.sharing(self.membership.get(now));
        let admission = self.limiters.admit_shared(client, limits, sharing, now);
        if self.shared.load().is_none() {
            // This process has left the fleet at the same time, so that the client may be shared
            // again. It would never be forgotten.
            self.limiters.stop_sharing(now);
        }
        match admission.map_err(|refusal| ClientRefusal::new(refusal, Scope::of(sharing)))? {
            Admission::Admitted(permit) => Ok(ClientDecision::Admitted(permit)),
            Admission::Ask(pending) => Ok(ClientDecision::Ask(Ask {
                pending,
                shared: Arc::clone(shared),
                admission: self,
                members: sharing.members(),
            })),
        }
    }

    pub fn asks(&self) -> AskCounts {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        AskCounts {
            granted: count(&self.asks.granted),
            refused: count(&self.asks.refused),
            timeout: count(&self.asks.timeout),
        }
    }
}

impl Ask<'_> {
    /// Waits for the decision of the store. If it does not arrive in time, this member's share of
    /// the limit decides, and no further connection waits until the store has answered.
    ///
    /// # Cancel safety
    /// A dropped future releases the connection. If the store has admitted it already, its token
    /// stays used.
    ///
    /// # Errors
    /// If the client is over a limit.
    pub async fn wait(self) -> Result<Permit, ClientRefusal> {
        let asks = &self.admission.asks;
        let mut pending = self.pending;
        let answer = timeout(self.shared.settings.ask_timeout, &mut pending).await;
        let (decision, is_timeout) = match answer {
            // Decided by the share if the exchange failed in the meantime.
            Ok(decision) => (decision, !self.shared.is_answering()),
            Err(_) => {
                self.shared.set_unanswered();
                (pending.decide_alone(self.members, net::now()), true)
            }
        };
        let (counter, scope) = match (is_timeout, &decision) {
            (true, _) => (&asks.timeout, Scope::Share(self.members)),
            (false, Ok(_)) => (&asks.granted, Scope::Fleet),
            (false, Err(_)) => (&asks.refused, Scope::Fleet),
        };
        counter.fetch_add(1, Ordering::Relaxed);
        decision.map_err(|refusal| ClientRefusal::new(refusal, scope))
    }
}

#[cfg(test)]
mod tests;
