//! One server at run time: its connection count, its states, its health.
//!
//! Count and states share one atomic word, so that picking can test and count
//! in a single compare-and-swap: a server that was drained before the swap is
//! not picked after it, and a count never passes `max_conns`.

use std::time::Instant;

use crate::{
    Address, AdminState,
    health::{ActivePolicy, Availability, Health, PassivePolicy},
    sync::{AtomicU64, Mutex, Ordering, lock},
    upstream::ServerId,
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
/// lock of `health` on each good connect to a healthy server.
const TROUBLED: u64 = 1 << 36;

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
    address: Address,
    health: Mutex<Health>,
    connections: AtomicU64,
    connect_failures: AtomicU64,
    #[cfg(feature = "tokio")]
    pub(crate) resolved: crate::net::resolve::Resolved,
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
    ) -> Self {
        Self {
            word: AtomicU64::new(0),
            id,
            address,
            #[cfg(feature = "tokio")]
            resolved: crate::net::resolve::Resolved::default(),
            health: Mutex::new(Health::new(active, passive)),
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
            availability: lock(&self.health).availability(),
            connections: self.connections.load(Ordering::Relaxed),
            connect_failures: self.connect_failures.load(Ordering::Relaxed),
        }
    }

    /// Sets what the operator wants. Once this returns, a server in drain or
    /// maint is picked no more.
    pub fn set_admin(&self, state: AdminState) {
        let flags = match state {
            AdminState::Ready => 0,
            AdminState::Drain => DRAIN,
            AdminState::Maint => MAINT,
        };
        self.replace_flags(DRAIN | MAINT, flags);
    }

    /// A probe ended. Returns whether this changed [`ServerStatus::is_up`].
    pub fn probed(&self, success: bool) -> bool {
        self.with_health(|health| health.probed(success))
    }

    /// A connect failed. Returns whether this changed [`ServerStatus::is_up`].
    pub fn connect_failed(&self, now: Instant) -> bool {
        self.connect_failures.fetch_add(1, Ordering::Relaxed);
        self.with_health(|health| health.connect_failed(now))
    }

    /// A connect succeeded. Returns whether this changed [`ServerStatus::is_up`].
    pub fn connect_succeeded(&self) -> bool {
        self.connections.fetch_add(1, Ordering::Relaxed);
        if self.word.load(Ordering::Relaxed) & TROUBLED == 0 {
            return false;
        }
        self.with_health(Health::connect_succeeded)
    }

    /// Changes health and publishes what follows into the word. The lock is
    /// held while publishing: two changes at once must not cross.
    fn with_health(&self, change: impl FnOnce(&mut Health)) -> bool {
        let mut health = lock(&self.health);
        let before = health.availability() == Availability::Up;
        change(&mut health);
        let (flags, after) = match health.availability() {
            Availability::Up if health.is_troubled() => (TROUBLED, true),
            Availability::Up => (0, true),
            Availability::Ejected(_) => (EJECTED | TROUBLED, false),
            Availability::Down => (DOWN | TROUBLED, false),
        };
        self.replace_flags(DOWN | EJECTED | TROUBLED, flags);
        before != after
    }

    fn replace_flags(&self, mask: u64, flags: u64) {
        let mut word = self.word.load(Ordering::Relaxed);
        while let Err(seen) = self.word.compare_exchange_weak(
            word,
            (word & !mask) | flags,
            Ordering::AcqRel,
            Ordering::Relaxed,
        ) {
            word = seen;
        }
    }

    /// The word and the connections in flight, if the server may be picked at `now`.
    pub(crate) fn candidate(&self, now: Instant) -> Option<(u64, u32)> {
        let word = self.word.load(Ordering::Acquire);
        let in_flight = count(word);
        if word & CLOSED != 0 || in_flight == u32::MAX {
            return None;
        }
        if word & EJECTED != 0 && !lock(&self.health).trial_is_due(now) {
            return None;
        }
        Some((word, in_flight))
    }

    /// Takes over policies of a changed configuration.
    pub(crate) fn set_policies(&self, active: Option<ActivePolicy>, passive: PassivePolicy) {
        self.with_health(|health| health.set_policies(active, passive));
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
        let mut health = lock(&self.health);
        let acquired = health.trial_is_due(now) && count_one();
        if acquired {
            health.start_trial(now);
        }
        acquired
    }

    pub(crate) fn release(&self) {
        let before = self.word.fetch_sub(1, Ordering::AcqRel);
        debug_assert_ne!(count(before), 0, "a lease was released twice");
    }
}

const fn count(word: u64) -> u32 {
    (word & IN_FLIGHT) as u32
}
