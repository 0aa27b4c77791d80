//! The state of a client whose limits are shared with other members.
//!
//! Locks are taken in this order: table shard, client state, cell of a waiting connection, queues.
//! Wakers are called without holding any lock.

mod open_count;
mod pending;
mod usage_report;

use std::{
    collections::VecDeque,
    num::NonZeroU32,
    sync::Weak,
    task::Waker,
    time::{Duration, Instant},
};

use super::{
    Admission, Limits, Permit, Refusal,
    changes::{Change, Changes},
    rate::Bucket,
    share::{Decision, FleetUsage, Known, Sharing},
};
use crate::{
    deadline::nanos_since,
    spec::ClientId,
    sync::{Arc, AtomicU64, Mutex, Ordering},
};

pub(super) use open_count::OpenCount;
use pending::Cell;
pub use pending::Pending;
pub use usage_report::UsageReport;

/// A client of a limiter, and what the store knows about it.
#[derive(Debug)]
pub(super) struct SharedClient {
    id: ClientId,
    epoch: Instant,
    /// Number of open connections on this member.
    open: Arc<OpenCount>,
    changes: Weak<Changes<Self>>,
    /// The queues that contain the client, as the bits [`USAGE`] and [`ASK`], or [`DETACHED`].
    marks: AtomicU64,
    state: Mutex<State>,
}

const USAGE: u64 = 1;
const ASK: u64 = 2;
/// The table has forgotten the client. It must no longer be reported, because the table may have
/// another entry for the same client.
const DETACHED: u64 = 4;

/// How long the end of the last connection of a client is reported again. A failover of the store
/// can lose the last writes, and the store then counts connections that have ended.
const REPEAT_CLOSED: Duration = Duration::from_secs(30);

#[derive(Debug, Default)]
struct State {
    /// The limits that applied to the client's last connection attempt.
    limits: Limits,
    /// The limits in the report that is not yet acknowledged.
    reported_limits: Limits,
    /// The connections that this member has admitted. Used for decisions while the store does not
    /// answer.
    bucket: Bucket,
    has_answer: bool,
    /// Tokens in use in the whole fleet at `answered`.
    used: f64,
    /// When the last answer was received.
    answered: u64,
    others_open: u32,
    reported_open: u32,
    /// Tokens used since the last report.
    unsent: u32,
    /// Tokens used under this member's share since the last report.
    unsent_alone: u32,
    /// Tokens in the report that is not yet acknowledged.
    sent: u32,
    /// The most connections that the store may count because of this report.
    sent_open: u32,
    /// Connections that wait, including some that have stopped waiting. The first `asked` are in
    /// the report that is not acknowledged.
    asks: VecDeque<Arc<Cell>>,
    asked: usize,
    /// Whether the first connection that waits was in the report before.
    asks_again: bool,
    /// Whether there is a report that is not yet acknowledged.
    has_report: bool,
    /// Whether the client is in the queue of clients to report again.
    is_repeated: bool,
    /// When the store last learnt that no connection is open.
    closed: u64,
}

impl SharedClient {
    /// Creates the state. `bucket` contains the connections that were admitted before the limits
    /// were shared.
    pub(super) fn new(
        id: ClientId,
        epoch: Instant,
        open: Arc<OpenCount>,
        changes: &Arc<Changes<Self>>,
        bucket: Bucket,
        now: u64,
    ) -> Self {
        Self {
            id,
            epoch,
            open,
            changes: Arc::downgrade(changes),
            marks: AtomicU64::new(0),
            state: Mutex::new(State {
                unsent_alone: bucket.tokens(now),
                bucket,
                ..State::default()
            }),
        }
    }

    pub(super) const fn id(&self) -> &ClientId {
        &self.id
    }

    pub(super) fn set_limits(&self, limits: &Limits) {
        self.state.lock().limits = *limits;
    }

    /// Admits a connection, refuses it, or lets it wait. The caller must hold the shard's lock.
    /// After releasing it, the caller must pass the returned change to [`Self::mark`].
    pub(super) fn admit(
        self: &Arc<Self>,
        limits: &Limits,
        sharing: Sharing,
        now: u64,
    ) -> Result<(Admission, Change), Refusal> {
        let mut state = self.state.lock();
        state.limits = *limits;
        let mut decision = self.known(&state, now).decide(sharing, limits, now);
        if matches!(decision, Decision::Refuse(_)) && state.forget_cancelled() {
            decision = self.known(&state, now).decide(sharing, limits, now);
        }
        match decision {
            Decision::Admit => {
                state.unsent = state.unsent.saturating_add(1);
                let permit = self.count(&mut state, limits, now);
                Ok((Admission::Admitted(permit), Change::Usage))
            }
            Decision::Alone => {
                let permit = self.admit_alone(&mut state, limits, sharing.members(), now)?;
                Ok((Admission::Admitted(permit), Change::Usage))
            }
            Decision::Ask => {
                let cell = Arc::new(Cell::new(*limits));
                state.asks.push_back(Arc::clone(&cell));
                let pending = Pending::new(Arc::clone(self), cell);
                Ok((Admission::Ask(pending), Change::Ask))
            }
            Decision::Refuse(refusal) => Err(refusal),
        }
    }

