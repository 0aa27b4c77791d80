//! Limits per client: how many connections a second, and how many at once.
//!
//! The rate is a token bucket in the form of GCRA: one time stamp per client,
//! the "theoretical arrival time" (TAT), up to which its past connections have
//! used up its rate. A connection conforms if that is at most `burst - 1`
//! intervals ahead of now. Time stamps have 32 binary places below the
//! nanosecond, so that a rate that does not divide a second (3, 7, 300,000)
//! keeps its exact count over days: from any moment on, `t` seconds admit at
//! most `burst + rate * t` connections, and a client that always asks gets them
//! all but one.
//!
//! A client is forgotten only when it has no connection open and its TAT has
//! passed: then its bucket is full, which is what a client never seen has. So
//! forgetting gives nobody a fresh burst. The table has a fixed capacity; when
//! it is full of clients that may not be forgotten yet, strangers are refused,
//! and those in it are served as before.
//!
//! Cost: one uncontended lock and one hash look-up for a connection, and about
//! 150 bytes for a client while it is remembered.
//!
//! Source: ITU-T I.371 (GCRA); nginx issue and Envoy issues 14664 and 27853 for
//! what users miss elsewhere: limits per certificate.

use std::{
    collections::{HashMap, hash_map::RandomState},
    hash::BuildHasher,
    num::NonZeroU32,
    time::{Duration, Instant},
};

use crate::{
    Reason,
    sync::{Arc, AtomicU64, Mutex, Ordering, lock},
    upstream::ClientId,
};

/// Fractions of a nanosecond in a time stamp.
const FRACTION_BITS: u32 = 32;

/// New connections a second, and how many may come at once.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RateLimit {
    /// Time that one connection uses up, in 2^-32 ns.
    interval: u128,
    burst: NonZeroU32,
    per_second: f64,
}

impl RateLimit {
    /// `per_second` connections on average and `burst` at once. `None` unless
    /// the rate is between one in 11 days (1e-6) and 1e9.
    pub fn new(per_second: f64, burst: NonZeroU32) -> Option<Self> {
        // The bounds keep interval times burst well within 128 bits, and
        // refuse NaN.
        if !(1e-6..=1e9).contains(&per_second) {
            return None;
        }
        // Whole rates, which is what people write, are divided as integers: a
        // double has not enough digits to be exact over days.
        let second = 1_000_000_000_u128 << FRACTION_BITS;
        let interval = if per_second.fract() == 0.0 {
            second / (per_second as u128)
        } else {
            (second as f64 / per_second) as u128
        };
        Some(Self {
            interval,
            burst,
            per_second,
        })
    }

    /// Connections a second.
    pub const fn per_second(&self) -> f64 {
        self.per_second
    }

    /// Connections that may come at once.
    pub const fn burst(&self) -> NonZeroU32 {
        self.burst
    }

    /// The TAT after one more connection at `now`, or how long to wait for one.
    fn conform(&self, tat: u128, now: u128) -> Result<u128, u128> {
        let tat = tat.max(now);
        let tolerance = self.interval * u128::from(self.burst.get() - 1);
        match (tat - now).checked_sub(tolerance) {
            None | Some(0) => Ok(tat + self.interval),
            Some(wait) => Err(wait),
        }
    }
}

/// What one client may do. The default: everything.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Limits {
    /// New connections a second.
    pub rate: Option<RateLimit>,
    /// Connections at once.
    pub max_conns: Option<NonZeroU32>,
}

/// A client was not admitted. Nothing was counted against it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// Faster than its rate.
    #[error(
        "the client opens connections faster than its rate limit; the next is admitted in {retry_after:?}"
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
}

#[derive(Debug, Default)]
struct Shard {
    clients: HashMap<ClientId, Entry>,
    /// Entries to admit before idle ones are looked for again: a sweep costs
    /// the size of the shard, so it must not come with each admission.
    until_sweep: usize,
}

