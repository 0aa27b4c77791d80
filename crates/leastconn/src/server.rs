//! One server at run time: its connection count, its states, its health.
//!
//! Count and states share one atomic word, so that picking can test and count
//! in a single compare-and-swap: a server that was drained before the swap is
//! not picked after it, and a count never passes `max_conns`.

mod group;
mod outage;

use std::{
    sync::{OnceLock, Weak},
    time::{Duration, Instant},
};

pub(crate) use group::Membership;
use outage::{Cause, Condition};
pub use outage::{Failure, Outage};

use crate::{
    Address, AdminState,
    balance::slow_start::{FULL, Pace},
    health::{ActivePolicy, Availability, Health, PassivePolicy, Siblings},
    spec::{ServerId, hash},
    sync::{AtomicU64, Mutex, Ordering, lock},
};

/// Low half of the word: connections in flight.
const IN_FLIGHT: u64 = 0xffff_ffff;
/// The operator wants no new connections.
const DRAIN: u64 = 1 << 32;
/// The operator wants none at all.
const MAINT: u64 = 1 << 33;
/// Probes say that it does not work.
const DOWN: u64 = 1 << 34;
/// Connects failed: to be had only for a trial, see [`Server::try_acquire`].
const EJECTED: u64 = 1 << 35;
/// Some failure is remembered: a success has something to clear. Spares the
/// lock of `condition` on each good connect to a healthy server.
const TROUBLED: u64 = 1 << 36;

/// It is new to a running pool or came back, and begins slowly where its pool says
/// so. The first pick that looks at it sets the time; see [`crate::balance::slow_start`].
const SLOW: u64 = 1 << 37;

/// It was dialled as a last resort since it was last available.
const LAST_RESORT: u64 = 1 << 38;

const CLOSED: u64 = DRAIN | MAINT | DOWN;

/// A server of a [`Pool`](crate::Pool).
///
/// It outlives the pool that it was made for: a [`Lease`](crate::Lease) holds
/// it, and so may the next pool of a changed configuration, which then goes on
/// with its counts and its health.
#[derive(Debug)]
pub struct Server {
    word: AtomicU64,
    id: ServerId,
    /// Of its name, for [`Balance::SourceHash`](crate::Balance::SourceHash).
    hash: u64,
    address: Address,
    condition: Mutex<Condition>,
    /// The servers of its upstream. Its pools keep it: without one, it is gone.
    membership: Weak<Membership>,
    /// With [`SLOW`]: when it was first looked at since, in nanoseconds after
    /// `epoch` and one; 0: not yet.
    looked_at: AtomicU64,
    epoch: OnceLock<Instant>,
    connections: AtomicU64,
    connect_failures: AtomicU64,
    #[cfg(feature = "tokio")]
    pub(crate) resolved: crate::net::resolve::Resolved,
    /// When its last probe began that has ended.
    #[cfg(feature = "tokio")]
    pub(crate) last_probe: Mutex<Option<Instant>>,
}

/// What a server looks like from outside, for status pages and metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServerStatus {
    /// Connections being dialled or open.
    pub in_flight: u32,
    /// What the operator wants.
    pub admin: AdminState,
    /// What health allows.
    pub availability: Availability,
    /// Connections that were opened to it since the start.
    pub connections: u64,
    /// Connects to it that failed since the start.
    pub connect_failures: u64,
}

/// How far a server has come that gets to its share by and by; see
/// [`Pool::slow_start_of`](crate::Pool::slow_start_of).
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct SlowStart {
    /// What it may get of its share by weight of the connections that come: from a
    /// tenth to less than 1.
    pub share: f64,
    /// How long until it may have its whole share. It does not get shorter before the
    /// first pick that the server could have been in.
    pub remaining: Duration,
}

impl ServerStatus {
    /// Whether health, not the operator, lets it be picked.
    pub fn is_up(&self) -> bool {
        self.availability == Availability::Up
    }
}

impl Server {
    pub(crate) fn new(
        id: ServerId,
        address: Address,
        active: Option<ActivePolicy>,
        passive: PassivePolicy,
        membership: Weak<Membership>,
    ) -> Self {
        Self {
            membership,
            word: AtomicU64::new(0),
            hash: hash(id.as_str().as_bytes()),
            id,
            address,
            #[cfg(feature = "tokio")]
            resolved: crate::net::resolve::Resolved::default(),
            #[cfg(feature = "tokio")]
            last_probe: Mutex::new(None),
            condition: Mutex::new(Condition::new(Health::new(active, passive))),
            looked_at: AtomicU64::new(0),
            epoch: OnceLock::new(),
            connections: AtomicU64::new(0),
            connect_failures: AtomicU64::new(0),
        }
    }

