//! Limits and loads that come from outside this process, because other balancers use the same
//! server.
//!
//! **External load.** Picks compare this balancer's own connections plus the external load, which
//! has two parts: the connections that other balancers last reported, and an *echo*. The echo
//! estimates what the other balancers have sent to the server since then: each connection that is
//! picked here adds a fixed amount, until the next report resets it. Without the echo, all
//! balancers would send their connections to the server that was least loaded in the last report.
//!
//! **Slots.** If several balancers share the `max_conns` of a server, each of them holds some of
//! its slots. The number of connections must not exceed the slots held. The slots are not part of
//! the state word. After counting a connection, a pick therefore checks them again, and reverts the
//! count if slots were taken away in between. The count and [`Server::set_slots`] are
//! read-modify-write operations on the same word and are therefore ordered: if the count comes
//! first, `set_slots` returns a number that includes the connection; otherwise the second check
//! sees the new slots.
//!
//! Without external load and slots, the bit [`EXTERNAL`] of the state word is not set, and picks do
//! not read the fields of this module.

use std::time::Instant;

use super::{EXTERNAL, RESERVED, Server, SlotRequest, count, counting::Counting, stamp};
use crate::sync::{AtomicU64, Ordering};

/// Number of fractional bits of a load.
const FRACTION: u32 = 8;
/// Number of bits for the load. The higher bits hold the echo of one dial.
const LOAD_BITS: u32 = 48;
const LOAD: u64 = (1 << LOAD_BITS) - 1;
/// At or above this load, no echo is added, so that the load cannot overflow.
const LARGEST_LOAD: u64 = 1 << (LOAD_BITS - 1);
const MAX_ECHO: f64 = 8.0;

/// The external load of a server.
#[derive(Debug)]
pub(super) struct ExternalLoad {
    /// The load and the echo of one dial, both in units of 1/256 connection.
    packed: AtomicU64,
    /// The number of connections in the last report.
    connections: AtomicU64,
}

impl ExternalLoad {
    pub(super) fn none() -> Self {
        Self {
            packed: AtomicU64::new(0),
            connections: AtomicU64::new(0),
        }
    }

    fn set(&self, connections: u32, echo_per_dial: f64) {
        let unit = f64::from(1 << FRACTION);
        // The cast maps NaN to 0. The result is at most 2,048.
        let echo = (echo_per_dial.clamp(0.0, MAX_ECHO) * unit).round() as u64;
        let load = u64::from(connections) << FRACTION;
        self.packed
            .store(echo << LOAD_BITS | load, Ordering::Relaxed);
        self.connections
            .store(connections.into(), Ordering::Relaxed);
    }

    /// Adds the echo of a connection. If the load is reset concurrently, the previous report's echo
    /// may be used for this connection.
    fn add_echo(&self) {
        let packed = self.packed.load(Ordering::Relaxed);
        if packed & LOAD < LARGEST_LOAD {
            self.packed
                .fetch_add(packed >> LOAD_BITS, Ordering::Relaxed);
        }
    }

    /// Returns the load in connections, rounded to the nearest number.
    fn get(&self) -> u32 {
        let load = self.packed.load(Ordering::Relaxed) & LOAD;
        u32::try_from((load + (1 << (FRACTION - 1))) >> FRACTION).unwrap_or(u32::MAX)
    }

    fn is_none(&self) -> bool {
        self.packed.load(Ordering::Relaxed) == 0
    }
}

/// The slots of a server that this balancer holds; see [`Server::set_slots`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SlotGrant {
    /// Maximum number of concurrent connections.
    pub slots: u32,
    /// When the grant expires. From then on, the maximum is [`Self::expired_slots`]. `None`: the
    /// grant does not expire.
    pub expires: Option<Instant>,
    /// The maximum after the grant has expired.
    pub expired_slots: u32,
}

impl SlotGrant {
    /// Creates a grant that does not expire.
    pub const fn new(slots: u32) -> Self {
        Self {
            slots,
            expires: None,
            expired_slots: slots,
        }
    }

    /// Makes the grant expire at `time`, after which `slots` is the maximum. After being suspended,
    /// a balancer then does not use slots that were meanwhile given to other balancers.
    #[must_use]
    pub const fn expiring(self, time: Instant, slots: u32) -> Self {
        Self {
            expires: Some(time),
            expired_slots: slots,
            ..self
        }
    }
}

