//! Per-client limits: the rate of new connections and the number of concurrent connections.
//!
//! The rate limit is a token bucket; see [`RateLimit`]. In any period of `t` seconds, at most
//! `burst + rate * t` connections from a client are admitted. A client that starts with an unused
//! burst and retries continuously gets more than `burst + rate * t - 1` connections. Refused
//! connections use no tokens.
//!
//! A client is forgotten only when it has no open connections and its bucket is full. This is also
//! the state of an unknown client, so forgetting a client does not grant it another burst. The
//! table has a fixed capacity. While the table is full, a limiter made with [`Limiter::new`]
//! refuses unknown clients and serves known clients as before. A limiter made with
//! [`Limiter::forgetful`] makes room instead: it forgets clients without connections early, in the
//! order in which their buckets become full.
//!
//! Several balancers can share the limits of their clients; see [`Limiter::admit_shared`].
//!
//! Cost: one uncontended lock and one or two hash lookups per connection. A remembered client takes
//! about 240 bytes, or about 500 bytes if its limits are shared.
//!
//! Envoy issues 14664 and 27853 request limits per client certificate.

mod changes;
mod rate;
mod share;
mod shared_client;

use std::{
    collections::{HashMap, hash_map::RandomState},
    hash::BuildHasher,
    num::NonZeroU32,
    time::{Duration, Instant},
};

pub use changes::Change;
use changes::{Changes, Source};
use rate::Bucket;
pub use rate::RateLimit;
pub use share::{FleetUsage, Sharing};
use shared_client::{OpenCount, SharedClient};
pub use shared_client::{Pending, UsageReport};

use crate::{
    Reason, ShortDuration,
    deadline::nanos_since,
    spec::ClientId,
    sync::{Arc, Mutex},
};

/// The limits of one client. By default, there are none.
///
/// ```
/// use std::num::NonZeroU32;
///
/// use leastconn::{Limits, RateLimit};
///
/// let burst = NonZeroU32::new(20).expect("not zero");
/// let limits = Limits::default()
///     .rate(RateLimit::new(10.0, burst))
///     .max_conns(NonZeroU32::new(100));
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Limits {
    /// Maximum rate of new connections. `None`: unlimited.
    pub rate: Option<RateLimit>,
    /// Maximum number of concurrent connections. `None`: unlimited.
    pub max_conns: Option<NonZeroU32>,
}

impl Limits {
    /// Sets the rate of new connections.
    #[must_use]
    pub fn rate(mut self, rate: impl Into<Option<RateLimit>>) -> Self {
        self.rate = rate.into();
        self
    }

    /// Sets the maximum number of concurrent connections.
    #[must_use]
    pub fn max_conns(mut self, max_conns: impl Into<Option<NonZeroU32>>) -> Self {
        self.max_conns = max_conns.into();
        self
    }

    fn is_unlimited(&self) -> bool {
        *self == Self::default()
    }

    /// Returns limits that allow nothing that either `self` or `other` does not allow.
    fn lower(self, other: Self) -> Self {
        Self {
            rate: lower(self.rate, other.rate, RateLimit::lower),
            max_conns: lower(self.max_conns, other.max_conns, Ord::min),
        }
    }
}

/// Combines two limits, of which `None` is no limit.
fn lower<T>(one: Option<T>, other: Option<T>, lower: impl FnOnce(T, T) -> T) -> Option<T> {
    match (one, other) {
        (Some(one), Some(other)) => Some(lower(one, other)),
        (one, other) => one.or(other),
    }
}

/// Why a client was not admitted. The refused attempt does not count against the client's limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// The client exceeds its connection rate.
    #[error(
        "the client opens connections faster than its rate limit; the next is admitted in {}",
        ShortDuration(*.retry_after)
    )]
    RateLimited {
        /// Time until the next connection would be admitted.
        retry_after: Duration,
    },
    /// The client has reached its maximum number of concurrent connections.
    #[error("the client has reached its maximum number of concurrent connections")]
    TooManyConnections,
    /// The table has no room for another client.
    #[error("the table of clients is full")]
    TableFull,
}

impl Refusal {
    /// Returns the reason code of the refusal.
    pub const fn reason(&self) -> Reason {
        match self {
            Self::RateLimited { .. } => Reason::RateLimited,
            Self::TooManyConnections => Reason::TooManyConnections,
            Self::TableFull => Reason::Overloaded,
        }
    }
}

/// Enforces rate and concurrency limits for all clients, in bounded memory.
#[derive(Debug)]
pub struct Limiter {
    epoch: Instant,
    hasher: RandomState,
    shards: Box<[Mutex<Shard>]>,
    shard_capacity: usize,
    when_full: WhenFull,
    changes: Arc<Changes<SharedClient>>,
}