    /// Its name.
    pub const fn id(&self) -> &ServerId {
        &self.id
    }

    /// Where it listens.
    pub const fn address(&self) -> &Address {
        &self.address
    }

    /// Connections being dialled or open.
    pub fn in_flight(&self) -> u32 {
        count(self.word.load(Ordering::Relaxed))
    }

    /// A snapshot of its state.
    pub fn status(&self) -> ServerStatus {
        let word = self.word.load(Ordering::Relaxed);
        ServerStatus {
            in_flight: count(word),
            admin: match word & (DRAIN | MAINT) {
                0 => AdminState::Ready,
                DRAIN => AdminState::Drain,
                _ => AdminState::Maint,
            },
            availability: lock(&self.condition).health.availability(),
            connections: self.connections.load(Ordering::Relaxed),
            connect_failures: self.connect_failures.load(Ordering::Relaxed),
        }
    }

    /// Sets what the operator wants. Once this returns, a server in drain or
    /// maint is picked no more.
    ///
    /// A server that becomes ready after maint begins slowly where its pool says so
    /// ([`Pool::with_slow_start`](crate::Pool::with_slow_start)), and so does one that
    /// has no connection left after drain: it may have been started anew.
    pub fn set_admin(&self, state: AdminState) {
        let flags = match state {
            AdminState::Ready => 0,
            AdminState::Drain => DRAIN,
            AdminState::Maint => MAINT,
        };
        let comes_back =
            |word| flags == 0 && (word & MAINT != 0 || (word & DRAIN != 0 && count(word) == 0));
        if comes_back(self.word.load(Ordering::Relaxed)) {
            // Before anybody sees the flag.
            self.looked_at.store(0, Ordering::Relaxed);
        }
        self.change(|word| {
            let slow = if comes_back(word) { SLOW } else { 0 };
            (word & !(DRAIN | MAINT)) | flags | slow
        });
        if let Some(membership) = self.membership.upgrade() {
            membership.update();
        }
    }

    /// Whatever it began before now, it has its whole share.
    pub(crate) fn end_beginning(&self) {
        self.change(|word| word & !SLOW);
    }

    /// It begins slowly where its pool says so, from the first pick on.
    pub(crate) fn begin_slowly(&self) {
        self.looked_at.store(0, Ordering::Relaxed);
        self.change(|word| word | SLOW);
    }

    /// It was gone from its pool, and is back before the last of its connections has
    /// ended: these count, and all else begins anew.
    pub(crate) fn come_back(&self, active: Option<ActivePolicy>, passive: PassivePolicy) {
        let mut condition = lock(&self.condition);
        *condition = Condition::new(Health::new(active, passive));
        // Before anybody sees the flag.
        self.looked_at.store(0, Ordering::Relaxed);
        self.change(|word| (word & IN_FLIGHT) | SLOW);
    }

    /// Since when it has been ejected or down, and why. `None` if it is up, or if the
    /// failure was not described ([`Self::probe_failed`], [`Self::connect_failed_with`]).
    pub fn outage(&self) -> Option<Outage> {
        lock(&self.condition).outage()
    }

    /// A probe ended. Returns whether this changed [`ServerStatus::is_up`].
    pub fn probed(&self, success: bool) -> bool {
        self.with_health(Cause::Other, |health, siblings| {
            health.probed(success, siblings);
        })
    }

    /// A probe failed with this error, which [`Self::outage`] shows if the server is down
    /// then. Returns whether this changed [`ServerStatus::is_up`].
    pub fn probe_failed(&self, failure: Failure<'_>) -> bool {
        self.with_health(Cause::Probe(failure), |health, siblings| {
            health.probed(false, siblings);
        })
    }

    /// A connect that began at `began` failed at `now`. Returns whether this changed
    /// [`ServerStatus::is_up`].
    pub fn connect_failed(&self, began: Instant, now: Instant) -> bool {
        self.failed(began, now, Cause::Other)
    }

    /// As [`Self::connect_failed`], with the error, which [`Self::outage`] shows if it
    /// ejects the server.
    pub fn connect_failed_with(&self, began: Instant, now: Instant, failure: Failure<'_>) -> bool {
        self.failed(began, now, Cause::Connect(failure))
    }

    fn failed(&self, began: Instant, now: Instant, cause: Cause<'_>) -> bool {
        self.connect_failures.fetch_add(1, Ordering::Relaxed);
        self.with_health(cause, |health, siblings| {
            health.connect_failed(began, now, siblings);
        })
    }

    /// A connect succeeded. Returns whether this changed [`ServerStatus::is_up`].
    pub fn connect_succeeded(&self) -> bool {
        self.connections.fetch_add(1, Ordering::Relaxed);
        if self.word.load(Ordering::Relaxed) & TROUBLED == 0 {
            return false;
        }
        self.with_health(Cause::Other, |health, _| health.connect_succeeded())
    }

