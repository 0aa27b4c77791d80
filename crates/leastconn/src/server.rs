//! A server at run time: its connection count, states and health.
//!
//! The connection count and the states share one atomic word, the state word. A pick therefore
//! checks the states and increases the count in a single compare-and-swap. A server that was set to
//! drain before the compare-and-swap is not picked, and the count never exceeds `max_conns`.

#[cfg(feature = "tokio")]
pub(crate) mod address_cache;
mod agent;
mod counting;
mod external;
mod group;
mod health_change;
mod outage;
mod picking;
mod recent_failures;
mod weight;

use std::{
    sync::{OnceLock, Weak},
    time::{Duration, Instant},
};

#[cfg(feature = "tokio")]
pub(crate) use address_cache::AddressCache;
pub use agent::AgentChange;
pub(crate) use counting::{Counting, DialLimit};
pub use external::SlotGrant;
use external::{ExternalLoad, HeldSlots};
pub(crate) use group::{ServerGroup, Slots};
pub use group::{SlotRequest, SlotSource};
use health_change::HealthChange;
#[cfg(feature = "tokio")]
use health_change::Transition;
use outage::{Cause, Condition, Success};
pub use outage::{Failure, Outage};
pub(crate) use picking::Candidate;
use recent_failures::RecentFailures;

use crate::{
    Address,
    agent::AgentState,
    balance::{
        fnv1a,
        slow_start::{FULL_SHARE, Ramp},
    },
    deadline::nanos_since,
    health::{ActivePolicy, Availability, Health, PassivePolicy, Siblings},
    spec::{AdminState, ServerId},
    sync::{AtomicU64, Mutex, Ordering},
    weight::WeightOverride,
};

/// Mask of the number of connections in flight, which is the lower half of the state word.
const IN_FLIGHT: u64 = 0xffff_ffff;
/// An operator has set the server to drain: it gets no new connections.
const DRAIN: u64 = 1 << 32;
/// An operator has set the server to maintenance: it gets no connections.
const MAINT: u64 = 1 << 33;
/// The server is down because health checks failed.
const DOWN: u64 = 1 << 34;
/// The server is ejected because connects failed. While other servers are available, an
/// ejected server is picked only for a trial connection; see [`Server::try_acquire`].
const EJECTED: u64 = 1 << 35;
/// `condition` contains a failure that a successful connect must clear. If this bit is not set, a
/// successful connect does not take the lock of `condition`.
const TROUBLED: u64 = 1 << 36;
/// The server is in slow start if the pool has slow start enabled. The first pick that could choose
/// the server starts the ramp; see [`crate::balance::slow_start`].
const RAMPING: u64 = 1 << 37;
/// The server was dialled while no server was available. The bit is cleared when the server is up
/// again.
const DIALLED_UNAVAILABLE: u64 = 1 << 38;
/// There may have been failed connects or early failures in the last second; see
/// [`Server::recent_failures`].
const FAILED_RECENTLY: u64 = 1 << 39;
/// The weight in effect is zero: the server gets no new connections.
const ZERO_WEIGHT: u64 = 1 << 40;
/// The server's agent has set it to drain or maintenance.
const AGENT_NOT_READY: u64 = 1 << 41;
/// Connections are waiting for this server. Its free slots are reserved for them: other picks do
/// not choose the server, and a connection that ends on it serves the queue; see
/// [`crate::pool::queue`].
const RESERVED: u64 = 1 << 42;
/// There is external load, or slots limit the number of connections; see [`external`].
const EXTERNAL: u64 = 1 << 43;
/// Position of the number of dials in progress, which is stored in the highest 20 bits of the word.
/// Dials are counted only for pools that limit them.
const CONNECTING_SHIFT: u32 = 44;
const CONNECTING: u64 = u64::MAX << CONNECTING_SHIFT;

/// The server was deliberately taken out of service, so it is not dialled even if no server is
/// available.
const OUT_OF_SERVICE: u64 = DRAIN | MAINT | ZERO_WEIGHT | AGENT_NOT_READY;

