//! Closes the connections with the most buffered data while memory is above the limit.

use std::{
    cmp::Reverse,
    io,
    sync::{
        Arc, Weak,
        mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel},
    },
    thread,
    time::Duration,
};

use leastconn::net::relay::MAX_BUFFERED;

use super::Budget;
use crate::{
    reason_code::ReasonCode,
    registry::{ConnectionHandle, Registry},
};

/// Interval between measurements while memory would stay below the limit even if all open
/// connections filled their buffers.
const SLOW: Duration = Duration::from_millis(250);

/// Interval between measurements while open connections could exceed the limit by filling their
/// buffers.
const FAST: Duration = Duration::from_millis(10);

/// In addition to the excess, a twentieth of the limit is freed, so that the limit is not reached
/// again immediately.
const MARGIN: u64 = 20;

/// Keeps the measuring thread running until it is dropped.
#[derive(Debug)]
pub(crate) struct MemoryWatch {
    _stop: SyncSender<()>,
}

/// Keeps connections within the budget. Uses a dedicated thread, because the workers may be busy
/// when memory runs out.
///
/// # Errors
/// If the thread cannot be started.
pub(crate) fn watch(budget: &Arc<Budget>, registry: &Arc<Registry>) -> io::Result<MemoryWatch> {
    let (stop, stopped) = sync_channel(0);
    let (budget, registry) = (Arc::downgrade(budget), Arc::downgrade(registry));
    let run = move || run_until(&stopped, &budget, &registry);
    thread::Builder::new()
        .name("memory".to_owned())
        .spawn(run)?;
    Ok(MemoryWatch { _stop: stop })
}

fn run_until(stopped: &Receiver<()>, budget: &Weak<Budget>, registry: &Weak<Registry>) {
    let mut interval = SLOW;
    while stopped.recv_timeout(interval) == Err(RecvTimeoutError::Timeout) {
        let (Some(budget), Some(registry)) = (budget.upgrade(), registry.upgrade()) else {
            return;
        };
        interval = check(&budget, &registry);
    }
}

/// Measures once, closes connections if needed, and returns the time to the next check.
fn check(budget: &Budget, registry: &Registry) -> Duration {
    let is_near = |usage: &super::Usage| {
        let held_max = registry.open() as u64 * MAX_BUFFERED as u64;
        usage.used.saturating_add(held_max) > usage.limit
    };
    let Some(usage) = budget.measure() else {
        return SLOW;
    };
    if usage.used > usage.limit {
        let excess = usage.used - usage.limit + usage.limit / MARGIN;
        shed(registry, excess);
    }
    if is_near(&usage) { FAST } else { SLOW }
}

/// Closes connections until `excess` bytes are freed, starting with the connections that have the
/// most buffered data.
fn shed(registry: &Registry, excess: u64) {
    let mut all: Vec<(u64, Arc<ConnectionHandle>)> = Vec::new();
    let mut freed = 0;
    registry.each(|handle| match handle.traffic.buffered() {
        0 => {}
        // The connection is already closing: its memory is about to be freed.
        buffered if handle.is_stopped() => freed += buffered,
        buffered => all.push((buffered, Arc::clone(handle))),
    });
    all.sort_by_key(|(buffered, handle)| (Reverse(*buffered), handle.id));
    let mut closed = 0;
    for (buffered, handle) in all {
        if freed >= excess {
            break;
        }
        if handle.stop(ReasonCode::Overloaded) {
            freed += buffered;
            closed += 1;
        }
    }
    if closed > 0 {
        tracing::warn!(
            connections = closed,
            bytes = freed,
            "memory limit reached: connections with the most buffered data were closed"
        );
    }
}
