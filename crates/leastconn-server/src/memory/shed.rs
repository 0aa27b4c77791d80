//! Ending the connections that hold the most buffered data.

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

use leastconn::{Reason, net::relay::MAX_BUFFERED};

use super::Budget;
use crate::registry::{ConnectionHandle, Registry};

/// Measuring interval while open connections cannot exhaust the remaining memory.
const SELDOM: Duration = Duration::from_millis(250);

/// Measuring interval while they can.
const OFTEN: Duration = Duration::from_millis(10);

/// Free a twentieth of the limit beyond it, so that it is not reached again at once.
const MARGIN: u64 = 20;

/// Ends the thread when dropped.
#[derive(Debug)]
pub(crate) struct Watching {
    _stop: SyncSender<()>,
}

/// Keeps connections within the budget, on a thread of its own: when memory is short, the
/// workers are busy.
///
/// # Errors
/// If there are no resources for a thread.
pub(crate) fn watch(budget: &Arc<Budget>, registry: &Arc<Registry>) -> io::Result<Watching> {
    let (stop, stopped) = sync_channel(0);
    let (budget, registry) = (Arc::downgrade(budget), Arc::downgrade(registry));
    let run = move || look_until(&stopped, &budget, &registry);
    thread::Builder::new()
        .name("memory".to_owned())
        .spawn(run)?;
    Ok(Watching { _stop: stop })
}

fn look_until(stopped: &Receiver<()>, budget: &Weak<Budget>, registry: &Weak<Registry>) {
    let mut pause = SELDOM;
    while stopped.recv_timeout(pause) == Err(RecvTimeoutError::Timeout) {
        let (Some(budget), Some(registry)) = (budget.upgrade(), registry.upgrade()) else {
            return;
        };
        pause = look(&budget, &registry);
    }
}

/// Measures once, and returns the time until the next measurement.
fn look(budget: &Budget, registry: &Registry) -> Duration {
    let is_near = |usage: &super::Usage| {
        let most = registry.open() as u64 * MAX_BUFFERED as u64;
        usage.used.saturating_add(most) > usage.limit
    };
    let Some(usage) = budget.look() else {
        return SELDOM;
    };
    if usage.used > usage.limit {
        let excess = usage.used - usage.limit + usage.limit / MARGIN;
        shed(registry, excess);
    }
    if is_near(&usage) { OFTEN } else { SELDOM }
}

/// Ends connections that hold `excess` bytes, the largest ones first.
fn shed(registry: &Registry, excess: u64) {
    let mut all: Vec<(u64, Arc<ConnectionHandle>)> = Vec::new();
    let mut freed = 0;
    registry.each(|handle| match handle.traffic.buffered() {
        0 => {}
        // Ended already: its memory is about to be freed.
        buffered if handle.is_stopped() => freed += buffered,
        buffered => all.push((buffered, Arc::clone(handle))),
    });
    all.sort_by_key(|(buffered, handle)| (Reverse(*buffered), handle.id));
    let mut ended = 0;
    for (buffered, handle) in all {
        if freed >= excess {
            break;
        }
        if handle.stop(Reason::Overloaded) {
            freed += buffered;
            ended += 1;
        }
    }
    if ended > 0 {
        tracing::warn!(
            connections = ended,
            bytes = freed,
            "memory limit reached: connections with the most buffered data ended"
        );
    }
}