    /// Changes health with regard to the other servers, which cannot change theirs
    /// meanwhile: two servers must not both be the last one that may be ejected.
    fn with_health(&self, cause: Cause<'_>, change: impl FnOnce(&mut Health, Siblings)) -> bool {
        match self.membership.upgrade() {
            Some(membership) => membership.change(self, cause, change),
            None => {
                self.change_health(cause, |health| change(health, Siblings::new(1, 0)))
                    .0
            }
        }
    }

    /// Changes health and publishes what follows into the word. The lock is
    /// held while publishing: two changes at once must not cross. Returns whether this
    /// changed [`ServerStatus::is_up`], and whether a client that waits may care.
    fn change_health(&self, cause: Cause<'_>, change: impl FnOnce(&mut Health)) -> (bool, bool) {
        let mut condition = lock(&self.condition);
        let health = &condition.health;
        let before = health.availability() == Availability::Up;
        let was_troubled = health.is_troubled();
        condition.change(cause, change);
        let health = &condition.health;
        let (flags, after) = match health.availability() {
            Availability::Up if health.is_troubled() => (TROUBLED, true),
            Availability::Up => (0, true),
            Availability::Ejected(_) => (EJECTED | TROUBLED, false),
            Availability::Down => (DOWN | TROUBLED, false),
        };
        let slow = if after && !before {
            // Before anybody sees the flag.
            self.looked_at.store(0, Ordering::Relaxed);
            SLOW
        } else {
            0
        };
        let over = if after { LAST_RESORT } else { 0 };
        self.change(|word| (word & !(DOWN | EJECTED | TROUBLED | over)) | flags | slow);
        let recovered = was_troubled && !health.is_troubled();
        (before != after, before != after || recovered)
    }

    /// Whether it may be picked, as far as the operator and its health go.
    pub(crate) fn is_available(&self) -> bool {
        self.word.load(Ordering::Acquire) & (CLOSED | EJECTED) == 0
    }

    /// Whether only a last resort would pick it: it is ejected or down, and the operator
    /// wants it to have connections.
    pub(crate) fn is_unhealthy(&self) -> bool {
        let word = self.word.load(Ordering::Acquire);
        word & (DRAIN | MAINT) == 0 && word & (DOWN | EJECTED) != 0
    }

    /// Whether it is ready and not down; it may be ejected.
    pub(crate) fn is_not_down(&self) -> bool {
        self.word.load(Ordering::Acquire) & CLOSED == 0
    }

    /// As [`Self::candidate`], for a last resort: an ejected server counts as available,
    /// and a server that is down too if `down` is set.
    pub(crate) fn last_resort(&self, down: bool) -> Option<Candidate> {
        let word = self.word.load(Ordering::Acquire);
        let closed = if down { DRAIN | MAINT } else { CLOSED };
        let in_flight = count(word);
        (word & closed == 0 && in_flight != u32::MAX).then_some(Candidate {
            word,
            in_flight,
            reached: None,
        })
    }

    /// Counts one more connection as a last resort, if nothing changed since `seen`.
    /// Returns whether it did, and whether this is the first one since the server was
    /// available.
    pub(crate) fn try_acquire_last_resort(&self, seen: u64) -> (bool, bool) {
        let unhealthy = seen & (DOWN | EJECTED) != 0;
        let first = unhealthy && seen & LAST_RESORT == 0;
        let mark = if first { LAST_RESORT } else { 0 };
        let counted = self.word.compare_exchange(
            seen,
            (seen + 1) | mark,
            Ordering::AcqRel,
            Ordering::Relaxed,
        );
        (counted.is_ok(), first)
    }

    fn change(&self, to: impl Fn(u64) -> u64) {
        let mut word = self.word.load(Ordering::Relaxed);
        while let Err(seen) =
            self.word
                .compare_exchange_weak(word, to(word), Ordering::AcqRel, Ordering::Relaxed)
        {
            word = seen;
        }
    }

    /// The word and the connections in flight, if the server may be picked at `now`.
    /// One that is beginning slowly is passed over here, and `slow` set. A server that
    /// is well pays for one test, the same as without slow start.
    pub(crate) fn candidate(&self, now: Instant, slow: &mut bool) -> Option<(u64, u32)> {
        let word = self.word.load(Ordering::Acquire);
        let in_flight = count(word);
        if word & CLOSED != 0 || in_flight == u32::MAX {
            return None;
        }
        if word & (EJECTED | SLOW) != 0 {
            if word & EJECTED == 0 {
                *slow = true;
                return None;
            }
            // One connection at a time: no need to be slow besides.
            if !lock(&self.condition).health.trial_is_due(now) {
                return None;
            }
        }
        Some((word, in_flight))
    }

