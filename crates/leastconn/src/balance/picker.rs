//! The interface between a pool and its balancing algorithm.

use std::{cmp::Ordering, time::Instant};

use super::{
    sample::mix64,
    slow_start::{FULL_SHARE, Ramp},
    source::Source,
};
use crate::{
    spec::Weight,
    sync::{self, AtomicU64},
};

pub(crate) trait Picker {
    /// Chooses an open server and counts the connection on it. Returns `None` if no server is open.
    ///
    /// Counting fails if another thread has changed the server since the choice. The algorithm must
    /// then choose again.
    fn pick<S: Servers>(&self, context: &PickContext<'_, S>) -> Option<Acquired>;
}

/// The servers that take part in one pick, in a fixed order. The pool implements this trait twice:
/// once for available servers, and once for the ejected and down servers that are dialled while no
/// server is available.
pub(crate) trait Servers {
    /// The number of servers, open or not.
    fn len(&self) -> usize;

    fn weight(&self, position: usize) -> Weight;

    /// Iterates over all servers in order. The item is `None` if the server is not open or is in
    /// slow start. Sets `ramping` to `true` if an open server is in slow start.
    ///
    /// This is the fast path: checking for slow start takes a single test per server. The method
    /// returns an iterator because access by position would need a bounds check per server.
    fn steady(&self, now: Instant, ramping: &mut bool) -> impl Iterator<Item = Option<Steady>>;

    /// Returns the server at `position` if it is open, even if it is in slow start.
    fn open(&self, position: usize, now: Instant, ramp: Ramp) -> Option<Open>;

    /// Ends the slow start of the server at `position`, unless the server's state word has
    /// changed from `seen`.
    fn end_ramp(&self, position: usize, seen: u64);

    /// Returns a hash of the name of the server at `position`.
    fn name_hash(&self, position: usize) -> u64;

    /// Counts a connection on the server at `position`, unless the server's state word has
    /// changed from `seen`. Returns whether the connection was counted.
    fn try_acquire(&self, position: usize, seen: u64, now: Instant) -> bool;
}

/// A server that could be picked and was not in slow start when it was read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Steady {
    pub(crate) load: Load,
    /// The state word of the server, for [`Servers::try_acquire`].
    pub(crate) word: u64,
}

/// The load and weight of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Load {
    /// Connections in flight, plus the failures of the last second, plus the external load.
    pub(crate) count: u32,
    pub(crate) weight: Weight,
}

impl Load {
    /// Compares the loads that two servers would have with one more connection each.
    pub(crate) fn compare(self, other: Self) -> Ordering {
        let weighed = |of: Self, by: Self| (u64::from(of.count) + 1) * u64::from(by.weight.get());
        weighed(self, other).cmp(&weighed(other, self))
    }

    /// Returns this load divided by `other`, in units of `1 / unit`. As in [`Self::compare`], both
    /// loads include one more connection.
    pub(crate) fn relative_to(self, other: Self, unit: u32) -> u64 {
        let weighed = |of: Self, by: Self| (u128::from(of.count) + 1) * u128::from(by.weight.get());
        let ratio = weighed(self, other) * u128::from(unit) / weighed(other, self);
        u64::try_from(ratio).unwrap_or(u64::MAX)
    }
}

/// A server that could be picked when it was read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Open {
    /// The state word of the server, for [`Servers::try_acquire`].
    pub(crate) word: u64,
    /// Connections in flight, plus the failures of the last second, plus the external load.
    pub(crate) load: u32,
    pub(crate) weight: Weight,
    /// The share that the server has reached in slow start, where [`FULL_SHARE`] is the whole
    /// share. `None`: the server is not in slow start.
    pub(crate) ramp: Option<u32>,
}

impl Open {
    /// The server's share of new connections relative to the other servers: its weight, reduced
    /// while the server is in slow start.
    pub(crate) fn share(self) -> u32 {
        let part = self.ramp.map_or(FULL_SHARE, |ramp| ramp.min(FULL_SHARE));
        u32::from(self.weight.get()) * part
    }
}

/// Proof that a connection has been counted on the server at `position`.
#[derive(Debug)]
#[must_use = "the connection was counted on the server"]
pub(crate) struct Acquired {
    position: usize,
}

impl Acquired {
    pub(crate) const fn position(&self) -> usize {
        self.position
    }
}

/// The input of a balancing algorithm.
#[derive(Debug)]
pub(crate) struct PickContext<'a, S> {
    pub(crate) servers: S,
    pub(crate) now: Instant,
    /// The source of the connection, if the caller has set one.
    pub(crate) source: Option<Source>,
    pub(crate) seeds: &'a Seeds,
    pub(crate) ramp: &'a Ramp,
    pub(crate) weights: &'a Weights,
}

/// The sum and maximum of the weights.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Weights {
    /// The sum over all servers of the pool, including servers that are not candidates.
    pub(crate) total: u64,
    /// The largest weight among the candidates.
    pub(crate) max: Weight,
}

impl<S: Servers> PickContext<'_, S> {
    /// Iterates over all servers in order. The item is `None` if the server is not open.
    pub(crate) fn all(&self) -> impl Iterator<Item = Option<Open>> {
        (0..self.servers.len()).map(|position| self.open(position))
    }

    pub(crate) fn open(&self, position: usize) -> Option<Open> {
        self.servers.open(position, self.now, *self.ramp)
    }

    pub(crate) fn next_seed(&self) -> u64 {
        self.seeds.next()
    }

    /// Counts the connection on the server at `position`. Returns `None` if the server's state
    /// word has changed from `word`.
    pub(crate) fn try_acquire(&self, position: usize, word: u64) -> Option<Acquired> {
        self.servers
            .try_acquire(position, word, self.now)
            .then_some(Acquired { position })
    }

    /// Calls `choose`, which returns the position of a server and the state word read from it, and
    /// then counts the connection on that server. Repeats both steps until counting succeeds or
    /// `choose` returns `None`.
    pub(crate) fn acquire_with(
        &self,
        mut choose: impl FnMut() -> Option<(usize, u64)>,
    ) -> Option<Acquired> {
        loop {
            let (position, word) = choose()?;
            if let Some(acquired) = self.try_acquire(position, word) {
                return Some(acquired);
            }
        }
    }
}

/// A sequence of random numbers shared by all threads.
#[derive(Debug)]
pub(crate) struct Seeds(AtomicU64);

impl Seeds {
    pub(crate) fn new(seed: u64) -> Self {
        Self(AtomicU64::new(seed))
    }

    pub(crate) fn next(&self) -> u64 {
        mix64(self.0.fetch_add(1, sync::Ordering::Relaxed), 0)
    }
}