    /// Decides about the connection that waits in `cell`, unless the store has already decided.
    fn decide_alone(
        self: &Arc<Self>,
        cell: &Cell,
        members: NonZeroU32,
        now: Instant,
    ) -> Result<Permit, Refusal> {
        let mut state = self.state.lock();
        let decision = match cell.decision.take() {
            Some(decision) => decision,
            None => self.admit_alone(&mut state, &cell.limits, members, self.stamp(now)),
        };
        drop(state);
        self.mark(Change::Usage);
        decision
    }

    /// Decides about all waiting connections, using the share of one of `members` balancers.
    pub(super) fn decide_all_alone(self: &Arc<Self>, members: NonZeroU32, now: Instant) {
        let now = self.stamp(now);
        let mut state = self.state.lock();
        let cells = std::mem::take(&mut state.asks);
        state.asked = 0;
        let wakers: Vec<_> = cells
            .iter()
            .filter_map(|cell| {
                let decide = || self.admit_alone(&mut state, &cell.limits, members, now);
                cell.decision.set_with(decide).1
            })
            .collect();
        drop(state);
        wake(wakers);
        if !cells.is_empty() {
            self.mark(Change::Usage);
        }
    }

    /// Returns what the store does not know yet. With `repeat`, also returns what it should already
    /// know.
    pub(super) fn report(self: &Arc<Self>, repeat: bool, now: u64) -> Option<UsageReport> {
        let mut state = self.state.lock();
        if state.has_report || self.is_detached() {
            return None;
        }
        state.forget_cancelled();
        let admitted = state.unsent.saturating_add(state.unsent_alone(now));
        let open = self.open();
        let is_known = admitted == 0 && state.asks.is_empty() && open == state.reported_open;
        if is_known && !repeat {
            state.unsent_alone = 0;
            return None;
        }
        (state.unsent, state.unsent_alone, state.sent) = (0, 0, admitted);
        state.has_report = true;
        state.ask(open);
        Some(UsageReport::new(
            Arc::clone(self),
            state.reported_limits,
            admitted,
            asks(state.asked),
            open,
        ))
    }

    /// Whether the client has to be reported again from time to time.
    pub(super) fn keep_repeating(&self, now: u64) -> bool {
        let mut state = self.state.lock();
        let is_open = state.has_report || state.reported_open > 0 || self.open() > 0;
        let since_closed = Duration::from_nanos(now.saturating_sub(state.closed));
        state.is_repeated = (is_open || since_closed < REPEAT_CLOSED) && !self.is_detached();
        state.is_repeated
    }

    /// Returns the limits, the number of connections that ask and the number of open connections,
    /// for a report that is sent again.
    pub(super) fn refresh(&self) -> (Limits, u32, u32) {
        let mut state = self.state.lock();
        state.forget_cancelled();
        let open = self.open();
        state.ask(open);
        (state.reported_limits, asks(state.asked), open)
    }

    /// Tokens in use according to the last answer. `None`: there was none.
    fn known_used(&self, now: Instant) -> Option<f64> {
        let now = self.stamp(now);
        let state = self.state.lock();
        let rate = state.limits.rate.as_ref().filter(|_| state.has_answer)?;
        Some(self.known(&state, now).used_at(rate, now))
    }

    /// Applies the answer to a report that stated `open` open connections.
    pub(super) fn confirm(self: &Arc<Self>, open: u32, answer: &FleetUsage, now: Instant) {
        let now = self.stamp(now);
        let mut state = self.state.lock();
        state.has_report = false;
        state.sent = 0;
        state.has_answer = true;
        state.used = answer.used;
        state.answered = now;
        state.others_open = answer.others_open;
        let sent_open = std::mem::take(&mut state.sent_open);
        let was_open = state.reported_open > 0 || sent_open > 0;
        state.reported_open = open.saturating_add(answer.granted);
        if was_open && state.reported_open == 0 {
            state.closed = now;
        }
        let wakers = self.distribute(&mut state, answer.granted, now);

        let may_repeat = (was_open || state.reported_open > 0) && !self.is_detached();
        let is_repeated = may_repeat && !state.is_repeated;
        state.is_repeated |= is_repeated;
        let change = if !state.asks.is_empty() {
            Some(Change::Ask)
        } else if state.unsent > 0 || state.unsent_alone > 0 || self.open() != state.reported_open {
            Some(Change::Usage)
        } else {
            None
        };
        drop(state);
        wake(wakers);
        if is_repeated && let Some(changes) = self.changes.upgrade() {
            changes.push_reported(Arc::clone(self), now);
        }
        // While the report was not acknowledged, marks of later changes may have been removed.
        if let Some(change) = change {
            self.mark(change);
        }
    }