/// How to treat an unknown client while the table is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum WhenFull {
    Refuse,
    ForgetEarly,
}

#[derive(Debug, Default)]
struct Shard {
    clients: HashMap<ClientId, Entry>,
    /// Earliest time of the next sweep, in nanoseconds since `epoch`.
    next_sweep: u64,
}

#[derive(Debug, Default)]
struct Entry {
    bucket: Bucket,
    /// Each of the client's permits holds a reference to this count.
    open: Arc<OpenCount>,
    /// Set as soon as limits are shared. The entry's own bucket is then unused.
    shared: Option<Arc<SharedClient>>,
}

/// A changed client that is not yet in the queue of clients to report.
type Unmarked = (Arc<SharedClient>, Change);

impl Entry {
    /// Returns the state of a client whose limits are shared.
    fn share(&mut self, limiter: &Limiter, client: &ClientId, now: u64) -> &Arc<SharedClient> {
        self.shared.get_or_insert_with(|| {
            let bucket = std::mem::take(&mut self.bucket);
            let open = Arc::clone(&self.open);
            let (id, changes) = (client.clone(), &limiter.changes);
            let shared = SharedClient::new(id, limiter.epoch, open, changes, bucket, now);
            let shared = Arc::new(shared);
            self.open.attach(&shared);
            shared
        })
    }

    /// See [`Limiter::admit_shared`]. After releasing the shard's lock, the caller must
    /// [mark](SharedClient::mark) the returned change.
    fn admit_shared(
        &mut self,
        limiter: &Limiter,
        client: &ClientId,
        limits: &Limits,
        sharing: Sharing,
        now: u64,
    ) -> Result<(Admission, Option<Unmarked>), Refusal> {
        if self.shared.is_none() && limits.is_unlimited() {
            let permit = self.admit(limits, now)?;
            return Ok((Admission::Admitted(permit), None));
        }
        let shared = self.share(limiter, client, now);
        let (admission, change) = shared.admit(limits, sharing, now)?;
        Ok((admission, Some((Arc::clone(shared), change))))
    }

    fn admit(&mut self, limits: &Limits, now: u64) -> Result<Permit, Refusal> {
        // Until the increment below, other threads can only decrease the count: only admissions
        // increase it, and they hold the shard's lock.
        let open = self.open.get();
        if limits
            .max_conns
            .is_some_and(|max| open >= u64::from(max.get()))
        {
            return Err(Refusal::TooManyConnections);
        }
        if let Some(rate) = &limits.rate {
            self.bucket
                .take(rate, now)
                .map_err(|retry_after| Refusal::RateLimited { retry_after })?;
        }
        Ok(Permit::new(&self.open))
    }

    fn is_idle(&self, now: u64) -> bool {
        self.bucket.is_full(now)
            && self.open.get() == 0
            && self
                .shared
                .as_ref()
                .is_none_or(|shared| shared.is_idle(now))
    }

    /// Returns the time at which the bucket will be full, or `None` if the client is in use.
    fn unused_full_at(&self, now: u64) -> Option<u64> {
        if self.open.get() > 0 {
            return None;
        }
        match &self.shared {
            Some(shared) => shared.full_at(now),
            None => Some(self.bucket.full_at()),
        }
    }

    fn forget(&self) {
        if let Some(shared) = &self.shared {
            shared.detach();
        }
    }
}

/// Proof that a connection was admitted. The connection counts against the client's limit until the
/// permit is dropped.
#[must_use = "the connection counts only while the permit is held"]
#[derive(Debug)]
pub struct Permit(Arc<OpenCount>);