#[derive(Debug)]
struct Entry {
    /// Up to when the past connections have used up the rate, since `epoch`.
    tat: u128,
    /// Connections open. Shared with the permits.
    open: Arc<AtomicU64>,
}

impl Entry {
    fn is_idle(&self, now: u128) -> bool {
        self.tat <= now && self.open.load(Ordering::Acquire) == 0
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

/// Few enough to sweep quickly, enough that cores rarely meet.
const SHARDS: usize = 64;

impl Limiter {
    /// A table for up to about `capacity` clients that are not idle. `epoch`
    /// must not be later than any `now` given later.
    pub fn new(capacity: usize, epoch: Instant) -> Self {
        Self::with_shards(capacity, epoch, SHARDS)
    }

    fn with_shards(capacity: usize, epoch: Instant, shards: usize) -> Self {
        Self {
            epoch,
            hasher: RandomState::new(),
            shards: (0..shards).map(|_| Mutex::new(Shard::default())).collect(),
            shard_capacity: capacity.div_ceil(shards).max(1),
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
        let now = stamp(now.saturating_duration_since(self.epoch));
        let shard = self.hasher.hash_one(client) as usize % self.shards.len();
        let mut shard = lock(&self.shards[shard]);
        if !shard.clients.contains_key(client) {
            shard.make_room(self.shard_capacity, now)?;
        }
        let known = shard.clients.get(client);
        let open = known.map_or(0, |entry| entry.open.load(Ordering::Acquire));
        if limits
            .max_conns
            .is_some_and(|max| open >= u64::from(max.get()))
        {
            return Err(Refusal::TooManyConnections);
        }
        let tat = known.map_or(0, |entry| entry.tat);
        let tat = match &limits.rate {
            None => tat,
            Some(rate) => rate
                .conform(tat, now)
                .map_err(|wait| Refusal::RateLimited {
                    retry_after: duration(wait),
                })?,
        };
        let entry = shard
            .clients
            .entry(client.clone())
            .or_insert_with(|| Entry {
                tat,
                open: Arc::new(AtomicU64::new(0)),
            });
        entry.tat = tat;
        entry.open.fetch_add(1, Ordering::AcqRel);
        Ok(Permit(Arc::clone(&entry.open)))
    }

    /// Connections that `client` has open.
    pub fn open(&self, client: &ClientId) -> u64 {
        let shard = self.hasher.hash_one(client) as usize % self.shards.len();
        lock(&self.shards[shard])
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
    /// Call it now and then (each minute); correctness does not depend on it.
    pub fn forget_idle(&self, now: Instant) {
        let now = stamp(now.saturating_duration_since(self.epoch));
        for shard in &self.shards {
            let mut shard = lock(shard);
            shard.sweep(now);
            if shard.clients.capacity() > 4 * shard.clients.len().max(16) {
                shard.clients.shrink_to_fit();
            }
        }
    }
}

impl Shard {
    fn make_room(&mut self, capacity: usize, now: u128) -> Result<(), Refusal> {
        if self.clients.len() < capacity {
            return Ok(());
        }
        if self.until_sweep > 0 {
            self.until_sweep -= 1;
            return Err(Refusal::TableFull);
        }
        self.sweep(now);
        if self.clients.len() < capacity {
            return Ok(());
        }
        // In vain: under a flood of strangers, look again only every so often.
        self.until_sweep = capacity / 8;
        Err(Refusal::TableFull)
    }

    fn sweep(&mut self, now: u128) {
        self.clients.retain(|_, entry| !entry.is_idle(now));
        self.until_sweep = 0;
    }
}

fn stamp(since_epoch: Duration) -> u128 {
    since_epoch.as_nanos() << FRACTION_BITS
}

fn duration(stamp: u128) -> Duration {
    let nanos = stamp.div_ceil(1 << FRACTION_BITS);
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

#[cfg(all(test, not(loom)))]
#[path = "limit/tests.rs"]
mod tests;
