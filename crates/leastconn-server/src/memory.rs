//! The memory budget of the process. Above it no connections are accepted, and connections
//! with the most buffered data are ended, before a failed allocation aborts the process.
//!
//! Usage is read from `/proc/self/statm`: at every sixteenth accepted connection, and on a
//! thread of its own, often enough that open connections cannot exhaust the rest meanwhile.
//! The allocator may keep freed memory and reuse it: buffers that connections have released
//! count as free (`Tracked`).
//!
//! Buffers for slow receivers grow faster than usage is read: thousands of receivers may
//! become slow at once. So they share an allowance, a part of the free memory, beyond which
//! buffers are small ([`relay::set_buffer_allowance`]).

mod limits;
mod shed;

use std::{
    fs::File,
    os::unix::fs::FileExt,
    sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
};

use leastconn::net::relay;
use parking_lot::{Mutex, MutexGuard};
use rustix::param::page_size;

use crate::config::MemoryLimit;
use limits::{Limit, Measure};

pub use limits::{read_cgroup, restart_with_one_arena};
pub(crate) use shed::{Watching, watch};

/// Number of accepted connections between two measurements.
const ACCEPTED: u32 = 16;

/// The memory budget.
#[derive(Debug)]
pub struct Budget {
    statm: Option<File>,
    tracked: Mutex<Vec<Tracked>>,
    is_exceeded: AtomicBool,
    accepted: AtomicU32,
    used: AtomicU64,
    limit: AtomicU64,
}

/// Used memory, and the limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// Bytes in use.
    pub used: u64,
    /// Bytes above which connections are refused.
    pub limit: u64,
}

/// A limit, and an estimate of freed memory that the allocator has kept.
#[derive(Clone, Copy, Debug)]
struct Tracked {
    limit: Limit,
    /// The last measurement.
    measured: u64,
    /// The most that connections have buffered, less what was returned to the kernel since.
    high: u64,
}

impl Tracked {
    const fn new(limit: Limit) -> Self {
        Self {
            limit,
            measured: 0,
            high: 0,
        }
    }

    /// Bytes in use, from the measured bytes and the bytes that connections buffer (`held`).
    fn update(&mut self, measured: u64, held: u64) -> u64 {
        let returned = self.measured.saturating_sub(measured);
        self.measured = measured;
        self.high = self.high.saturating_sub(returned).max(held);
        measured.saturating_sub(self.high - held)
    }
}

impl Budget {
    /// The budget of this process.
    pub fn new(configured: MemoryLimit) -> Self {
        let this = Self {
            statm: File::open("/proc/self/statm").ok(),
            tracked: Mutex::default(),
            is_exceeded: AtomicBool::new(false),
            accepted: AtomicU32::new(0),
            used: AtomicU64::new(0),
            limit: AtomicU64::new(0),
        };
        this.configure(configured);
        this
    }

    /// Applies a new configuration.
    pub fn configure(&self, configured: MemoryLimit) {
        let limits = limits::limits(configured).into_iter();
        *self.tracked() = limits.map(Tracked::new).collect();
        self.look();
    }

    /// Whether the limit is exceeded: connections are refused.
    pub fn is_exceeded(&self) -> bool {
        self.is_exceeded.load(Ordering::Relaxed)
    }

    /// Counts an accepted connection, and measures if it is due.
    pub fn connection_accepted(&self) {
        let so_far = self.accepted.fetch_add(1, Ordering::Relaxed);
        if so_far.is_multiple_of(ACCEPTED) {
            self.look();
        }
    }

    /// The last measurement; `None`: there is no limit.
    pub fn usage(&self) -> Option<Usage> {
        let limit = self.limit.load(Ordering::Relaxed);
        (limit > 0).then(|| Usage {
            used: self.used.load(Ordering::Relaxed),
            limit,
        })
    }

    /// Measures usage and updates the allowance.
    fn look(&self) -> Option<Usage> {
        let held = relay::buffered() as u64;
        let mut tracked = self.tracked();
        let usages = match self.statm() {
            Some(statm) => tracked
                .iter_mut()
                .map(|one| Usage {
                    used: one.update(statm.bytes(one.limit.measure), held),
                    limit: one.limit.bytes.max(1),
                })
                .collect(),
            None => Vec::new(),
        };
        // The limit with the least memory left.
        let tightest = usages
            .into_iter()
            .min_by_key(|usage| usage.limit.saturating_sub(usage.used));
        relay::set_buffer_allowance(tightest.map_or(usize::MAX, |usage| allowance(usage, held)));
        let over = tightest.is_some_and(|usage| usage.used > usage.limit);
        if self.is_exceeded.swap(over, Ordering::Relaxed) != over {
            let Usage { used, limit } = tightest.unwrap_or(Usage { used: 0, limit: 0 });
            if over {
                tracing::warn!(
                    used,
                    limit,
                    "memory limit reached: new connections are refused"
                );
            } else {
                tracing::info!(
                    used,
                    limit,
                    "memory is below the limit: connections are accepted"
                );
            }
        }
        let usage = tightest.unwrap_or(Usage { used: 0, limit: 0 });
        self.used.store(usage.used, Ordering::Relaxed);
        self.limit.store(usage.limit, Ordering::Relaxed);
        tightest
    }

    fn statm(&self) -> Option<Statm> {
        let mut text = [0; 128];
        let read = self.statm.as_ref()?.read_at(&mut text, 0).ok()?;
        Statm::parse(str::from_utf8(text.get(..read)?).ok()?, page_size() as u64)
    }

    fn tracked(&self) -> MutexGuard<'_, Vec<Tracked>> {
        self.tracked.lock()
    }
}

/// Three quarters of the memory that is free or already buffered by connections. The rest is
/// for small buffers and everything else.
fn allowance(usage: Usage, held: u64) -> usize {
    let besides = usage.used.saturating_sub(held);
    let free = usage.limit.saturating_sub(besides);
    usize::try_from(free / 4 * 3).unwrap_or(usize::MAX)
}

/// The memory of the process, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Statm {
    address_space: u64,
    resident: u64,
    data: u64,
}

impl Statm {
    /// Parses `/proc/self/statm`, which counts in pages.
    fn parse(text: &str, page: u64) -> Option<Self> {
        let pages = text
            .split_whitespace()
            .map(|pages| pages.parse::<u64>().ok());
        let all: Vec<u64> = pages.collect::<Option<_>>()?;
        let bytes = |n: usize| all.get(n).map(|pages| pages * page);
        Some(Self {
            address_space: bytes(0)?,
            resident: bytes(1)?,
            data: bytes(5)?,
        })
    }

    const fn bytes(&self, measure: Measure) -> u64 {
        match measure {
            Measure::AddressSpace => self.address_space,
            Measure::Resident => self.resident,
            Measure::Data => self.data,
        }
    }
}

#[cfg(test)]
mod tests;