const CLOSED: u64 = OUT_OF_SERVICE | DOWN;
/// Maximum number of connections in flight on one server, a power of two. It ensures that the
/// number of dials in progress cannot overflow.
const MAX_IN_FLIGHT: u32 = 1 << (u64::BITS - CONNECTING_SHIFT - 1);
/// One of these bits is set once [`MAX_IN_FLIGHT`] is reached.
const TOO_MANY_IN_FLIGHT: u64 = IN_FLIGHT & !(MAX_IN_FLIGHT as u64 - 1);

/// A server of a [`Pool`](crate::Pool), with its connection count, health and counters.
///
/// A server is shared by the pool, the pool's successor and [`Lease`](crate::Lease)s. It exists
/// until the last of these owners is dropped, even if it is no longer a member of any pool.
#[derive(Debug)]
pub struct Server {
    word: AtomicU64,
    external_load: ExternalLoad,
    held_slots: HeldSlots,
    id: ServerId,
    /// Hash of the name, for [`Balance::SourceHash`](crate::Balance::SourceHash).
    name_hash: u64,
    address: Address,
    condition: Mutex<Condition>,
    /// The group that contains the upstream's servers. Dangling once all pools of the upstream are
    /// dropped.
    group: Weak<ServerGroup>,
    /// The start of the ramp in nanoseconds since `epoch`, plus one. Zero: the ramp has not
    /// started. Used only while [`RAMPING`] is set.
    ramp_start: AtomicU64,
    epoch: OnceLock<Instant>,
    recent_failures: Mutex<RecentFailures>,
    connections: AtomicU64,
    connect_failures: AtomicU64,
    weight_override: Mutex<Option<WeightOverride>>,
    early_failures: AtomicU64,
    agent: Mutex<AgentState>,
    #[cfg(feature = "tokio")]
    pub(crate) addresses: AddressCache,
    /// When the last completed probe started.
    #[cfg(feature = "tokio")]
    pub(crate) last_probe: Mutex<Option<Instant>>,
}

/// A snapshot of a server's state, for status pages and metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ServerStatus {
    /// Number of connections that are being dialled or open.
    pub in_flight: u32,
    /// The state set by an operator.
    pub admin: AdminState,
    /// The state set by the server's agent.
    pub agent_admin: AdminState,
    /// The state according to health checks and connects.
    pub availability: Availability,
    /// Whether the weight in effect is zero; see [`Pool::set_weight`](crate::Pool::set_weight).
    pub has_zero_weight: bool,
    /// Number of successful connects since the server was created.
    pub connections: u64,
    /// Number of failed connects since the server was created.
    pub connect_failures: u64,
    /// Number of connections since the server was created that the server ended within
    /// [`EARLY`](crate::health::EARLY) without having sent a byte.
    pub early_failures: u64,
    /// Number of dials in progress. Counted only if the pool
    /// [limits](crate::PoolBuilder::max_connecting) them.
    pub connecting: u32,
    /// Number of connections that other balancers last reported; see [`Server::set_external_load`].
    pub external_connections: u32,
}

/// The progress of a server in slow start; see [`Pool::slow_start_of`](crate::Pool::slow_start_of).
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct SlowStart {
    /// The fraction of its share of new connections that the server may get: at least 0.1,
    /// and less than 1.
    pub share: f64,
    /// Time left until the server reaches its whole share. It starts to run with the first pick
    /// that could have chosen the server.
    pub remaining: Duration,
}

impl ServerStatus {
    /// Whether health checks and connects allow the server to be picked. The state set by an
    /// operator is disregarded.
    pub fn is_up(&self) -> bool {
        self.availability == Availability::Up
    }

    /// Whether the server gets new connections, provided that it is below its maximum.
    pub fn is_available(&self) -> bool {
        let ready = AdminState::Ready;
        let is_ready = self.admin == ready && self.agent_admin == ready;
        self.is_up() && is_ready && !self.has_zero_weight
    }
}

