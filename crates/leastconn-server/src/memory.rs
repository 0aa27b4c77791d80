//! The memory budget of the process.
//!
//! While the budget is exceeded, no connections are accepted, and the connections with the most
//! buffered data are closed. This happens before an allocation fails, which would abort the
//! process.
//!
//! Usage is read from `/proc/self/statm`: on every sixteenth accepted connection, and by a
//! dedicated thread, often enough that open connections cannot use up the remaining memory between
//! two measurements. The allocator may keep freed memory and use it again before it asks the kernel
//! for more. So memory that connections have freed counts as free even if the kernel still counts
//! it as used ([`Tracked`]).
//!
//! Buffers for slow receivers can grow faster than memory is measured, because thousands of
//! receivers may become slow at the same time. So all buffers together have an allowance, which is
//! a part of the free memory. Once it is used up, buffers stay small
//! ([`relay::set_buffer_allowance`]).

mod limits;
mod shed;

use std::{
    fs::File,
    os::unix::fs::FileExt,
    sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
};

use leastconn::net::relay;
use leastconn_config::MemoryLimit;
use parking_lot::{Mutex, MutexGuard};
use rustix::param::page_size;

use limits::{Limit, Measure};

pub use limits::{read_cgroup, restart_with_one_arena};
pub(crate) use shed::{MemoryWatch, watch};

/// Connections accepted between two measurements.
const MEASURE_EVERY: u32 = 16;

/// The memory budget of the process. Queries are cheap, because measurements are cached.
#[derive(Debug)]
pub struct Budget {
    statm: Option<File>,
    tracked: Mutex<Vec<Tracked>>,
    is_exceeded: AtomicBool,
    accepted: AtomicU32,
    used: AtomicU64,
    limit: AtomicU64,
}

/// Memory in use and its limit, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    pub used: u64,
    /// While usage is above this, connections are refused.
    pub limit: u64,
}

/// A limit, and an estimate of the memory that was freed but not returned to the kernel.
#[derive(Clone, Copy, Debug)]
struct Tracked {
    limit: Limit,
    last_measured: u64,
    /// The maximum number of bytes that connections have held, minus the bytes that have been
    /// returned to the kernel since then.
    held_max: u64,
}

impl Tracked {
    const fn new(limit: Limit) -> Self {
        Self {
            limit,
            last_measured: 0,
            held_max: 0,
        }
    }

    /// Returns the bytes in use, given the measured bytes and the bytes that connections hold.
    fn update(&mut self, measured: u64, held: u64) -> u64 {
        let returned = self.last_measured.saturating_sub(measured);
        self.last_measured = measured;
        self.held_max = self.held_max.saturating_sub(returned).max(held);
        measured.saturating_sub(self.held_max - held)
    }
}

impl Budget {
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

    /// Applies a changed configuration.
    pub fn configure(&self, configured: MemoryLimit) {
        let limits = limits::limits(configured).into_iter();
        *self.tracked() = limits.map(Tracked::new).collect();
        self.measure();
    }

    /// Whether new connections must be refused.
    pub fn is_exceeded(&self) -> bool {
        self.is_exceeded.load(Ordering::Relaxed)
    }

    /// Counts an accepted connection, and measures memory on every sixteenth connection.
    pub fn connection_accepted(&self) {
        let accepted = self.accepted.fetch_add(1, Ordering::Relaxed);
        if accepted.is_multiple_of(MEASURE_EVERY) {
            self.measure();
        }
    }

    /// The last measurement; `None` without a limit.
    pub fn usage(&self) -> Option<Usage> {
        let limit = self.limit.load(Ordering::Relaxed);
        (limit > 0).then(|| Usage {
            used: self.used.load(Ordering::Relaxed),
            limit,
        })
    }

    /// Measures memory, updates the allowance of buffers, and logs when the limit is crossed.
    fn measure(&self) -> Option<Usage> {
        let held = relay::buffered() as u64;
        let mut tracked = self.tracked();
        let usages = match self.statm() {
            Some(statm) => tracked
                .iter_mut()
                .map(|tracked| Usage {
                    used: tracked.update(statm.bytes(tracked.limit.measure), held),
                    limit: tracked.limit.bytes.max(1),
                })
                .collect(),
            None => Vec::new(),
        };
        // The limit with the least memory left applies.
        let tightest = usages
            .into_iter()
            .min_by_key(|usage| usage.limit.saturating_sub(usage.used));
        relay::set_buffer_allowance(tightest.map_or(usize::MAX, |usage| allowance(usage, held)));
        let usage = tightest.unwrap_or(Usage { used: 0, limit: 0 });
        let is_over = tightest.is_some_and(|usage| usage.used > usage.limit);
        if self.is_exceeded.swap(is_over, Ordering::Relaxed) != is_over {
            let Usage { used, limit } = usage;
            if is_over {
                tracing::warn!(
                    used,
                    limit,
                    "memory limit reached: new connections are refused"
                );
            } else {
                tracing::info!(
                    used,
                    limit,
                    "memory below limit: new connections are accepted"
                );
            }
        }
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

/// The number of bytes that buffers may hold: three quarters of the memory that would be free
/// without buffers. The remaining quarter is for small buffers and all other uses.
fn allowance(usage: Usage, held: u64) -> usize {
    let other = usage.used.saturating_sub(held);
    let free = usage.limit.saturating_sub(other);
    usize::try_from(free / 4 * 3).unwrap_or(usize::MAX)
}

/// The memory of the process, in bytes, from `/proc/self/statm`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Statm {
    address_space: u64,
    resident: u64,
    data: u64,
}

impl Statm {
    /// Parses the text of `/proc/self/statm`, which counts in pages.
    fn parse(text: &str, page_size: u64) -> Option<Self> {
        let pages = text
            .split_whitespace()
            .map(|pages| pages.parse::<u64>().ok());
        let all: Vec<u64> = pages.collect::<Option<_>>()?;
        let bytes = |n: usize| all.get(n).map(|pages| pages * page_size);
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