    /// Admits the first `granted` connections that asked. If nothing more is free, the rest are
    /// refused. Otherwise the store had already received the report, and they ask again.
    ///
    /// Left-over grants had been requested for connections that were meanwhile decided under this
    /// member's share. Those connections need no further tokens.
    fn distribute(&self, state: &mut State, granted: u32, now: u64) -> Vec<Waker> {
        let count = std::mem::take(&mut state.asked).min(state.asks.len());
        let asked: Vec<_> = state.asks.drain(..count).collect();
        let mut granted = granted;
        let mut wakers = Vec::new();
        let mut again = Vec::new();
        for cell in asked {
            if granted > 0 {
                let admit = || Ok(self.count(state, &cell.limits, now));
                let (is_admitted, waker) = cell.decision.set_with(admit);
                granted -= u32::from(is_admitted);
                wakers.extend(waker);
                continue;
            }
            let known = self.known(state, now);
            match known.refusal_after_answer(&cell.limits, now) {
                Some(refusal) => wakers.extend(cell.decision.set_with(|| Err(refusal)).1),
                None => again.push(cell),
            }
        }
        state.asks_again = !again.is_empty();
        for cell in again.into_iter().rev() {
            state.asks.push_front(cell);
        }
        state.unsent_alone = state.unsent_alone.saturating_sub(granted);
        wakers
    }

    /// Undoes [`Self::report`], because the report will never be sent again.
    pub(super) fn retract(self: &Arc<Self>) {
        let mut state = self.state.lock();
        state.has_report = false;
        state.asked = 0;
        state.unsent = state.unsent.saturating_add(std::mem::take(&mut state.sent));
        drop(state);
        self.mark(Change::Usage);
    }

    /// Puts the client into the queue of clients to report, unless it is already there. Call this
    /// after the change.
    pub(super) fn mark(self: &Arc<Self>, change: Change) {
        let bit = bit(change);
        // `AcqRel`: if the mark is already set, `unmark` sees the change.
        if self.marks.fetch_or(bit, Ordering::AcqRel) & (bit | DETACHED) == 0
            && let Some(changes) = self.changes.upgrade()
        {
            changes.push(change, Arc::clone(self), Self::is_detached);
        }
    }

    /// Records that the client was taken from a queue. Call this before [`Self::report`].
    pub(super) fn unmark(&self, change: Change) {
        self.marks.fetch_and(!bit(change), Ordering::AcqRel);
    }

    /// Called when the table forgets the client. Returns the bucket with the connections that this
    /// member has admitted.
    pub(super) fn detach(&self) -> Bucket {
        self.open.detach();
        self.marks.fetch_or(DETACHED, Ordering::AcqRel);
        std::mem::take(&mut self.state.lock().bucket)
    }

    pub(super) fn is_detached(&self) -> bool {
        self.marks.load(Ordering::Acquire) & DETACHED != 0
    }

    /// Whether the state is the same as that of an unknown client.
    pub(super) fn is_idle(&self, now: u64) -> bool {
        let state = self.state.lock();
        let rate = state.limits.rate.as_ref();
        self.is_settled(&state, now)
            && !state.is_repeated
            && state.bucket.is_full(now)
            && self.known(&state, now).is_full(rate, now)
    }

    /// For a client that can be forgotten early because it has no connections: the time at which
    /// all its tokens are restored. `u64::MAX` if the store would miss some of them. `None` if the
    /// client must not be forgotten: the store would continue to count connections that have ended.
    /// Their number is limited by the connections that were open when they were reported.
    pub(super) fn full_at(&self, now: u64) -> Option<u64> {
        let state = self.state.lock();
        let may_count_open = state.reported_open > 0 || state.sent_open > 0;
        if state.has_report || !state.asks.is_empty() || may_count_open {
            return None;
        }
        if !self.is_settled(&state, now) {
            return Some(u64::MAX);
        }
        let rate = state.limits.rate.as_ref();
        let full_at = self.known(&state, now).full_at(rate);
        Some(full_at.max(state.bucket.full_at()))
    }