/// The slots held, in atomic variables.
#[derive(Debug)]
pub(super) struct HeldSlots {
    /// The slots before (lower half) and after (upper half) the grant expires. [`NO_LIMIT`]: slots
    /// do not limit the connections.
    slots: AtomicU64,
    /// The [`stamp`] of the time at which the grant expires.
    expires: AtomicU64,
    /// Number of failed picks that would have succeeded with another slot of this server.
    shortages: AtomicU64,
}

const NO_LIMIT: u64 = u64::MAX;

impl HeldSlots {
    pub(super) fn unlimited() -> Self {
        Self {
            slots: AtomicU64::new(NO_LIMIT),
            expires: AtomicU64::new(u64::MAX),
            shortages: AtomicU64::new(0),
        }
    }

    fn is_limited(&self) -> bool {
        self.slots.load(Ordering::Relaxed) != NO_LIMIT
    }
}

impl Server {
    /// Sets the load that other balancers cause on this server: the `connections` that they last
    /// reported. Until the next call, each connection that is picked here adds `echo_per_dial`
    /// connections to this load. `echo_per_dial` is limited to the range from 0 to 8 and rounded to
    /// 1/256.
    ///
    /// Algorithms that compare loads add the external load to this balancer's own connections. It
    /// does not count towards `max_conns`. If both arguments are zero, there is no external load.
    pub fn set_external_load(&self, connections: u32, echo_per_dial: f64) {
        self.external_load.set(connections, echo_per_dial);
        let is_flagged = self.word.load(Ordering::Relaxed) & EXTERNAL != 0;
        if is_flagged == self.external_load.is_none() {
            self.update_external_flag();
        }
    }

    /// Returns the load that other balancers cause, including the echo.
    pub fn external_load(&self) -> u32 {
        self.external_load.get()
    }

    /// Returns the number of connections that other balancers last reported.
    pub fn external_connections(&self) -> u32 {
        let connections = self.external_load.connections.load(Ordering::Relaxed);
        u32::try_from(connections).unwrap_or(u32::MAX)
    }

    /// Sets how many of the server's slots this balancer holds from `now` on. This is a maximum
    /// number of concurrent connections, in addition to `max_conns`. With `None`, which is the
    /// default, slots do not limit the connections. If there are more connections than the new
    /// maximum allows, none of them is closed. If the maximum grows, waiting connections are
    /// served.
    ///
    /// Returns the number of connections in flight. Any connection that is not included in this
    /// number respects the new maximum. Slots beyond both this number and the new maximum may
    /// therefore be given to other balancers.
    pub fn set_slots(&self, grant: Option<SlotGrant>, now: Instant) -> u32 {
        let expires = grant.and_then(|grant| grant.expires);
        let is_expired = expires.is_some_and(|time| now >= time);
        let expires = expires.map(|time| stamp(*self.epoch.get_or_init(|| now), time));
        let slots = grant.map(|grant| (grant.slots, grant.expired_slots));
        self.hold_slots(slots, expires, is_expired)
    }

    /// Sets the slots of a server that joins a pool.
    pub(crate) fn set_first_slots(&self, slots: u32) {
        self.hold_slots(Some((slots, slots)), None, false);
    }

    /// Sets the slots before and after `expires`, which is a [`stamp`].
    fn hold_slots(&self, slots: Option<(u32, u32)>, expires: Option<u64>, is_expired: bool) -> u32 {
        // The number of connections never reaches `u32::MAX`, so one less is the same limit.
        let number = |slots: u32| u64::from(slots.min(u32::MAX - 1));
        let packed = |slots, expired| number(expired) << 32 | number(slots);
        let at_first = slots.map_or(NO_LIMIT, |(slots, expired)| {
            let limit = if is_expired { expired } else { slots };
            packed(limit, limit)
        });
        let slots = slots.map_or(NO_LIMIT, |(slots, expired)| packed(slots, expired));
        let expires = expires.unwrap_or(u64::MAX);
        // The earlier slots must not be read with the new expiry: they may have expired. Until it
        // is stored, the slots do not depend on the expiry.
        let held = &self.held_slots;
        held.slots.store(at_first, Ordering::Release);
        held.expires.store(expires, Ordering::Release);
        held.slots.store(slots, Ordering::Release);
        let word = self.update_external_flag();
        if word & RESERVED != 0 {
            self.slot_freed();
        }
        count(word)
    }

