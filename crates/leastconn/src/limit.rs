//! Limits per client: how many connections a second, and how many at once.
//!
//! The rate is a token bucket, see [`RateLimit`]: from any moment on, `t` seconds
//! admit at most `burst + rate * t` connections, and a client that always asks
//! gets them all but one. A refused connection uses up nothing.
//!
//! A client is forgotten only when it has no connection open and its bucket is
//! full, which is what a client never seen has. So forgetting gives nobody a
//! fresh burst. The table has a fixed capacity. When it is full of clients that may
//! not be forgotten yet, strangers are refused, and those in it are served as before;
//! or, in a table made by [`Limiter::forgetful`], clients without connections are
//! forgotten early, those whose bucket is closest to full first.
//!
//! Cost: one uncontended lock and one or two hash look-ups for a connection,
//! and about 200 bytes for a client while it is remembered.
//!
//! Source: nginx issue and Envoy issues 14664 and 27853 for what users miss
//! elsewhere: limits per certificate.

mod rate;

use std::{
    collections::{HashMap, hash_map::RandomState},
    hash::BuildHasher,
    num::NonZeroU32,
    time::{Duration, Instant},
};

use rate::Bucket;
pub use rate::RateLimit;

use crate::{
    Reason, ShortDuration,
    spec::ClientId,
    sync::{Arc, AtomicU64, Mutex, Ordering, lock},
};

/// The limits of one client. The default: no limits.
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
    /// New connections per second. `None`: unlimited.
    pub rate: Option<RateLimit>,
    /// Concurrent connections. `None`: unlimited.
    pub max_conns: Option<NonZeroU32>,
}

impl Limits {
    /// Sets the rate of new connections.
    #[must_use]
    pub fn rate(mut self, rate: impl Into<Option<RateLimit>>) -> Self {
        self.rate = rate.into();
        self
    }

    /// Sets the maximum of concurrent connections.
    #[must_use]
    pub fn max_conns(mut self, max_conns: impl Into<Option<NonZeroU32>>) -> Self {
        self.max_conns = max_conns.into();
        self
    }
}

/// A client was not admitted. Nothing was counted against it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// Faster than its rate.
    #[error(
        "the client opens connections faster than its rate limit; the next is admitted in {}",
        ShortDuration(*.retry_after)
    )]
    RateLimited {
        /// When the next connection would be admitted.
        retry_after: Duration,
    },
    /// At its number of connections.
    #[error("the client has as many connections open as it may")]
    TooManyConnections,
    /// The table of clients is full of others.
    #[error("too many clients at once to keep count of")]
    TableFull,
}

impl Refusal {
    /// The stable code.
    pub const fn reason(&self) -> Reason {
        match self {
            Self::RateLimited { .. } => Reason::RateLimited,
            Self::TooManyConnections => Reason::TooManyConnections,
            Self::TableFull => Reason::Overloaded,
        }
    }
}

/// The table of all clients' buckets and counts.
#[derive(Debug)]
pub struct Limiter {
    epoch: Instant,
    hasher: RandomState,
    shards: Box<[Mutex<Shard>]>,
    shard_capacity: usize,
    when_full: WhenFull,
}

/// What a full table does about a client that it does not know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum WhenFull {
    Refuse,
    Forget,
}

#[derive(Debug, Default)]
struct Shard {
    clients: HashMap<ClientId, Entry>,
    /// When idle ones may be looked for again, since `epoch`.
    next_sweep: u64,
}

#[derive(Debug, Default)]
struct Entry {
    bucket: Bucket,
    /// Connections open. Shared with the permits.
    open: Arc<AtomicU64>,
}

impl Entry {
    fn admit(&mut self, limits: &Limits, now: u64) -> Result<Permit, Refusal> {
        // Only admissions add to it, and they hold the shard's lock: it can but
        // shrink until it is counted up below.
        let open = self.open.load(Ordering::Acquire);
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
        self.open.fetch_add(1, Ordering::AcqRel);
        Ok(Permit(Arc::clone(&self.open)))
    }

    fn is_idle(&self, now: u64) -> bool {
        self.bucket.is_full(now) && self.open.load(Ordering::Acquire) == 0
    }
}

/// Proof that a client was admitted: counts as one of its connections while it lives.
#[must_use = "the connection counts only while the permit is held"]
#[derive(Debug)]
pub struct Permit(Arc<AtomicU64>);

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Enough that cores rarely meet.
const MAX_SHARDS: usize = 64;

/// Clients in a shard, at least, where there is more than one: identities fall
/// into shards by chance, and in smaller ones chance would fill some long before
/// the table is full.
const MIN_SHARD: usize = 1024;

/// A full shard that forgets early forgets this part of its clients at a time, so that a
/// pass over all of them is rare.
const BATCH: usize = 16;

/// How long a shard rests between sweeps for room, for each client in it: a
/// hundred times of what looking at one takes. So a flood of strangers at a
/// table that is full costs a hundredth of a core.
const REST_PER_CLIENT: u64 = 1_000;