impl Server {
    pub(crate) fn new(
        id: ServerId,
        address: Address,
        active: Option<ActivePolicy>,
        passive: PassivePolicy,
        group: Weak<ServerGroup>,
    ) -> Self {
        Self {
            word: AtomicU64::new(0),
            external_load: ExternalLoad::none(),
            held_slots: HeldSlots::unlimited(),
            name_hash: fnv1a(id.as_str().as_bytes()),
            id,
            address,
            condition: Mutex::new(Condition::new(Health::new(active, passive))),
            group,
            ramp_start: AtomicU64::new(0),
            epoch: OnceLock::new(),
            recent_failures: Mutex::new(RecentFailures::default()),
            connections: AtomicU64::new(0),
            connect_failures: AtomicU64::new(0),
            weight_override: Mutex::new(None),
            early_failures: AtomicU64::new(0),
            agent: Mutex::new(AgentState::default()),
            #[cfg(feature = "tokio")]
            addresses: AddressCache::default(),
            #[cfg(feature = "tokio")]
            last_probe: Mutex::new(None),
        }
    }

    /// Returns the name, which is unique within the upstream.
    pub const fn id(&self) -> &ServerId {
        &self.id
    }

    /// Returns the address to which connections are opened.
    pub const fn address(&self) -> &Address {
        &self.address
    }

    /// Returns the number of connections that are being dialled or open.
    pub fn in_flight(&self) -> u32 {
        count(self.word.load(Ordering::Relaxed))
    }

    /// Returns a snapshot of the state.
    pub fn status(&self) -> ServerStatus {
        let word = self.word.load(Ordering::Relaxed);
        ServerStatus {
            in_flight: count(word),
            admin: match word & (DRAIN | MAINT) {
                0 => AdminState::Ready,
                DRAIN => AdminState::Drain,
                _ => AdminState::Maint,
            },
            agent_admin: self.agent.lock().admin,
            availability: self.condition.lock().health.availability(),
            has_zero_weight: word & ZERO_WEIGHT != 0,
            connections: self.connections.load(Ordering::Relaxed),
            connect_failures: self.connect_failures.load(Ordering::Relaxed),
            early_failures: self.early_failures.load(Ordering::Relaxed),
            connecting: connecting(word),
            external_connections: self.external_connections(),
        }
    }

    /// Sets the administrative state. After this method has returned, a server in drain or maint is
    /// no longer picked.
    ///
    /// If the pool has slow start enabled, slow start begins when a server changes from maint to
    /// ready, or from drain to ready while it has no connections. In both cases, the server may
    /// have been restarted.
    pub fn set_admin(&self, state: AdminState) {
        let flags = match state {
            AdminState::Ready => 0,
            AdminState::Drain => DRAIN,
            AdminState::Maint => MAINT,
        };
        self.set_service_flags(DRAIN | MAINT, flags, |word| {
            flags == 0 && (word & MAINT != 0 || (word & DRAIN != 0 && count(word) == 0))
        });
    }

    /// Returns when and why the server was ejected or went down. Returns `None` if the server is
    /// up, or if the failure was reported without an error ([`Self::probed`],
    /// [`Self::connect_failed`]).
    pub fn outage(&self) -> Option<Outage> {
        self.condition.lock().outage()
    }

    /// Records the result of a health check. Returns whether [`ServerStatus::is_up`] changed.
    pub fn probed(&self, success: bool) -> bool {
        let cause = if success {
            Cause::Success(Success::Probe)
        } else {
            Cause::Other
        };
        self.with_health(cause, |health, siblings| {
            health.probed(success, siblings);
        })
    }

    /// Records a failed health check. If the server is down afterwards, [`Self::outage`]
    /// returns the error. Returns whether [`ServerStatus::is_up`] changed.
    pub fn probe_failed(&self, failure: Failure<'_>) -> bool {
        self.with_health(Cause::Probe(failure), |health, siblings| {
            health.probed(false, siblings);
        })
    }