    /// As [`Self::candidate`], but with how far one that is beginning slowly has
    /// come. One that has come as far as `pace` goes has its full share from now on.
    pub(crate) fn candidate_at(&self, now: Instant, pace: Pace) -> Option<Candidate> {
        let mut slow = false;
        if let Some((word, in_flight)) = self.candidate(now, &mut slow) {
            return Some(Candidate {
                word,
                in_flight,
                reached: None,
            });
        }
        if !slow {
            return None;
        }
        let Some(reached) = self.reached(now, pace) else {
            self.end_beginning();
            // What it is now, or slow again: then the next pick sees.
            let (word, in_flight) = self.candidate(now, &mut slow)?;
            return Some(Candidate {
                word,
                in_flight,
                reached: None,
            });
        };
        let word = self.word.load(Ordering::Acquire);
        let open = word & CLOSED == 0 && count(word) != u32::MAX;
        open.then_some(Candidate {
            word,
            in_flight: count(word),
            reached: Some(reached),
        })
    }

    /// How far a beginning has come; `None`: to its end.
    fn reached(&self, now: Instant, pace: Pace) -> Option<u32> {
        let epoch = *self.epoch.get_or_init(|| now);
        let after = now.saturating_duration_since(epoch).as_nanos();
        let after = u64::try_from(after).unwrap_or(u64::MAX).saturating_add(1);
        let mut since = self.looked_at.load(Ordering::Relaxed);
        if since == 0 && !pace.is_none() {
            let first =
                self.looked_at
                    .compare_exchange(0, after, Ordering::Relaxed, Ordering::Relaxed);
            since = first.err().unwrap_or(after);
        }
        pace.reached(after.saturating_sub(since))
    }

    /// The same for whoever only looks: it neither sets the clock nor ends anything.
    /// `None` also while no pick could find it.
    pub(crate) fn slow_start(&self, now: Instant, pace: Pace) -> Option<SlowStart> {
        let word = self.word.load(Ordering::Acquire);
        if word & (CLOSED | EJECTED) != 0 || word & SLOW == 0 {
            return None;
        }
        let passed = match (self.epoch.get(), self.looked_at.load(Ordering::Relaxed)) {
            (None, _) | (_, 0) => 0,
            (Some(&epoch), since) => {
                let after = now.saturating_duration_since(epoch).as_nanos();
                let after = u64::try_from(after).unwrap_or(u64::MAX).saturating_add(1);
                after.saturating_sub(since)
            }
        };
        let (reached, remaining) = pace.to_whole(passed)?;
        Some(SlowStart {
            share: f64::from(reached) / f64::from(FULL),
            remaining,
        })
    }

    pub(crate) const fn hash(&self) -> u64 {
        self.hash
    }

    /// Takes over policies of a changed configuration.
    pub(crate) fn set_policies(&self, active: Option<ActivePolicy>, passive: PassivePolicy) {
        self.with_health(Cause::Other, |health, _| {
            health.set_policies(active, passive);
        });
    }

    /// Counts one more connection, if nothing changed since `seen`.
    ///
    /// On a server that is ejected this is its trial. The trial begins only
    /// once the connection is counted: one that lost its swap to the end of an
    /// old connection must not cost the server its turn. The lock, held over
    /// both, lets one picker through.
    pub(crate) fn try_acquire(&self, seen: u64, now: Instant) -> bool {
        let count_one = || {
            self.word
                .compare_exchange(seen, seen + 1, Ordering::AcqRel, Ordering::Relaxed)
                .is_ok()
        };
        if seen & EJECTED == 0 {
            return count_one();
        }
        let mut condition = lock(&self.condition);
        let acquired = condition.health.trial_is_due(now) && count_one();
        if acquired {
            condition.health.start_trial(now);
        }
        acquired
    }

    pub(crate) fn release(&self) {
        let before = self.word.fetch_sub(1, Ordering::AcqRel);
        debug_assert_ne!(count(before), 0, "a lease was released twice");
    }
}

/// A server that may be picked, as it was seen.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Candidate {
    pub(crate) word: u64,
    pub(crate) in_flight: u32,
    /// How far a beginning has come, where [`FULL`] is its whole share.
    pub(crate) reached: Option<u32>,
}

impl Candidate {
    /// Its part of the share that its weight gives it, of [`FULL`] at most.
    pub(crate) const fn part(&self) -> u32 {
        match self.reached {
            Some(reached) if reached < FULL => reached,
            _ => FULL,
        }
    }
}

const fn count(word: u64) -> u32 {
    (word & IN_FLIGHT) as u32
}