impl Limiter {
    /// A table for up to about `capacity` clients that are not idle. `epoch`
    /// must not be later than any `now` given later.
    pub fn new(capacity: usize, epoch: Instant) -> Self {
        Self::with(capacity, epoch, WhenFull::Refuse)
    }

    /// A table that never refuses a client for being full.
    ///
    /// It makes room by forgetting clients without connections whose bucket is not full
    /// yet: they may have another burst. Clients with connections stay, also beyond
    /// `capacity`.
    pub fn forgetful(capacity: usize, epoch: Instant) -> Self {
        Self::with(capacity, epoch, WhenFull::Forget)
    }

    fn with(capacity: usize, epoch: Instant, when_full: WhenFull) -> Self {
        let shards = (capacity / MIN_SHARD).clamp(1, MAX_SHARDS);
        Self {
            epoch,
            hasher: RandomState::new(),
            shards: (0..shards).map(|_| Mutex::new(Shard::default())).collect(),
            shard_capacity: capacity.div_ceil(shards).max(1),
            when_full,
        }
    }

    /// Admits one connection of `client` under `limits`, or refuses it.
    ///
    /// The limits come with each call, so changed ones hold from the next
    /// connection on, with the client's past kept.
    ///
    /// # Errors
    /// When the client is over a limit, or the table is full.
    pub fn admit(
        &self,
        client: &ClientId,
        limits: &Limits,
        now: Instant,
    ) -> Result<Permit, Refusal> {
        let now = self.stamp(now);
        let mut shard = lock(self.shard(client));
        if let Some(known) = shard.clients.get_mut(client) {
            return known.admit(limits, now);
        }
        shard.make_room(self.shard_capacity, self.when_full, now)?;
        let mut entry = Entry::default();
        let permit = entry.admit(limits, now)?;
        shard.clients.insert(client.clone(), entry);
        Ok(permit)
    }

    /// Connections that `client` has open.
    pub fn open(&self, client: &ClientId) -> u64 {
        lock(self.shard(client))
            .clients
            .get(client)
            .map_or(0, |entry| entry.open.load(Ordering::Acquire))
    }

    /// Clients that are remembered.
    pub fn len(&self) -> usize {
        self.shards
            .iter()
            .map(|shard| lock(shard).clients.len())
            .sum()
    }

    /// Whether no client is remembered.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Forgets the clients that are idle at `now`, and gives their memory back.
    /// Call it now and then (each minute); no decision depends on it while the
    /// table has room.
    pub fn forget_idle(&self, now: Instant) {
        let now = self.stamp(now);
        for shard in &self.shards {
            let mut shard = lock(shard);
            shard.sweep(now);
            if shard.clients.capacity() > 4 * shard.clients.len().max(16) {
                shard.clients.shrink_to_fit();
            }
        }
    }

    fn shard(&self, client: &ClientId) -> &Mutex<Shard> {
        &self.shards[self.hasher.hash_one(client) as usize % self.shards.len()]
    }

    /// Nanoseconds since the epoch.
    fn stamp(&self, now: Instant) -> u64 {
        let nanos = now.saturating_duration_since(self.epoch).as_nanos();
        u64::try_from(nanos).unwrap_or(u64::MAX)
    }
}

impl Shard {
    fn make_room(&mut self, capacity: usize, when_full: WhenFull, now: u64) -> Result<(), Refusal> {
        if self.clients.len() >= capacity && now >= self.next_sweep {
            self.sweep(now);
            if when_full == WhenFull::Forget && self.clients.len() >= capacity {
                self.forget_early(self.clients.len() - capacity + capacity.div_ceil(BATCH));
            }
            // With room made, the next sweep is due when that is used up, however soon.
            if self.clients.len() >= capacity || when_full == WhenFull::Refuse {
                let rest = REST_PER_CLIENT.saturating_mul(capacity as u64);
                self.next_sweep = now.saturating_add(rest);
            }
        }
        if self.clients.len() >= capacity && when_full == WhenFull::Refuse {
            return Err(Refusal::TableFull);
        }
        Ok(())
    }

    /// Forgets up to `count` clients without connections, those first whose buckets are
    /// full soonest.
    fn forget_early(&mut self, count: usize) {
        let unused = |entry: &Entry| entry.open.load(Ordering::Acquire) == 0;
        let mut times: Vec<u64> = self
            .clients
            .values()
            .filter(|entry| unused(entry))
            .map(|entry| entry.bucket.full_at())
            .collect();
        let Some(last) = count.min(times.len()).checked_sub(1) else {
            return;
        };
        let (_, &mut latest, _) = times.select_nth_unstable(last);
        let mut left = count;
        self.clients.retain(|_, entry| {
            let forget = left > 0 && entry.bucket.full_at() <= latest && unused(entry);
            left -= usize::from(forget);
            !forget
        });
    }

    fn sweep(&mut self, now: u64) {
        self.clients.retain(|_, entry| !entry.is_idle(now));
    }
}

#[cfg(test)]
mod tests;