    /// Records a connect that began at `began` and failed at `now`. Returns whether
    /// [`ServerStatus::is_up`] changed.
    pub fn connect_failed(&self, began: Instant, now: Instant) -> bool {
        self.record_failed_connect(began, now, Cause::Other)
    }

    /// Like [`Self::connect_failed`], but takes an error. If the failure ejects the server,
    /// [`Self::outage`] returns this error.
    pub fn connect_failed_with(&self, began: Instant, now: Instant, failure: Failure<'_>) -> bool {
        self.record_failed_connect(began, now, Cause::Connect(failure))
    }

    fn record_failed_connect(&self, began: Instant, now: Instant, cause: Cause<'_>) -> bool {
        self.connect_failures.fetch_add(1, Ordering::Relaxed);
        self.add_recent_failure(now);
        self.with_health(cause, |health, siblings| {
            health.connect_failed(began, now, siblings);
        })
    }

    /// Returns the number of completed dials since the server was created, successful or not.
    pub fn dials(&self) -> u64 {
        let connections = self.connections.load(Ordering::Relaxed);
        connections + self.connect_failures.load(Ordering::Relaxed)
    }

    /// Records a successful connect. Returns whether [`ServerStatus::is_up`] changed.
    pub fn connect_succeeded(&self) -> bool {
        self.connections.fetch_add(1, Ordering::Relaxed);
        if !self.is_troubled() {
            return false;
        }
        let cause = Cause::Success(Success::Connect);
        self.with_health(cause, |health, _| health.connect_succeeded())
    }

    /// Records an early failure: at `now`, the server ended a connection within
    /// [`EARLY`](crate::health::EARLY) after it was established, without having sent a byte. For
    /// the next second, picks count the failure like an open connection. If the server is ejected,
    /// [`Self::outage`] returns the error in `failure`. Returns whether [`ServerStatus::is_up`]
    /// changed.
    pub fn failed_early(&self, established: Instant, now: Instant, failure: Failure<'_>) -> bool {
        self.early_failures.fetch_add(1, Ordering::Relaxed);
        self.add_recent_failure(now);
        self.with_health(Cause::Early(failure), |health, siblings| {
            health.failed_early(established, now, siblings);
        })
    }

    /// Records that the connection established at `established` did not fail early: the server sent
    /// a byte, or the connection lasted longer than [`EARLY`](crate::health::EARLY). Returns
    /// whether [`ServerStatus::is_up`] changed.
    pub fn served(&self, established: Instant) -> bool {
        let cause = Cause::Success(Success::Connection);
        self.is_troubled() && self.with_health(cause, |health, _| health.served(established))
    }

    /// Whether the server is not up or has failures that a success would clear.
    pub(crate) fn is_troubled(&self) -> bool {
        self.word.load(Ordering::Relaxed) & TROUBLED != 0
    }

    /// Whether the server is available, has accepted connections, and has no failures that a
    /// success would clear.
    fn serves(&self) -> bool {
        let word = self.word.load(Ordering::Relaxed);
        word & (CLOSED | EJECTED | TROUBLED) == 0 && self.connections.load(Ordering::Relaxed) > 0
    }

    fn add_recent_failure(&self, now: Instant) {
        let mut failures = self.recent_failures.lock();
        failures.add(now);
        self.update(|word| word | FAILED_RECENTLY);
    }

    /// Returns the number of failed connects and early failures in the last second.
    fn recent_failures(&self, now: Instant) -> u32 {
        let failures = self.recent_failures.lock();
        let count = failures.count(now);
        if count == 0 {
            self.update(|word| word & !FAILED_RECENTLY);
        }
        count
    }

    /// Changes the health while holding the lock of the server group. Without this lock, two
    /// servers could be ejected at the same time and exceed the maximum number of ejected servers.
    fn with_health(&self, cause: Cause<'_>, change: impl FnOnce(&mut Health, Siblings)) -> bool {
        match self.group.upgrade() {
            Some(group) => group.change(self, cause, change),
            None => {
                self.change_health(cause, |health| change(health, Siblings::new(1, 0)))
                    .is_up_changed
            }
        }
    }

