//! Closes the connections to servers in `maint` after the grace period.

use std::{mem, time::Duration};

use jiff::Timestamp;
use leastconn::{ServerId, UpstreamId};
use tokio::{task, time::sleep};

use super::{ConnectionFilter, Overrides};

/// Retry interval for closing connections that were still dialling when the grace ended.
pub(super) const RETRY_INTERVAL: Duration = Duration::from_millis(200);

/// The scheduled close of all connections to a server in `maint`. Dropping it cancels the close.
#[derive(Debug)]
pub(super) struct PendingClose {
    /// The end of the grace period.
    pub(super) at: Timestamp,
    /// `None` while the predecessor still closes the connections.
    pub(super) task: Option<task::AbortHandle>,
}

impl Drop for PendingClose {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

/// Closes the connections to a server in `maint` after `grace`. Repeats this until no connections
/// are left, because a connection that is being opened can be closed only once it is open.
pub(super) async fn close_connections(
    overrides: Overrides,
    key: (UpstreamId, ServerId),
    grace: Duration,
) {
    sleep(grace).await;
    let (upstream, server) = &key;
    let filter = ConnectionFilter::to(&key);
    let mut is_first = true;
    loop {
        {
            // Under the lock the state cannot change. If it changed before, this task was
            // aborted, but may still run until its next await.
            let active = overrides.lock();
            let value = active.servers.get(&key);
            let task = value.and_then(|value| value.pending_close.as_ref()?.task.as_ref());
            if task.is_none_or(|task| Some(task.id()) != task::try_id()) {
                return;
            }
            // Forward the kill to predecessors once. After a handover, the successor forwards it.
            if mem::take(&mut is_first) && active.ensure_active().is_ok() {
                overrides.forward_kill(&filter);
            }
            let closed = overrides.kill_local(&filter);
            if closed > 0 {
                tracing::info!(%upstream, %server, killed = closed, "maint grace ended: connections closed");
            }
        }
        let found = overrides
            .snapshots
            .load()
            .server(upstream.as_str(), server.as_str());
        if found.is_none_or(|server| server.in_flight() == 0) {
            return;
        }
        sleep(RETRY_INTERVAL).await;
    }
}
