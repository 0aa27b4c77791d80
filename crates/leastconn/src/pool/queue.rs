//! The queue of an upstream, for connections that wait because every server that they may use is at
//! `max_conns`.
//!
//! A waiting connection marks its servers as reserved, in the same atomic word that counts their
//! connections. Ordinary picks do not choose a reserved server, and a connection that ends on it
//! serves the queue. Because the mark and the count share one word, a freed slot cannot be missed:
//! a connection that ends either sees the mark, or has ended before the waiting connection reads
//! the count. As long as no connection is waiting, the queue adds no cost to the end of a
//! connection.
//!
//! A freed slot is handed over: the queue picks a server for the waiting connection, counts the
//! connection on it, and then wakes only the task of this connection.
//!
//! A pool shares the queue with its successors. Waiting connections are therefore served with the
//! newest members and limits.

mod order;
mod waiting;

use std::{
    collections::HashSet,
    task::Waker,
    time::{Duration, Instant},
};

#[cfg(feature = "tokio")]
use super::full::FullPeriods;
use super::{
    Candidates, PickRequest, Selector,
    membership::Membership,
    pick::{Outlook, PickRules},
    selector::SelectorKey,
};
use crate::{
    balance::Source,
    server::{Server, Slots},
    spec::{ClientId, ServerId},
    sync::{Arc, Mutex},
};
use order::{FairOrder, Queued};
use waiting::Cell;
pub use waiting::{Displaced, Waiting};

/// A snapshot of the waiting connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct QueueStatus {
    /// Number of waiting connections.
    pub waiting: usize,
    /// How long the oldest waiting connection has been waiting.
    pub longest_wait: Option<Duration>,
}

/// Why a connection cannot wait for a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EnqueueError {
    /// No server that the connection may use is available, or the pool has no queue.
    #[error("none of the allowed servers is available")]
    NoServerAvailable,
    /// The queue is full, and no client has more waiting connections than this one.
    #[error("the queue is full")]
    Full,
}

/// Maximum number of connections that wait for slots if the pool has no queue.
const MAX_WAITING_FOR_SLOTS: usize = 1024;

/// The queue of one upstream.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    state: Mutex<State>,
    /// Periods during which servers at `max_conns` affect connections.
    #[cfg(feature = "tokio")]
    pub(crate) full: FullPeriods,
}

#[derive(Debug, Default)]
struct State {
    newest: Option<Newest>,
    /// The latest time that a caller has passed or the [clock](super::PoolBuilder::clock) has
    /// shown. The end of a lease carries no time, so without a clock, picks at the end of a
    /// connection use this one.
    now: Option<Instant>,
    order: FairOrder<Waiter>,
    /// The servers that are marked as reserved.
    reserved: Vec<Arc<Server>>,
}

/// The rules and members of the newest pool of the upstream.
#[derive(Debug)]
struct Newest {
    rules: Arc<PickRules>,
    membership: Arc<Membership>,
}

#[derive(Debug)]
struct Waiter {
    selector: Selector,
    source: Option<Source>,
    since: Instant,
    cell: Arc<Cell>,
}

impl Queued for Waiter {
    fn key(&self) -> SelectorKey {
        self.selector.key()
    }
}

impl Queue {
    /// Adds a connection, and serves the queue in case a server has a free slot.
    pub(super) fn enqueue(
        self: &Arc<Self>,
        selector: &Selector,
        client: Option<&ClientId>,
        source: Option<Source>,
        now: Instant,
        waits_for_slots: bool,
    ) -> Result<Waiting, EnqueueError> {
        let mut state = self.state.lock();
        state.advance(now);
        let mut size = match &state.newest {
            Some(newest)
                if newest.rules.queue.size > 0 || waits_for_slots || !state.order.is_empty() =>
            {
                newest.rules.queue.size
            }
            _ => return Err(EnqueueError::NoServerAvailable),
        };
        let cell = Arc::new(Cell::default());
        let waiter = Waiter {
            selector: selector.clone(),
            source,
            since: now,
            cell: Arc::clone(&cell),
        };
        let client = client.cloned();
        let ticket = state.order.push(client.clone(), waiter);
        let Outlook {
            may_wait,
            has_room,
            lacks_slots,
        } = state.reserve_for(selector);
        if size == 0 && waits_for_slots && lacks_slots {
            size = MAX_WAITING_FOR_SLOTS;
        }
        let mut wakers = Vec::new();
        if has_room {
            state.serve(None, &mut wakers);
        }
        let mut result = Ok(());
        if cell.is_waiting() {
            if size == 0 || !may_wait {
                state.order.remove(client.as_ref(), ticket);
                result = Err(EnqueueError::NoServerAvailable);
            } else if state.order.len() > size {
                match state.order.displace_for(client.as_ref(), ticket) {
                    Some(other) if !Arc::ptr_eq(&other.cell, &cell) => {
                        wakers.extend(other.cell.set(Err(Displaced)));
                    }
                    _ => result = Err(EnqueueError::Full),
                }
            }
        }
        state.release_unawaited();
        drop(state);
        wakers.into_iter().for_each(Waker::wake);
        result.map(|()| Waiting::new(Arc::clone(self), client, ticket, cell))
    }

    /// Removes a connection that is no longer waiting.
    fn leave(&self, client: Option<&ClientId>, ticket: u64) {
        let mut state = self.state.lock();
        state.order.remove(client, ticket);
        state.release_unawaited();
    }

    /// Serves waiting connections for which a server is available at `now`.
    pub(super) fn serve_at(&self, now: Instant) {
        self.serve(|state| state.advance(now));
    }

