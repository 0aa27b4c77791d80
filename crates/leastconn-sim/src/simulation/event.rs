//! Events in chronological order.

use std::{collections::BTreeMap, time::Duration};

use crate::workload::Arrival;

pub(super) type ConnectionId = u64;

#[derive(Debug)]
pub(super) enum Event {
    /// The connection at this position of the workload arrives.
    Arrival(usize),
    Reconnect(Arrival),
    /// A waiting connection tries again.
    Retry(ConnectionId),
    /// A connection has waited in the queue for the maximum time.
    QueueTimeout(ConnectionId),
    /// A balancer reports its counts and receives the counts of the other balancers.
    Exchange {
        balancer: usize,
    },
    /// A connect has succeeded or failed.
    Dialled(ConnectionId),
    /// The server sends the first byte of a connection.
    FirstByte(ConnectionId),
    End(ConnectionId),
    Probe {
        balancer: usize,
        server: usize,
    },
    Probed {
        balancer: usize,
        server: usize,
        success: bool,
    },
    /// The change at this position in the site's list of changes takes effect.
    Change(usize),
}

/// Pending events. Simultaneous events happen in insertion order.
#[derive(Debug, Default)]
pub(super) struct Events {
    /// By time and insertion number.
    pending: BTreeMap<(Duration, u64), Event>,
    added: u64,
}

impl Events {
    pub(super) fn add(&mut self, at: Duration, event: Event) {
        self.pending.insert((at, self.added), event);
        self.added += 1;
    }

    pub(super) fn next(&mut self) -> Option<(Duration, Event)> {
        let ((at, _), event) = self.pending.pop_first()?;
        Some((at, event))
    }
}