    /// Returns the slots that this balancer holds at `now`, or `None` if slots do not limit the
    /// connections.
    pub fn slots(&self, now: Instant) -> Option<u32> {
        self.held_slots.is_limited().then(|| self.slot_limit(now))
    }

    /// Returns the number of failed picks since the server was created that would have succeeded if
    /// this balancer had held one more slot of this server.
    pub fn slot_shortages(&self) -> u64 {
        self.held_slots.shortages.load(Ordering::Relaxed)
    }

    pub(crate) fn add_slot_shortage(&self) {
        self.held_slots.shortages.fetch_add(1, Ordering::Relaxed);
    }

    /// Must be called after the external load or the slots have changed. Returns the previous word.
    /// Writes the word even if the flag stays the same, to ensure the order described above.
    fn update_external_flag(&self) -> u64 {
        self.update(|word| {
            if self.external_load.is_none() && !self.held_slots.is_limited() {
                word & !EXTERNAL
            } else {
                word | EXTERNAL
            }
        })
    }

    /// Returns the maximum number of connections that the slots allow.
    fn slot_limit(&self, now: Instant) -> u32 {
        let held = &self.held_slots;
        let mut slots = held.slots.load(Ordering::Acquire);
        let expires = loop {
            let expires = held.expires.load(Ordering::Acquire);
            // If the expiry is newer than the slots, this load returns newer slots.
            let newer = held.slots.load(Ordering::Acquire);
            if newer == slots {
                break expires;
            }
            slots = newer;
        };
        let is_expired = expires != u64::MAX
            && (self.epoch.get()).is_some_and(|&epoch| stamp(epoch, now) >= expires);
        (if is_expired { slots >> 32 } else { slots }) as u32
    }

    /// Whether the slots allow one more connection.
    pub(super) fn has_slot(&self, word: u64, now: Instant) -> bool {
        word & EXTERNAL == 0 || count(word) < self.slot_limit(now)
    }

    /// Whether the slots prevent another connection at `now`.
    pub(crate) fn lacks_slot(&self, now: Instant) -> bool {
        !self.has_slot(self.word.load(Ordering::Acquire), now)
    }

    pub(super) fn external_load_of(&self, word: u64) -> u32 {
        if word & EXTERNAL == 0 {
            0
        } else {
            self.external_load.get()
        }
    }

    /// Checks the slots again after a connection was counted on the word `seen`, and adds the echo.
    /// If the connection exceeds the slots, reverts the count.
    pub(super) fn confirm(&self, seen: u64, counting: Counting, now: Instant) -> Confirmed {
        if seen & EXTERNAL == 0 {
            return Confirmed::Yes;
        }
        let (counted, limit) = (count(seen) + 1, self.slot_limit(now));
        if counted > limit {
            let before = self.word.fetch_sub(counting.word(), Ordering::AcqRel);
            return Confirmed::Reverted {
                is_reserved: before & RESERVED != 0,
            };
        }
        self.external_load.add_echo();
        if counted == limit {
            self.request_slots(SlotRequest::Changed);
        }
        Confirmed::Yes
    }

    #[cold]
    pub(crate) fn request_slots(&self, request: SlotRequest) {
        if let Some(group) = self.group.upgrade() {
            group.request_slots(request);
        }
    }

    /// Called when a connection has ended; `before` is the state word before that. If the
    /// connection occupied a slot that is no longer held, the slot can be given away.
    pub(super) fn return_slot(&self, before: u64) {
        // The expiry is ignored, because the current time is not known here.
        let slots = self.held_slots.slots.load(Ordering::Relaxed) as u32;
        if count(before) > slots {
            self.request_slots(SlotRequest::Changed);
        }
    }
}

/// The result of [`Server::confirm`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Confirmed {
    Yes,
    /// The count was reverted. If slots are reserved for the queue, the queue must be served: the
    /// number of slots may have grown while the connection was counted.
    Reverted {
        is_reserved: bool,
    },
}

impl Confirmed {
    /// The connection is not counted.
    pub(super) const NO: Self = Self::Reverted { is_reserved: false };
}

#[cfg(test)]
mod tests;