    /// Sets the rules and members to use from now on.
    pub(super) fn set_newest(&self, rules: &Arc<PickRules>, membership: &Arc<Membership>) {
        self.serve(|state| {
            state.newest = Some(Newest {
                rules: Arc::clone(rules),
                membership: Arc::clone(membership),
            });
            for selector in &state.selectors() {
                state.reserve_for(selector);
            }
        });
    }

    /// Returns the servers of the newest pool that `selector` selects.
    #[cfg(feature = "tokio")]
    pub(crate) fn candidates(&self, selector: &Selector) -> Option<Candidates> {
        let state = self.state.lock();
        Some(state.newest.as_ref()?.candidates(selector))
    }

    pub(super) fn status(&self, now: Instant) -> QueueStatus {
        let state = self.state.lock();
        let oldest = state.order.oldest().map(|waiter| waiter.since).min();
        QueueStatus {
            waiting: state.order.len(),
            longest_wait: oldest.map(|since| now.saturating_duration_since(since)),
        }
    }

    fn serve(&self, prepare: impl FnOnce(&mut State)) {
        let mut wakers = Vec::new();
        let mut state = self.state.lock();
        prepare(&mut state);
        state.serve(None, &mut wakers);
        state.release_unawaited();
        drop(state);
        wakers.into_iter().for_each(Waker::wake);
    }
}

impl Slots for Queue {
    fn freed(&self, server: &Server) {
        let mut wakers = Vec::new();
        let mut state = self.state.lock();
        state.read_clock();
        let is_awaited = state.serve(Some(server.id()), &mut wakers);
        if !is_awaited {
            state.release(server);
        }
        state.release_unawaited();
        drop(state);
        wakers.into_iter().for_each(Waker::wake);
    }

    fn changed(&self) {
        self.serve(State::read_clock);
    }
}

impl State {
    fn advance(&mut self, now: Instant) {
        self.now = self.now.max(Some(now));
    }

    fn read_clock(&mut self) {
        let newest = self.newest.as_ref();
        if let Some(clock) = newest.and_then(|newest| newest.rules.clock) {
            self.advance(clock());
        }
    }

    /// The different selectors of the waiting connections.
    fn selectors(&self) -> Vec<Selector> {
        let mut seen = HashSet::new();
        let waiters = self.order.iter();
        let different = waiters.filter(|waiter| seen.insert(waiter.key()));
        different
            .take(self.order.selectors())
            .map(|waiter| waiter.selector.clone())
            .collect()
    }

    /// Marks the servers of `selector` as reserved.
    fn reserve_for(&mut self, selector: &Selector) -> Outlook {
        let (Some(newest), Some(now)) = (&self.newest, self.now) else {
            return Outlook::default();
        };
        let candidates = newest.candidates(selector);
        for member in candidates.members() {
            if member.server.reserve() {
                self.reserved.push(Arc::clone(&member.server));
            }
        }
        newest.rules.outlook(&candidates, now)
    }

    /// Picks servers for waiting connections, in fair order, until no more can be picked. With
    /// `freed`, serves only connections that may use this server. Returns whether there are any
    /// such connections.
    ///
    /// Once a pick for a connection has failed, all connections with the same candidates are
    /// skipped. The cost therefore depends on the number of different selectors, and only slightly
    /// on the number of waiting connections.
    fn serve(&mut self, freed: Option<&ServerId>, wakers: &mut Vec<Waker>) -> bool {
        let (Some(newest), Some(now)) = (&self.newest, self.now) else {
            return false;
        };
        let mut is_awaited = false;
        let mut unserved = HashSet::new();
        let mut turn = self.order.first_turn();
        while let Some(at) = turn {
            if unserved.len() == self.order.selectors() {
                break;
            }
            let mut pick = |waiter: &Waiter| {
                if unserved.contains(&waiter.key()) {
                    return None;
                }
                if freed.is_none_or(|freed| waiter.selector.selects(freed)) {
                    is_awaited = true;
                    let request = PickRequest::new(now).source(waiter.source);
                    let candidates = newest.candidates(&waiter.selector);
                    let lease = newest.rules.pick::<true>(&candidates, &request);
                    if lease.is_some() {
                        return lease;
                    }
                }
                unserved.insert(waiter.key());
                None
            };
            let served = self.order.line(at).find_map(|(ticket, waiter)| {
                let lease = pick(waiter)?;
                Some((ticket, Arc::clone(&waiter.cell), lease))
            });
            if let Some((ticket, cell, lease)) = served {
                let _ = self.order.take_turn(at, ticket);
                wakers.extend(cell.set(Ok(lease)));
            }
            turn = self.order.turn_after(at);
        }
        is_awaited
    }

    /// Ends the reservation of a server for which no connection is waiting.
    fn release(&mut self, server: &Server) {
        server.end_reservation();
        self.reserved
            .retain(|reserved| !std::ptr::eq(&**reserved, server));
    }

    /// Ends the reservations of servers for which no connection is waiting any more.
    fn release_unawaited(&mut self) {
        if !self.order.take_lost_selector() || self.reserved.is_empty() {
            return;
        }
        let selectors = self.selectors();
        self.reserved.retain(|server| {
            let mut selectors = selectors.iter();
            let is_awaited = selectors.any(|selector| selector.selects(server.id()));
            if !is_awaited {
                server.end_reservation();
            }
            is_awaited
        });
    }
}

impl Newest {
    fn candidates(&self, selector: &Selector) -> Candidates {
        selector.resolve(&self.membership, &self.rules)
    }
}

#[cfg(test)]
mod tests;