impl Permit {
    fn new(open: &Arc<OpenCount>) -> Self {
        open.open();
        Self(Arc::clone(open))
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// The result of [`Limiter::admit_shared`].
#[derive(Debug)]
#[must_use = "the connection counts only while the permit is held"]
pub enum Admission {
    /// The connection is admitted.
    Admitted(Permit),
    /// The client is near a limit, so the store has to decide.
    Ask(Pending),
}

/// Maximum number of shards: enough to make lock contention rare.
const MAX_SHARDS: usize = 64;

/// Minimum capacity of a shard if there are several. Clients are distributed by hash, so with many
/// small shards, some would be full long before the table is.
const MIN_SHARD: usize = 1024;

/// When clients are forgotten early, `1 / EARLY_FRACTION` of a shard's clients are removed
/// together, so that passes over the whole shard are rare.
const EARLY_FRACTION: usize = 16;

/// Minimum time between two sweeps of a full shard, in nanoseconds per client in the shard. It is
/// about a hundred times the cost of checking one client. During a flood of unknown clients, sweeps
/// therefore use at most one percent of a core.
const SWEEP_INTERVAL_PER_CLIENT: u64 = 1_000;

impl Limiter {
    /// Creates a table for about `capacity` clients, not counting idle ones. `epoch` must not be
    /// later than any `now` that is passed to the other methods.
    pub fn new(capacity: usize, epoch: Instant) -> Self {
        Self::with(capacity, epoch, WhenFull::Refuse)
    }

    /// Creates a table that never refuses a client for lack of room.
    ///
    /// To make room, the table forgets clients without connections before their buckets are full.
    /// Such a client gets another burst when it returns. Clients with connections are always kept,
    /// so the number of clients can exceed `capacity`.
    pub fn forgetful(capacity: usize, epoch: Instant) -> Self {
        Self::with(capacity, epoch, WhenFull::ForgetEarly)
    }

    fn with(capacity: usize, epoch: Instant, when_full: WhenFull) -> Self {
        let shards = (capacity / MIN_SHARD).clamp(1, MAX_SHARDS);
        Self {
            epoch,
            hasher: RandomState::new(),
            shards: (0..shards).map(|_| Mutex::new(Shard::default())).collect(),
            shard_capacity: capacity.div_ceil(shards).max(1),
            when_full,
            changes: Arc::default(),
        }
    }

    /// Sets a function that is called whenever there are new [`Self::usage_reports`]. It must
    /// neither block nor call the limiter.
    #[must_use]
    pub fn on_change(mut self, on_change: impl Fn(Change) + Send + Sync + 'static) -> Self {
        self.changes = Arc::new(Changes::new(Box::new(on_change)));
        self
    }

    /// Admits one connection of `client` under `limits`, or refuses it.
    ///
    /// The limits may differ from call to call. Open connections and tokens that the client used
    /// under earlier limits still count.
    ///
    /// # Errors
    /// If the client is over a limit, or the table is full.
    pub fn admit(
        &self,
        client: &ClientId,
        limits: &Limits,
        now: Instant,
    ) -> Result<Permit, Refusal> {
        let now = self.stamp(now);
        let mut shard = self.shard(client).lock();
        if let Some(known) = shard.clients.get_mut(client) {
            return known.admit(limits, now);
        }
        shard.make_room(self.shard_capacity, self.when_full, now)?;
        let mut entry = Entry::default();
        let permit = entry.admit(limits, now)?;
        shard.clients.insert(client.clone(), entry);
        Ok(permit)
    }

    /// Admits one connection of `client` under `limits` that are shared with other balancers,
    /// refuses it, or makes it wait for the store's decision; see [`Sharing`].
    ///
    /// The caller must exchange [`Self::usage_reports`] with a store that all balancers use. A
    /// waiting connection should wait only briefly, then use [`Pending::decide_alone`]. Clients
    /// without limits are not reported.
    ///
    /// # Errors
    /// If the client is over a limit, or the table is full.
    pub fn admit_shared(
        &self,
        client: &ClientId,
        limits: &Limits,
        sharing: Sharing,
        now: Instant,
    ) -> Result<Admission, Refusal> {
        let now = self.stamp(now);
        let mut shard = self.shard(client).lock();
        let (admission, changed) = if let Some(known) = shard.clients.get_mut(client) {
            known.admit_shared(self, client, limits, sharing, now)?
        } else {
            shard.make_room(self.shard_capacity, self.when_full, now)?;
            let mut entry = Entry::default();
            let admitted = entry.admit_shared(self, client, limits, sharing, now)?;
            shard.clients.insert(client.clone(), entry);
            admitted
        };
        drop(shard);
        if let Some((shared, change)) = changed {
            shared.mark(change);
        }
        Ok(admission)
    }

    /// Reports the open connections of `client` that were admitted before its limits were shared.
    pub fn share_open(&self, client: &ClientId, limits: &Limits, now: Instant) {
        let now = self.stamp(now);
        let mut shard = self.shard(client).lock();
        let known = shard.clients.get_mut(client);
        let Some(entry) = known.filter(|entry| entry.open.get() > 0) else {
            return;
        };
        if limits.is_unlimited() || entry.shared.is_some() {
            return;
        }
        let shared = Arc::clone(entry.share(self, client, now));
        shared.set_limits(limits);
        drop(shard);
        shared.mark(Change::Usage);
    }

    /// Takes the usage reports that the store does not have yet, for up to `max` clients. Clients
    /// with waiting connections come first. Open connections that have not changed are reported
    /// again after 20 seconds.
    pub fn usage_reports(&self, max: usize, now: Instant) -> Vec<UsageReport> {
        let now = self.stamp(now);
        let mut reports = Vec::new();
        while reports.len() < max
            && let Some((source, client)) = self.changes.pop(now)
        {
            match source {
                Source::Changed(change) => {
                    client.unmark(change);
                    reports.extend(client.report(false, now));
                }
                Source::Reported => {
                    let repeat = client.keep_repeating(now);
                    reports.extend(client.report(repeat, now));
                    if repeat {
                        self.changes.push_reported(client, now);
                    }
                }
            }
        }
        self.changes.notify_if_left();
        reports
    }

    /// Reports all open connections again. Call this when the store may have lost them.
    pub fn repeat_reports(&self, now: Instant) {
        self.changes.repeat_all(self.stamp(now));
    }

    /// Decides about all waiting connections that are not yet in a report, using the share of one
    /// of `members` balancers. Call this when the store does not answer, in addition to
    /// [`UsageReport::unanswered`].
    pub fn unanswered(&self, members: NonZeroU32, now: Instant) {
        for client in self.changes.clients_that_ask() {
            client.decide_all_alone(members, now);
        }
    }

    /// Ends sharing: from now on, [`Self::admit`] enforces the limits. Connections that this
    /// balancer has admitted still count.
    pub fn stop_sharing(&self, now: Instant) {
        for shard in &self.shards {
            let shared = |entry: &Entry| entry.shared.clone();
            let clients: Vec<_> = shard.lock().clients.values().filter_map(shared).collect();
            for client in clients {
                client.decide_all_alone(NonZeroU32::MIN, now);
            }
            for entry in shard.lock().clients.values_mut() {
                if let Some(shared) = entry.shared.take() {
                    entry.bucket = shared.detach();
                }
            }
        }
        self.changes.clear();
    }

    /// Returns the number of open connections of `client`.
    pub fn open(&self, client: &ClientId) -> u64 {
        self.shard(client)
            .lock()
            .clients
            .get(client)
            .map_or(0, |entry| entry.open.get())
    }

    /// Returns the number of clients in the table. Idle clients count until they are forgotten.
    pub fn len(&self) -> usize {
        self.shards
            .iter()
            .map(|shard| shard.lock().clients.len())
            .sum()
    }

    /// Whether the table is empty.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Forgets the clients that are idle at `now` and releases their memory. Call this
    /// periodically, for example every minute. As long as the table is not full, the call does not
    /// change any later decision.
    pub fn forget_idle(&self, now: Instant) {
        let now = self.stamp(now);
        for shard in &self.shards {
            let mut shard = shard.lock();
            shard.sweep(now);
            if shard.clients.capacity() > 4 * shard.clients.len().max(16) {
                shard.clients.shrink_to_fit();
            }
        }
    }

    fn shard(&self, client: &ClientId) -> &Mutex<Shard> {
        &self.shards[self.hasher.hash_one(client) as usize % self.shards.len()]
    }

    /// Returns the nanoseconds since `epoch`.
    fn stamp(&self, now: Instant) -> u64 {
        nanos_since(self.epoch, now)
    }
}

impl Shard {
    fn make_room(&mut self, capacity: usize, when_full: WhenFull, now: u64) -> Result<(), Refusal> {
        if self.clients.len() >= capacity && now >= self.next_sweep {
            self.sweep(now);
            if when_full == WhenFull::ForgetEarly && self.clients.len() >= capacity {
                let excess = self.clients.len() - capacity;
                self.forget_early(excess + capacity.div_ceil(EARLY_FRACTION), now);
            }
            // If early forgetting has made room, the next sweep may start as soon as the shard is
            // full again.
            if self.clients.len() >= capacity || when_full == WhenFull::Refuse {
                let interval = SWEEP_INTERVAL_PER_CLIENT.saturating_mul(capacity as u64);
                self.next_sweep = now.saturating_add(interval);
            }
        }
        if self.clients.len() >= capacity && when_full == WhenFull::Refuse {
            return Err(Refusal::TableFull);
        }
        Ok(())
    }

    /// Forgets up to `count` clients without connections, in the order in which their buckets
    /// become full.
    fn forget_early(&mut self, count: usize, now: u64) {
        let mut times: Vec<u64> = self
            .clients
            .values()
            .filter_map(|entry| entry.unused_full_at(now))
            .collect();
        let Some(last) = count.min(times.len()).checked_sub(1) else {
            return;
        };
        let (_, &mut latest, _) = times.select_nth_unstable(last);
        let mut remaining = count;
        self.clients.retain(|_, entry| {
            let full_at = entry.unused_full_at(now);
            let forget = remaining > 0 && full_at.is_some_and(|time| time <= latest);
            if forget {
                remaining -= 1;
                entry.forget();
            }
            !forget
        });
    }

    fn sweep(&mut self, now: u64) {
        self.clients.retain(|_, entry| {
            let forget = entry.is_idle(now);
            if forget {
                entry.forget();
            }
            !forget
        });
    }
}

#[cfg(test)]
mod fixtures;
#[cfg(test)]
mod tests;