    /// Changes the health and publishes the result in the state word. The lock is held until then,
    /// so that concurrent changes are published in order.
    fn change_health(&self, cause: Cause<'_>, change: impl FnOnce(&mut Health)) -> HealthChange {
        let mut condition = self.condition.lock();
        let health = &condition.health;
        let was = health.availability();
        let was_up = was == Availability::Up;
        let was_troubled = health.is_troubled();
        condition.change(cause, change);
        let health = &condition.health;
        let (flags, is_up) = match health.availability() {
            Availability::Up if health.is_troubled() => (TROUBLED, true),
            Availability::Up => (0, true),
            Availability::Ejected(_) => (EJECTED | TROUBLED, false),
            Availability::Down => (DOWN | TROUBLED, false),
        };
        let ramping = if is_up && !was_up {
            self.reset_ramp();
            RAMPING
        } else {
            0
        };
        let ended = if is_up { DIALLED_UNAVAILABLE } else { 0 };
        self.update(|word| (word & !(DOWN | EJECTED | TROUBLED | ended)) | flags | ramping);
        HealthChange {
            is_up_changed: was_up != is_up,
            #[cfg(feature = "tokio")]
            transition: Transition::between(was, health.availability()),
            recovered: was_troubled && !health.is_troubled(),
        }
    }

    /// Makes a server that has joined a running pool unavailable until its first successful probe.
    /// Has no effect if the server is not probed.
    pub(crate) fn require_probe(&self) {
        self.change_health(Cause::Other, Health::require_probe);
    }

    /// Applies the policies of a changed configuration.
    pub(crate) fn set_policies(&self, active: Option<ActivePolicy>, passive: PassivePolicy) {
        self.with_health(Cause::Other, |health, _| {
            health.set_policies(active, passive);
        });
    }

    /// Reuses a server that left its pool and is rejoining it while it still has connections. These
    /// connections still count, and its external load and slots still apply. All other state is
    /// reset.
    pub(crate) fn revive(&self, active: Option<ActivePolicy>, passive: PassivePolicy) {
        let mut condition = self.condition.lock();
        *condition = Condition::new(Health::new(active, passive));
        *self.recent_failures.lock() = RecentFailures::default();
        self.reset_ramp();
        self.set_weight_override(None);
        *self.agent.lock() = AgentState::default();
        self.update(|word| (word & (IN_FLIGHT | CONNECTING | RESERVED | EXTERNAL)) | RAMPING);
    }

    /// Whether the server is ready, not down and not ejected.
    pub(crate) fn is_available(&self) -> bool {
        self.word.load(Ordering::Acquire) & (CLOSED | EJECTED) == 0
    }

    /// Whether the server is ejected or down but not taken out of service. Such a server is picked
    /// only for a trial connection, or while no server is available.
    pub(crate) fn is_unhealthy(&self) -> bool {
        let word = self.word.load(Ordering::Acquire);
        word & OUT_OF_SERVICE == 0 && word & (DOWN | EJECTED) != 0
    }

    /// Whether the server is in maintenance according to an operator or its agent.
    #[cfg(feature = "tokio")]
    pub(crate) fn is_in_maint(&self) -> bool {
        self.is_in_operator_maint() || self.agent.lock().admin == AdminState::Maint
    }

    /// Whether an operator has set the server to maintenance.
    #[cfg(feature = "tokio")]
    pub(crate) fn is_in_operator_maint(&self) -> bool {
        self.word.load(Ordering::Acquire) & MAINT != 0
    }

    /// Whether the server is ready and not down. An ejected server counts as not down.
    pub(crate) fn is_not_down(&self) -> bool {
        self.word.load(Ordering::Acquire) & CLOSED == 0
    }

