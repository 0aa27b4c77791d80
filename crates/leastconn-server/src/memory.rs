//! The memory budget of the process: above it no connections are accepted, and those that
//! hold the most buffered data are ended, before an allocation fails, which aborts the
//! process.
//!
//! Usage is read from `/proc/self/statm`: at every sixteenth accepted connection, and by a
//! thread of its own, often enough that open connections cannot use up the rest meanwhile.
//! Memory that was freed may stay with the allocator, which then takes no more from the
//! kernel: what connections hold less than before counts as free (`Tracked`).
//!
//! Buffers for slow receivers grow too fast for any look: thousands at once may turn slow.
//! So they have an allowance of their own, a part of what is free, beyond which buffers are
//! small ([`relay::set_buffer_allowance`]).

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

/// How many connections are accepted between two looks at the memory.
const ACCEPTED: u32 = 16;

/// The budget.
#[derive(Debug)]
pub struct Budget {
    statm: Option<File>,
    tracked: Mutex<Vec<Tracked>>,
    is_exceeded: AtomicBool,
    accepted: AtomicU32,
    used: AtomicU64,
    limit: AtomicU64,
}

/// What there is of memory, and how much of it is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// Bytes in use.
    pub used: u64,
    /// Bytes that may be, before connections are refused.
    pub limit: u64,
}

/// A limit, and what is known of memory that was freed and not returned to the kernel.
#[derive(Clone, Copy, Debug)]
struct Tracked {
    limit: Limit,
    /// As measured last.
    measured: u64,
    /// The most that connections held, less what was returned to the kernel since.
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

    /// Bytes in use, where so many were measured and connections hold `held`.
    fn update(&mut self, measured: u64, held: u64) -> u64 {
        let returned = self.measured.saturating_sub(measured);
        self.measured = measured;
        self.high = self.high.saturating_sub(returned).max(held);
        measured.saturating_sub(self.high - held)
    }
}

impl Budget {
    /// For this process.
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

    /// Applies another configuration.
    pub fn configure(&self, configured: MemoryLimit) {
        let limits = limits::limits(configured).into_iter();
        *self.tracked() = limits.map(Tracked::new).collect();
        self.look();
    }

    /// Whether connections are refused.
    pub fn is_exceeded(&self) -> bool {
        self.is_exceeded.load(Ordering::Relaxed)
    }

    /// A connection was accepted.
    pub fn connection_accepted(&self) {
        let so_far = self.accepted.fetch_add(1, Ordering::Relaxed);
        if so_far.is_multiple_of(ACCEPTED) {
            self.look();
        }
    }

    /// As of the last look; `None`: there is no limit.
    pub fn usage(&self) -> Option<Usage> {
        let limit = self.limit.load(Ordering::Relaxed);
        (limit > 0).then(|| Usage {
            used: self.used.load(Ordering::Relaxed),
            limit,
        })
    }

    /// Measures.
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
        // The one of which there is the least left.
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

/// What connections may hold, of what is free besides and what they hold already: three
/// quarters. The rest is for small buffers and for everything else.
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
    /// Of the text of `/proc/self/statm`, which counts in pages.
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