    /// Whether the store knows everything and counts no connections for this member.
    fn is_settled(&self, state: &State, now: u64) -> bool {
        !state.has_report
            && state.asks.is_empty()
            && state.unsent == 0
            && state.unsent_alone(now) == 0
            && state.reported_open == 0
            && self.open() == 0
    }

    fn known(&self, state: &State, now: u64) -> Known {
        Known {
            has_answer: state.has_answer,
            used: state.used,
            answered: state.answered,
            others_open: state.others_open,
            reported_open: state.reported_open,
            unacknowledged: state
                .unsent
                .saturating_add(state.unsent_alone(now))
                .saturating_add(state.sent),
            open: self.open(),
            waiting: asks(state.asks.len()),
        }
    }

    fn admit_alone(
        &self,
        state: &mut State,
        limits: &Limits,
        members: NonZeroU32,
        now: u64,
    ) -> Result<Permit, Refusal> {
        let share = limits.share(members);
        if share.max_conns.is_some_and(|max| self.open() >= max.get()) {
            return Err(Refusal::TooManyConnections);
        }
        if let Some(rate) = &share.rate {
            state
                .bucket
                .take_lowered(rate, now)
                .map_err(|retry_after| Refusal::RateLimited { retry_after })?;
        }
        state.unsent_alone = state.unsent_alone.saturating_add(1);
        Ok(self.permit())
    }

    /// Counts a connection that the fleet has admitted.
    fn count(&self, state: &mut State, limits: &Limits, now: u64) -> Permit {
        if let Some(rate) = &limits.rate {
            state.bucket.charge(rate, now);
        }
        self.permit()
    }

    fn permit(&self) -> Permit {
        Permit::new(&self.open)
    }

    fn open(&self) -> u32 {
        u32::try_from(self.open.get()).unwrap_or(u32::MAX)
    }

    fn stamp(&self, now: Instant) -> u64 {
        nanos_since(self.epoch, now)
    }
}

impl State {
    /// Tokens that were used under this member's share and are not yet restored at the share's
    /// rate. While the store did not answer, the other members had the rest of the limit.
    fn unsent_alone(&self, now: u64) -> u32 {
        // Without a rate limit, the bucket is not used.
        self.unsent_alone.min(self.bucket.tokens(now))
    }

    /// Puts the connections that wait into the report, unless it contains admitted connections.
    /// They are then in the next report. If other members admit connections of this client at
    /// the same time, the store knows of them by then.
    ///
    /// The store decides under one set of limits. If the connections have different limits, the
    /// lowest are used. A connection that is not refused under its own limits asks again under
    /// these, even if others with lower limits have come in the meantime.
    fn ask(&mut self, open: u32) {
        let first = self.asks.front().filter(|_| self.sent == 0);
        (self.reported_limits, self.asked) = match first.map(|cell| cell.limits) {
            None => (self.limits, 0),
            Some(limits) if self.asks_again => (limits, self.move_to_front(&limits)),
            Some(limits) => {
                let all = self.asks.iter().map(|cell| cell.limits);
                (all.fold(limits, Limits::lower), self.asks.len())
            }
        };
        self.sent_open = self.sent_open.max(open.saturating_add(asks(self.asked)));
    }

    /// Moves the connections that wait under `limits` to the front, and returns their number.
    fn move_to_front(&mut self, limits: &Limits) -> usize {
        if self.asks.iter().all(|cell| cell.limits == *limits) {
            return self.asks.len();
        }
        let asks = std::mem::take(&mut self.asks).into_iter();
        let (mut first, others): (VecDeque<_>, VecDeque<_>) =
            asks.partition(|cell| cell.limits == *limits);
        let count = first.len();
        first.extend(others);
        self.asks = first;
        count
    }

    /// Removes connections that no longer wait. Returns whether there were any.
    fn forget_cancelled(&mut self) -> bool {
        let before = self.asks.len();
        let mut index = 0;
        let asked = self.asked;
        self.asks.retain(|cell| {
            let keep = cell.decision.is_waiting();
            if index < asked && !keep {
                self.asked -= 1;
            }
            index += 1;
            keep
        });
        self.asks.len() < before
    }
}

const fn bit(change: Change) -> u64 {
    match change {
        Change::Usage => USAGE,
        Change::Ask => ASK,
    }
}

fn asks(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

fn wake(wakers: Vec<Waker>) {
    for waker in wakers {
        waker.wake();
    }
}

#[cfg(test)]
mod tests;