    /// Replaces the bits `mask` of the state word, which must be part of [`OUT_OF_SERVICE`], with
    /// `flags`. Also updates the panic state. Slow start begins if `begins_ramp` returns `true` for
    /// the previous word.
    fn set_service_flags(&self, mask: u64, flags: u64, begins_ramp: impl Fn(u64) -> bool) {
        if begins_ramp(self.word.load(Ordering::Relaxed)) {
            self.reset_ramp();
        }
        self.update(|word| {
            let ramping = if begins_ramp(word) { RAMPING } else { 0 };
            (word & !mask) | flags | ramping
        });
        if let Some(group) = self.group.upgrade() {
            group.refresh();
        }
    }

    /// Updates the state word with `to`, and returns the previous word.
    fn update(&self, to: impl Fn(u64) -> u64) -> u64 {
        let mut word = self.word.load(Ordering::Relaxed);
        while let Err(seen) =
            self.word
                .compare_exchange_weak(word, to(word), Ordering::AcqRel, Ordering::Relaxed)
        {
            word = seen;
        }
        word
    }
}

/// Slow start.
impl Server {
    /// Makes the next pick that could choose the server start a ramp.
    pub(crate) fn start_ramp(&self) {
        self.reset_ramp();
        self.update(|word| word | RAMPING);
    }

    /// Ends the ramp, so that the server has its whole share.
    pub(crate) fn end_ramp(&self) {
        self.update(|word| word & !RAMPING);
    }

    /// Like [`Self::end_ramp`], but does nothing if the state word has changed from `seen`.
    pub(crate) fn end_ramp_if_unchanged(&self, seen: u64) {
        let ended = seen & !RAMPING;
        // If the word has changed, a later pick ends the ramp.
        let _ = self
            .word
            .compare_exchange(seen, ended, Ordering::AcqRel, Ordering::Relaxed);
    }

    /// Clears the start of an earlier ramp. Must be called before [`RAMPING`] is set. Otherwise a
    /// pick could use the start of the earlier ramp.
    fn reset_ramp(&self) {
        self.ramp_start.store(0, Ordering::Relaxed);
    }

    /// Returns the progress of slow start at `now`, without starting or ending the ramp.
    /// Returns `None` if the server is not in slow start or cannot be picked.
    pub(crate) fn slow_start(&self, now: Instant, ramp: Ramp) -> Option<SlowStart> {
        let word = self.word.load(Ordering::Acquire);
        if word & (CLOSED | EJECTED) != 0 || word & RAMPING == 0 {
            return None;
        }
        let elapsed = match (self.epoch.get(), self.ramp_start.load(Ordering::Relaxed)) {
            (None, _) | (_, 0) => 0,
            (Some(&epoch), start) => stamp(epoch, now).saturating_sub(start),
        };
        let (share, remaining) = ramp.progress(elapsed)?;
        Some(SlowStart {
            share: f64::from(share) / f64::from(FULL_SHARE),
            remaining,
        })
    }

    /// Returns the share that the ramp has reached. Starts the ramp at the first call.
    /// Returns `None` if the ramp has ended.
    fn ramp_share(&self, now: Instant, ramp: Ramp) -> Option<u32> {
        let now = stamp(*self.epoch.get_or_init(|| now), now);
        let mut start = self.ramp_start.load(Ordering::Relaxed);
        if start == 0 && !ramp.is_none() {
            let started =
                self.ramp_start
                    .compare_exchange(0, now, Ordering::Relaxed, Ordering::Relaxed);
            start = started.err().unwrap_or(now);
        }
        ramp.share_after(now.saturating_sub(start))
    }
}

/// Returns the nanoseconds since `epoch`, plus one, so that zero can mean "never".
fn stamp(epoch: Instant, now: Instant) -> u64 {
    nanos_since(epoch, now).saturating_add(1)
}

const fn count(word: u64) -> u32 {
    (word & IN_FLIGHT) as u32
}

const fn connecting(word: u64) -> u32 {
    (word >> CONNECTING_SHIFT) as u32
}
