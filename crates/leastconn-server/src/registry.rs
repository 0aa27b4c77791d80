//! Open connections.
//!
//! Every accepted socket has a [`ConnectionHandle`] in the [`Registry`] until its
//! [`ConnectionGuard`] is dropped. Other tasks use the handle to list, meter and end the
//! connection.

mod handle;
mod peer;

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Instant,
};

use parking_lot::Mutex;
use tokio::sync::watch;

use crate::{reason_code::ReasonCode, telemetry::metrics::ListenerMetrics};

pub use handle::{ConnectionHandle, ConnectionState, Expired};
pub use peer::{DisplayAddress, UnixPeer};

/// Number of shards: enough that workers rarely contend for the same shard.
const SHARDS: usize = 16;

/// All open connections of the process.
#[derive(Debug)]
pub struct Registry {
    next_id: AtomicU64,
    open: AtomicUsize,
    /// Notified whenever `open` falls to zero.
    empty: watch::Sender<()>,
    shards: [Mutex<HashMap<u64, Arc<ConnectionHandle>>>; SHARDS],
}

/// Keeps a connection registered until it is dropped.
#[derive(Debug)]
pub struct ConnectionGuard {
    registry: Arc<Registry>,
    handle: Arc<ConnectionHandle>,
}

impl Default for Registry {
    fn default() -> Self {
        Self {
            next_id: AtomicU64::new(1),
            open: AtomicUsize::new(0),
            empty: watch::Sender::new(()),
            shards: Default::default(),
        }
    }
}

impl Registry {
    /// Adds a connection. `peer` is the address that the socket was accepted from.
    pub fn register(
        self: &Arc<Self>,
        listener: Arc<str>,
        metrics: Arc<ListenerMetrics>,
        peer: SocketAddr,
        opened: Instant,
    ) -> ConnectionGuard {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let handle = Arc::new(ConnectionHandle::new(id, listener, metrics, peer, opened));
        self.open.fetch_add(1, Ordering::AcqRel);
        self.with_shard(id, |shard| shard.insert(id, Arc::clone(&handle)));
        ConnectionGuard {
            registry: Arc::clone(self),
            handle,
        }
    }

    /// The number of open connections.
    pub fn open(&self) -> usize {
        self.open.load(Ordering::Acquire)
    }

    /// Handles of all open connections.
    pub fn list(&self) -> Vec<Arc<ConnectionHandle>> {
        let shards = self.shards.iter();
        shards
            .flat_map(|shard| {
                let shard = shard.lock();
                shard.values().cloned().collect::<Vec<_>>()
            })
            .collect()
    }

    /// Calls `visit` with each open connection. `visit` must be short, because connections of the
    /// same shard cannot be added or removed during the call.
    pub fn each(&self, mut visit: impl FnMut(&Arc<ConnectionHandle>)) {
        for shard in &self.shards {
            let shard = shard.lock();
            shard.values().for_each(&mut visit);
        }
    }

    /// Ends all connections. Returns how many had not already been ended.
    pub fn stop_all(&self, reason: ReasonCode) -> usize {
        let open = self.list();
        open.iter().filter(|handle| handle.stop(reason)).count()
    }

    /// Adds to the metrics the bytes that open connections have transferred since the last call.
    pub fn meter_traffic(&self) {
        self.each(|handle| handle.meter_traffic());
    }

    /// Waits until no connection is open.
    pub async fn wait_empty(&self) {
        let mut empty = self.empty.subscribe();
        while self.open() > 0 {
            // The sender lives as long as `self`.
            let _ = empty.changed().await;
        }
    }

    fn with_shard<T>(
        &self,
        id: u64,
        with: impl FnOnce(&mut HashMap<u64, Arc<ConnectionHandle>>) -> T,
    ) -> T {
        let shard = &self.shards[id as usize % SHARDS];
        with(&mut shard.lock())
    }
}

impl std::ops::Deref for ConnectionGuard {
    type Target = ConnectionHandle;

    fn deref(&self) -> &ConnectionHandle {
        &self.handle
    }
}

impl Drop for ConnectionGuard {
    fn drop(&mut self) {
        self.registry
            .with_shard(self.handle.id, |shard| shard.remove(&self.handle.id));
        if self.registry.open.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.registry.empty.send_replace(());
        }
    }
}

#[cfg(test)]
mod tests;
